//! Every task alone, from the initial adapter ("PerTaskFT"): the reference for forward transfer and intransigence.

use anyhow::Result;

use super::{Method, Regime};
use crate::learner::Learner;
use crate::task_view::TaskView;

/// Plain steps from the initial parameters.
pub(super) struct PerTask;

impl Method for PerTask {
    fn begin_task(&mut self, learner: &mut Learner, _: &TaskView) -> Result<()> {
        learner.reset_params()
    }

    fn regime(&self) -> Regime {
        Regime::PerTask
    }
}
