//! Where everything meets: the learner, the methods, and the runs that compare them.
//!
//! [`run`](run::run) carries out a [`Protocol`](protocol::Protocol) cell by cell and leaves a [`Record`](record::Record)
//! of each; [`report`] makes tables of them. [`learn`](learn::learn) adds one task to an adapter.
//!
//! A [`Learner`] owns a model, its optimizer and its schedule. A [`Method`] owns the learning step:
//! it reads a [`TaskView`] and batches, and decides what becomes of the learner's parameters.

pub mod adamw;
pub mod error;
pub mod learner;
pub mod methods;
pub mod schedule;
pub mod state;
pub mod task_view;

pub mod atomic;
pub mod check;
pub mod checkpoint;
pub mod codec;
pub mod embedded;
pub mod evaluate;
pub mod failure;
pub mod learn;
pub mod lock;
pub mod matrices;
pub mod perf;
pub mod pretrain;
pub mod process;
pub mod progress;
pub mod protocol;
pub mod record;
pub mod report;
pub mod reproduction;
pub mod run;
pub mod selftest;
pub mod signal;

pub use adamw::{AdamW, OptimizerConfig};
pub use error::{NonFinite, Quantity, SettingError};
pub use learner::{Accumulate, Counters, Learner, LearnerConfig, Metered};
pub use methods::{Method, MethodConfig, Regime};
pub use schedule::Schedule;
pub use state::{State, StateError};
pub use task_view::{MemoryOrder, Sampler, TaskView};
