//! Every task alone, from the initial adapter ("PerTaskFT"): the reference for forward transfer and intransigence.

use anyhow::Result;

use super::{Method, Regime};
use crate::learner::Learner;
use crate::task_view::TaskView;

/// Plain steps from the initial parameters.
#[derive(Default)]
pub(super) struct PerTask {
    /// Bytes of the adapters of the tasks before this one.
    kept_bytes: u64,
}

impl Method for PerTask {
    fn begin_task(&mut self, learner: &mut Learner, task: &TaskView) -> Result<()> {
        self.kept_bytes = (task.index * size_of_val(learner.params())) as u64;
        learner.reset_params()
    }

    fn regime(&self) -> Regime {
        Regime::PerTask
    }

    /// Who answers with these scores has an adapter for every task.
    fn kept_bytes(&self) -> u64 {
        self.kept_bytes
    }
}
