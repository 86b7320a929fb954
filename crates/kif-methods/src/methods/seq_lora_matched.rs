//! Plain fine-tuning with as many steps as KIF takes: a control for its longer training.
//!
//! Wherever KIF takes memory steps this takes steps on the task's own rows: behind every 8th step 4 more, 12 in all.
//! Their batches are the first of fresh shuffles of the task (keyed like memory draws; with `--no-shuffle` a cursor
//! of their own), and they are made by the same optimizer at the rate of the next step, without moving the schedule
//! on. As with KIF, nothing is added while there is no memory, as on the first task. Our own control, in no paper.

use serde::{Deserialize, Serialize};

use super::Method;
use super::two_loop::{InSequence, OuterOptimizer, Source, TwoLoop, TwoLoopConfig, check_steps};
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

impl SeqLoraMatchedConfig {
    /// Whether every value is in its range.
    pub fn check(&self) -> Result<(), SettingError> {
        check_steps(self.inner_steps, self.outer_steps)
    }
}

/// The two loops, both on the task.
pub(super) fn method(config: SeqLoraMatchedConfig) -> impl Method {
    let SeqLoraMatchedConfig {
        inner_steps,
        outer_steps,
    } = config;
    let config = TwoLoopConfig {
        inner_steps,
        outer_steps,
        outer_optimizer: OuterOptimizer::Shared,
        ..TwoLoopConfig::paper()
    };
    TwoLoop::new(config, Source::Task, InSequence)
}
