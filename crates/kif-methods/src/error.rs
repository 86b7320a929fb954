//! What stops a run: a number that is not one.

use std::fmt;

/// Where a loss or gradient stopped being finite; the update it belonged to was not made.
#[derive(Clone, Debug, PartialEq)]
pub struct NonFinite {
    /// Name of the task.
    pub task: String,
    /// Learning step within the task, from 0: steps taken before this one.
    pub step: u64,
    /// What was not finite.
    pub quantity: Quantity,
    /// Its value.
    pub value: f64,
    /// The first parameter with a non-finite value or, failing that, a non-finite gradient.
    pub parameter: Option<String>,
}

/// The quantities that are looked at before an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantity {
    /// The mean loss of the batch.
    Loss,
    /// The gradient, before clipping.
    Gradient,
}

impl fmt::Display for NonFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quantity = match self.quantity {
            Quantity::Loss => "loss",
            Quantity::Gradient => "gradient",
        };
        write!(
            f,
            "{quantity} is {} at step {} of task {}",
            self.value, self.step, self.task
        )?;
        match &self.parameter {
            Some(name) => write!(f, ", first seen in parameter {name}")?,
            None => write!(f, "; all parameters and their gradients are finite")?,
        }
        write!(
            f,
            "; the update was not made (a lower learning rate or f32 precision may help)"
        )
    }
}

impl std::error::Error for NonFinite {}

/// A setting outside its range.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{field} is {value}, expected {expected}")]
pub struct SettingError {
    /// Name of the field, as it is written in a protocol.
    pub field: &'static str,
    /// Its value.
    pub value: String,
    /// What would be right.
    pub expected: &'static str,
}

/// A task beyond those that the model was loaded for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("task {task} is number {number} of its stream, and {room}")]
pub struct TooManyTasks {
    /// Name of the task.
    pub task: String,
    /// Its number in the stream, from 1.
    pub number: usize,
    /// For how many tasks there is room, as part of a sentence.
    pub room: String,
}

/// `Ok` if `holds`; otherwise the error that names the field.
pub fn check_setting(
    holds: bool,
    field: &'static str,
    value: impl fmt::Display,
    expected: &'static str,
) -> Result<(), SettingError> {
    if holds {
        Ok(())
    } else {
        Err(SettingError {
            field,
            value: value.to_string(),
            expected,
        })
    }
}
