//! What a method says of itself, beside its settings.

use kif_model::ParamLayout;

use super::{Method, Parts};
use crate::error::SettingError;

/// What is known of a method by its settings alone: one implementation beside each settings type.
///
/// A settings type without fields is written by its name alone in protocols and records.
pub trait MethodSpec {
    /// All settings that have a name. The first is what the file's name means.
    fn presets() -> Vec<Self>
    where
        Self: Sized;

    /// Its name in records, reports and on the command line.
    fn name(&self) -> &'static str;

    /// One line for tables and help.
    fn summary(&self) -> &'static str;

    /// Whether every setting is in its range.
    fn check(&self) -> Result<(), SettingError> {
        Ok(())
    }

    /// What it trains in a stream of `n_tasks`.
    fn parts(&self, n_tasks: usize) -> Parts {
        let _ = n_tasks;
        Parts::default()
    }

    /// The peak learning rate among its settings, for methods that train what wants another rate
    /// than LoRA. It goes before the run's, and gives way to one that the run has for this method
    /// alone.
    fn peak_rate(&self) -> Option<f64> {
        None
    }

    /// How a run presents the stream to it.
    fn regime(&self) -> Regime {
        Regime::Stream
    }

    /// Whether it needs what only a stream has: something kept of earlier tasks beside parameters
    /// and memory, or the number of tasks; or whether it trains something else than one LoRA. A
    /// single task on top of an adapter cannot be learned with it.
    fn needs_stream(&self) -> bool {
        self.regime() != Regime::Stream || self.parts(2) != Parts::default()
    }

    /// Whether it reads the rows kept of earlier tasks: they are then part of what it keeps.
    fn keeps_memory(&self) -> bool {
        false
    }

    /// Steps that it adds to every step on the task once there is a memory, as their cost in passes
    /// forward and backward. It only matters for the time left.
    fn added_steps(&self) -> f64 {
        0.0
    }

    /// Takes the memory's loss whole, where it is divided by a number of micro-batches: for
    /// programs that accumulate nothing.
    fn without_accumulation(&mut self) {}

    /// The method, ready for the first task of a model with this layout. Settings must have passed
    /// [`check`](Self::check).
    fn build(&self, layout: &ParamLayout) -> Box<dyn Method>;
}

/// Cost of a pass that only goes forward, in passes forward and backward.
pub const FORWARD_ONLY: f64 = 1.0 / 3.0;

/// How a run presents the stream to a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Regime {
    /// One task after the other, with one set of parameters.
    Stream,
    /// All tasks at once: one training, then the last row of the matrix.
    Joint,
    /// Every task from the initial parameters: the diagonal of the matrix.
    PerTask,
}
