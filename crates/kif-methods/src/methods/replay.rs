//! Replay: the rows kept of earlier tasks are shuffled into the training rows of every task ("SeqLoRAReplay",
//! "MixReplay" in the tables of Recurrent-KIF and FOREVER).

use kif_data::Encoded;

use super::Method;
use crate::task_view::TaskView;

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

    fn keeps_memory(&self) -> bool {
        true
    }
}
