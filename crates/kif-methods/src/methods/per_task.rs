//! Every task alone, from the initial adapter ("PerTaskFT"): the reference for forward transfer and
//! intransigence.

use anyhow::Result;
use kif_model::ParamLayout;
use serde::{Deserialize, Serialize};

use super::{Method, MethodSpec, Regime};
use crate::learner::Learner;
use crate::task_view::TaskView;

/// It has no settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PerTaskConfig;

impl MethodSpec for PerTaskConfig {
    fn presets() -> Vec<Self> {
        vec![Self]
    }

    fn name(&self) -> &'static str {
        "per_task"
    }

    fn summary(&self) -> &'static str {
        "every task alone (reference for FWT)"
    }

    fn regime(&self) -> Regime {
        Regime::PerTask
    }

    fn build(&self, _: &ParamLayout) -> Box<dyn Method> {
        Box::new(PerTask::default())
    }
}

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

    /// Who answers with these scores has an adapter for every task.
    fn kept_bytes(&self) -> u64 {
        self.kept_bytes
    }
}
