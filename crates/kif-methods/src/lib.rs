#![doc = include_str!("../README.md")]
//!
//! # What is where
//!
//! A [`Learner`] owns a model, its optimizer and its schedule. A [`Method`] owns the learning step:
//! it reads a [`TaskView`] and batches, and decides what becomes of the learner's parameters.
//! [`MethodSpec`](methods::MethodSpec) is what it says of itself, [`TaskTraining`] takes it through
//! a task.

// A method's file says `kif_methods` for this crate, whether it lies inside or outside of it.
extern crate self as kif_methods;

mod adamw;
mod error;
mod learner;
pub mod methods;
mod schedule;
mod state;
mod task_training;
mod task_view;

pub use adamw::{AdamW, OptimizerConfig};
pub use error::{NonFinite, Quantity, SettingError, TooManyTasks, check_setting};
pub use learner::{Accumulate, Counters, Learner, LearnerConfig, Metered};
pub use methods::{Method, MethodConfig, Regime};
pub use schedule::Schedule;
pub use state::{State, StateError};
pub use task_training::{
    BatchOrder, StepOutcome, TaskDuration, TaskTraining, TrainingObserver, TrainingPlan,
};
pub use task_view::{MemoryOrder, Sampler, TaskView};
