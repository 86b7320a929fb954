#![doc = include_str!("../README.md")]
//!
//! # What is where
//!
//! A [`Protocol`] is the file: names, and a struct of settings for each part of a run. It is read
//! from a built-in name or a path, changed by flags, then checked. What follows from it, such as
//! the settings of one method for one seed, are functions of it. A [`Lock`](lock::Lock) has the
//! hashes of all files and the settings that results depend on, so that a run is never continued
//! with something else.

mod arch;
mod checking;
mod compute;
mod deriving;
mod error;
pub mod lock;
mod protocol;
mod reading;
mod settings;
mod template;

pub use arch::Arch;
pub use checking::known_methods;
pub use compute::{Compute, Device, Precision};
pub use error::ProtocolError;
pub use protocol::{Protocol, StreamSource};
pub use settings::{
    AdapterSettings, EvaluatedCells, EvaluationSettings, LimitSettings, MemorySettings, ScoreKind,
    TrainingSettings,
};
pub use template::TemplateSetting;
