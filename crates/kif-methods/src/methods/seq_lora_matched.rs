//! Plain fine-tuning with as many steps as KIF takes: a control for its longer training.
//!
//! Wherever KIF takes memory steps this takes steps on the task's own rows: after every 8th step 4
//! more, 12 in all. Their batches are the first of fresh shuffles of the task (keyed like memory
//! draws; with `--no-shuffle` a cursor of their own), and they are made by the same optimizer at
//! the rate of the next step, without moving the schedule on. As with KIF, nothing is added while
//! there is no memory, as on the first task. Our own control, in no paper.

use kif_model::ParamLayout;
use serde::{Deserialize, Serialize};

use super::two_loop::{InSequence, OuterOptimizer, StepsOn, TwoLoop, TwoLoopConfig, check_steps};
use super::{Method, MethodSpec};
use crate::error::SettingError;

/// How many steps are added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeqLoraMatchedConfig {
    /// Steps of the epoch between two groups of added ones (as KIF: 8). At least 1.
    pub inner_steps: usize,
    /// Added steps (as KIF's memory steps: 4). At least 1.
    pub outer_steps: usize,
}

impl Default for SeqLoraMatchedConfig {
    fn default() -> Self {
        Self {
            inner_steps: 8,
            outer_steps: 4,
        }
    }
}

impl MethodSpec for SeqLoraMatchedConfig {
    fn presets() -> Vec<Self> {
        vec![Self::default()]
    }

    fn name(&self) -> &'static str {
        "seq_lora_matched"
    }

    fn summary(&self) -> &'static str {
        "plain fine-tuning with as many steps as KIF takes"
    }

    fn check(&self) -> Result<(), SettingError> {
        check_steps(self.inner_steps, self.outer_steps)
    }

    fn added_steps(&self) -> f64 {
        self.outer_steps as f64 / self.inner_steps as f64
    }

    fn build(&self, _: &ParamLayout) -> Box<dyn Method> {
        let config = TwoLoopConfig {
            inner_steps: self.inner_steps,
            outer_steps: self.outer_steps,
            outer_optimizer: OuterOptimizer::Shared,
            ..TwoLoopConfig::paper()
        };
        Box::new(TwoLoop::new(config, StepsOn::Task, InSequence))
    }
}
