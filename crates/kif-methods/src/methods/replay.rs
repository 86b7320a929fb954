//! Replay: the rows kept of earlier tasks are shuffled into the training rows of every task
//! ("SeqLoRAReplay", "MixReplay" in the tables of Recurrent-KIF and FOREVER).

use kif_data::Encoded;
use kif_model::ParamLayout;
use serde::{Deserialize, Serialize};

use super::{Method, MethodSpec};
use crate::task_view::TaskView;

/// It has no settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayConfig;

impl MethodSpec for ReplayConfig {
    fn presets() -> Vec<Self> {
        vec![Self]
    }

    fn name(&self) -> &'static str {
        "replay"
    }

    fn summary(&self) -> &'static str {
        "the memory shuffled into every task"
    }

    fn keeps_memory(&self) -> bool {
        true
    }

    fn build(&self, _: &ParamLayout) -> Box<dyn Method> {
        Box::new(Replay)
    }
}

/// Plain steps on the task and the memory together.
pub(super) struct Replay;

impl Method for Replay {
    /// The task's rows followed by the memory; the run shuffles them together, each once per epoch.
    fn training_rows(&self, task: &TaskView) -> Vec<Encoded> {
        task.rows
            .iter()
            .chain(task.memory.iter())
            .cloned()
            .collect()
    }
}
