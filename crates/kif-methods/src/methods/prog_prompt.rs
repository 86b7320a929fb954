//! Progressive Prompts: a new soft prompt for every task in front of the frozen ones of earlier
//! tasks (Razdaibiedina et al., ICLR 2023, arXiv 2301.12314).
//!
//! Task t trains prompt t alone and reads `[P_t, P_t-1, ..., P_1, x]`. It is told at test time
//! which task a row is from, and then reads what that task read: an old task is answered for ever
//! as right after it was learned.

use anyhow::Result;
use kif_model::{ParamLayout, PromptConfig, PromptSelection};
use serde::{Deserialize, Serialize};

use super::{Method, MethodSpec, Parts};
use crate::error::{SettingError, TooManyTasks, check_setting};
use crate::learner::Learner;
use crate::task_view::TaskView;

/// The prompts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProgPromptConfig {
    /// Rows of a task's prompt (published: 10). At least 1.
    pub length: usize,
    /// Peak learning rate, in the place of the run's (published: 0.3). Positive.
    pub lr: f64,
}

impl Default for ProgPromptConfig {
    fn default() -> Self {
        Self {
            length: 10,
            lr: 0.3,
        }
    }
}

impl MethodSpec for ProgPromptConfig {
    fn presets() -> Vec<Self> {
        vec![Self::default()]
    }

    fn name(&self) -> &'static str {
        "prog_prompt"
    }

    fn summary(&self) -> &'static str {
        "a new soft prompt for every task; told the task at test time"
    }

    fn check(&self) -> Result<(), SettingError> {
        check_setting(self.length > 0, "length", self.length, "at least 1")?;
        check_rate(self.lr)
    }

    fn parts(&self, n_tasks: usize) -> Parts {
        Parts::prompts(PromptConfig {
            n_prompts: n_tasks,
            length: self.length,
            selection: PromptSelection::Fixed,
        })
    }

    fn peak_rate(&self) -> Option<f64> {
        Some(self.lr)
    }

    fn build(&self, _: &ParamLayout) -> Box<dyn Method> {
        Box::new(ProgPrompt::default())
    }
}

/// Whether a method's own peak rate is one.
pub(super) fn check_rate(lr: f64) -> Result<(), SettingError> {
    check_setting(lr.is_finite() && lr > 0.0, "lr", lr, "a positive number")
}

/// The prompts that a row of task `task_idx` is read behind once `n_begun` tasks were begun: of a
/// task that is not learned yet, those of all tasks that are.
fn prompts_of(task_idx: usize, n_begun: usize) -> Vec<usize> {
    (0..n_begun.min(task_idx + 1)).rev().collect()
}

/// Plain steps on the task's own prompt.
#[derive(Default)]
pub(super) struct ProgPrompt {
    /// Tasks that were begun.
    n_begun: usize,
    /// Bytes of the prompts of earlier tasks.
    kept_bytes: u64,
}

impl Method for ProgPrompt {
    fn begin_task(&mut self, learner: &mut Learner, task: &TaskView) -> Result<()> {
        let prompts = learner.layout().prompts();
        let Some(own) = prompts.get(task.index) else {
            return Err(TooManyTasks {
                task: task.name.clone(),
                number: task.index + 1,
                room: format!("there is a prompt for each of {}", prompts.len()),
            }
            .into());
        };
        learner.train_only(vec![own.clone()]);
        self.n_begun = task.index + 1;
        self.kept_bytes = (task.index * own.len() * size_of::<f32>()) as u64;
        let active = prompts_of(task.index, self.n_begun);
        Ok(learner.model_mut().activate_prompts(&active)?)
    }

    fn before_evaluation(&mut self, learner: &mut Learner, task_idx: usize) -> Result<()> {
        let active = prompts_of(task_idx, self.n_begun);
        Ok(learner.model_mut().activate_prompts(&active)?)
    }

    fn kept_bytes(&self) -> u64 {
        self.kept_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_prompt_stands_first_and_later_tasks_have_none_yet() {
        assert_eq!(prompts_of(0, 3), [0]);
        assert_eq!(prompts_of(2, 3), [2, 1, 0]);
        assert_eq!(prompts_of(3, 3), [2, 1, 0]);
    }
}
