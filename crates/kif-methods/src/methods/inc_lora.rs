//! IncLoRA: a new LoRA for every task beside the frozen ones of earlier tasks; the model adds them
//! all up.
//!
//! The baseline of O-LoRA (Wang et al., Findings of EMNLP 2023, arXiv 2310.14152), which is IncLoRA
//! with a penalty. The adapters lie side by side in one: task t trains slot t, see
//! [`ParamLayout::slot`](kif_model::ParamLayout::slot). Slots of later tasks have B = 0 and add
//! nothing.

use std::ops::Range;

use anyhow::Result;
use kif_model::ParamLayout;
use serde::{Deserialize, Serialize};

use super::{Method, MethodSpec, Parts};
use crate::error::TooManyTasks;
use crate::learner::Learner;
use crate::task_view::TaskView;

/// It has no settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IncLoraConfig;

impl MethodSpec for IncLoraConfig {
    fn presets() -> Vec<Self> {
        vec![Self]
    }

    fn name(&self) -> &'static str {
        "inc_lora"
    }

    fn summary(&self) -> &'static str {
        "a new LoRA for every task beside the frozen ones"
    }

    fn parts(&self, n_tasks: usize) -> Parts {
        Parts::slots(n_tasks)
    }

    fn build(&self, _: &ParamLayout) -> Box<dyn Method> {
        Box::new(IncLora)
    }
}

/// Plain steps on the task's own slot.
pub(super) struct IncLora;

impl Method for IncLora {
    fn begin_task(&mut self, learner: &mut Learner, task: &TaskView) -> Result<()> {
        train_own_slot(learner, task)
    }
}

/// Freezes everything but the slot of `task`; an error if the adapter has none for it.
pub(super) fn train_own_slot(learner: &mut Learner, task: &TaskView) -> Result<()> {
    learner.train_only(own_slot(learner, task)?);
    Ok(())
}

/// Where the slot of `task` lies; an error if the adapter has none for it.
pub(super) fn own_slot(learner: &Learner, task: &TaskView) -> Result<Vec<Range<usize>>> {
    let n_slots = learner.layout().n_slots();
    if task.index >= n_slots {
        return Err(TooManyTasks {
            task: task.name.clone(),
            number: task.index + 1,
            room: format!("the adapter has a slot for each of {n_slots}"),
        }
        .into());
    }
    Ok(learner.layout().slot(task.index))
}
