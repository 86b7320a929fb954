//! Where everything meets: the learner, the methods, and the runs that compare them.
//!
//! A [`Learner`] owns a model, its optimizer and its schedule. A [`Method`](methods::Method) owns the learning step:
//! it reads a [`TaskView`] and batches, and decides what becomes of the learner's parameters.

pub mod adamw;
pub mod error;
pub mod learner;
pub mod methods;
pub mod schedule;
pub mod state;
pub mod task_view;

pub use adamw::{AdamW, OptimizerConfig};
pub use error::{NonFinite, Quantity, SettingError};
pub use learner::{Accumulate, Counters, Learner, LearnerConfig};
pub use methods::{Method, MethodConfig, Regime};
pub use schedule::Schedule;
pub use state::{State, StateError};
pub use task_view::{MemoryOrder, Sampler, TaskView};
