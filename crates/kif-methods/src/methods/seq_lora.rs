//! Plain fine-tuning, task after task: one adapter, weights carried over, optimizer and schedule
//! anew with each task.
//!
//! The lower reference of every continual-learning table ("SeqLoRA", "IncLoRA" without its
//! penalty).

use kif_model::ParamLayout;
use serde::{Deserialize, Serialize};

use super::{Method, MethodSpec};

/// It has no settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeqLoraConfig;

impl MethodSpec for SeqLoraConfig {
    fn presets() -> Vec<Self> {
        vec![Self]
    }

    fn name(&self) -> &'static str {
        "seq_lora"
    }

    fn summary(&self) -> &'static str {
        "plain fine-tuning, task after task"
    }

    fn build(&self, _: &ParamLayout) -> Box<dyn Method> {
        Box::new(SeqLora)
    }
}

/// Every default of [`Method`].
pub(super) struct SeqLora;

impl Method for SeqLora {}
