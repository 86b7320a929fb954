//! SAPT-LoRA: a LoRA for every task, of which all are mixed by an attention that the row's text
//! asks with (Zhao et al., *SAPT: A Shared Attention Framework for Parameter-Efficient Continual
//! Learning of Large Language Models*, ACL 2024, arXiv 2401.08295).
//!
//! The adapters lie side by side, and the model routes every row itself ([`Router::Instance`]): a
//! softmax over the keys of all tasks so far. Task t trains slot t, key t and the shared query;
//! slots and keys of earlier tasks are frozen. So that the query goes on to find them, the routing
//! weights that each earlier task ended with are held fast (*attentive reflection*):
//!
//! `loss + reflection * sum over earlier tasks s of the mean over its rows of KL(w_s || w(row))`
//!
//! where w_s is the mean of task s's weights when it ended. The rows are those of the memory; their
//! answers are not read.

use anyhow::Result;
use kif_data::{Batch, memory_batch};
use kif_model::{ParamGroup, ParamLayout, Router};
use serde::{Deserialize, Serialize};

use super::inc_lora::own_slot;
use super::{Method, MethodSpec, Parts, bytes_of};
use crate::error::{SettingError, check_setting};
use crate::learner::Learner;
use crate::state::State;
use crate::task_view::TaskView;

/// Rows that are routed at once when a task has ended.
const ROWS_AT_ONCE: usize = 64;
/// Smallest weight that a divergence is taken from: one of 0 has no slope.
const SMALLEST_WEIGHT: f32 = 1e-12;

/// The router, and how it is held.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SaptLoraConfig {
    /// Width inside the query's MLP (published: 100). At least 1.
    pub hidden: usize,
    /// Weight of the divergence from the stored routing weights (published: 0.1). At least 0.
    pub reflection: f64,
    /// Steps from one reflection to the next (published: 1). At least 1.
    pub reflect_every: u64,
}

impl Default for SaptLoraConfig {
    fn default() -> Self {
        Self {
            hidden: 100,
            reflection: 0.1,
            reflect_every: 1,
        }
    }
}

impl MethodSpec for SaptLoraConfig {
    fn presets() -> Vec<Self> {
        vec![Self::default()]
    }

    fn name(&self) -> &'static str {
        "sapt_lora"
    }

    fn summary(&self) -> &'static str {
        "a new LoRA for every task; a router mixes them by the row"
    }

    fn check(&self) -> Result<(), SettingError> {
        let (reflection, every) = (self.reflection, self.reflect_every);
        check_setting(self.hidden > 0, "hidden", self.hidden, "at least 1")?;
        let fine = reflection.is_finite() && reflection >= 0.0;
        check_setting(
            fine,
            "reflection",
            reflection,
            "a finite number, at least 0",
        )?;
        check_setting(every > 0, "reflect_every", every, "at least 1")
    }

    fn parts(&self, n_tasks: usize) -> Parts {
        Parts {
            n_slots: n_tasks,
            router: Some(Router::Instance {
                hidden: self.hidden,
            }),
            ..Parts::default()
        }
    }

    fn keeps_memory(&self) -> bool {
        true
    }

    fn build(&self, _: &ParamLayout) -> Box<dyn Method> {
        Box::new(SaptLora::new(*self))
    }
}

/// The derivatives of `scale` times the mean over rows of `KL(stored || w)` by the routing weights
/// w, `[rows, n_slots]`, where `stored` is `[n_slots]`.
fn divergence_slope(stored: &[f32], weights: &[f32], scale: f64) -> Vec<f32> {
    let n_rows = weights.len() / stored.len();
    let slope = |(w, stored): (&f32, &f32)| {
        let w = f64::from(w.max(SMALLEST_WEIGHT));
        (-scale / n_rows as f64 * f64::from(*stored) / w) as f32
    };
    let rows = weights.chunks_exact(stored.len());
    rows.flat_map(|row| row.iter().zip(stored).map(slope))
        .collect()
}

/// Steps on the task's own slot, its key and the query.
pub(super) struct SaptLora {
    config: SaptLoraConfig,
    /// The task that is being learned.
    task: Option<TaskView>,
    /// Mean routing weights of each finished task at its end, `[n_slots]`.
    stored: Vec<Vec<f32>>,
}

impl SaptLora {
    pub(super) fn new(config: SaptLoraConfig) -> Self {
        Self {
            config,
            task: None,
            stored: Vec::new(),
        }
    }

    /// The gradient of the reflection, `[P]`, in the steps that have one.
    fn reflection(&self, learner: &mut Learner) -> Result<Option<Vec<f32>>> {
        let SaptLoraConfig {
            reflection,
            reflect_every,
            ..
        } = self.config;
        let is_due = learner.steps().is_multiple_of(reflect_every) && reflection > 0.0;
        let Some(task) = self.task.as_ref().filter(|task| is_due && task.index > 0) else {
            return Ok(None);
        };
        let number = learner.steps() / reflect_every;
        let mut grad = vec![0.0; learner.params().len()];
        for (rows, stored) in task.memory_by_task().zip(&self.stored) {
            if rows.is_empty() {
                continue;
            }
            let (size, index) = (task.batch_size, task.index as u64);
            let chosen = memory_batch(rows.len(), size, task.seed, index, number);
            let batch = Batch::from_rows(chosen.into_iter().map(|i| &rows[i]));
            let weights = learner.model_mut().routing_weights(&batch)?;
            let slope = divergence_slope(stored, &weights, reflection);
            learner
                .model_mut()
                .add_routing_gradient(&batch, &slope, &mut grad)?;
        }
        Ok(Some(grad))
    }
}

impl Method for SaptLora {
    fn begin_task(&mut self, learner: &mut Learner, task: &TaskView) -> Result<()> {
        let mut trained = own_slot(learner, task)?;
        trained.extend(learner.layout().slot_key(task.index));
        trained.extend(learner.layout().group(ParamGroup::Router));
        trained.sort_by_key(|range| range.start);
        learner.train_only(trained);
        self.task = Some(task.clone());
        Ok(learner.model_mut().set_open_slots(task.index + 1)?)
    }

    fn observe(&mut self, learner: &mut Learner, batch: &Batch) -> Result<f64> {
        let reflection = self.reflection(learner)?;
        learner.step_with(batch, |_, grad| {
            for (g, pull) in grad.iter_mut().zip(reflection.iter().flatten()) {
                *g += pull;
            }
        })
    }

    fn end_task(&mut self, learner: &mut Learner, task: &TaskView) -> Result<()> {
        let n_slots = learner.layout().n_slots();
        let mut sums = vec![0.0f64; n_slots];
        for rows in task.rows.chunks(ROWS_AT_ONCE) {
            let weights = learner
                .model_mut()
                .routing_weights(&Batch::from_rows(rows))?;
            for row in weights.chunks_exact(n_slots) {
                sums.iter_mut()
                    .zip(row)
                    .for_each(|(sum, w)| *sum += f64::from(*w));
            }
        }
        let n_rows = task.rows.len().max(1) as f64;
        let means = sums.iter().map(|sum| (sum / n_rows) as f32);
        self.stored.push(means.collect());
        Ok(())
    }

    fn kept_bytes(&self) -> u64 {
        bytes_of(&self.stored)
    }

    fn save_state(&self, state: &mut State) {
        state.put_counter("method.n_stored", self.stored.len() as u64);
        if let Some(n_slots) = self.stored.first().map(Vec::len) {
            state.put_counter("method.n_slots", n_slots as u64);
            state.put("method.stored", &self.stored.concat());
        }
    }

    fn load_state(&mut self, state: &State) -> Result<()> {
        let n_stored = state.counter("method.n_stored")? as usize;
        self.stored.clear();
        if n_stored > 0 {
            let n_slots = state.counter("method.n_slots")? as usize;
            let stored = state.tensor("method.stored", n_stored * n_slots)?;
            self.stored
                .extend(stored.chunks_exact(n_slots).map(<[f32]>::to_vec));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference::{Case, distance};
    use super::*;

    #[test]
    fn the_slope_of_the_divergence_is_that_of_numpy() {
        let case = Case::read("sapt_lora");
        let (stored, weights) = (case.vector("stored"), case.vector("weights"));
        let slope = divergence_slope(&stored, &weights, case.number("reflection"));
        assert!(distance(&slope, &case.vector("slope")) < 1e-5);
    }

    #[test]
    fn weights_of_later_tasks_are_not_asked_for_and_none_is_infinite() {
        let slope = divergence_slope(&[1.0, 0.0], &[0.5, 0.5, 0.0, 1.0], 2.0);
        assert_eq!(slope[..2], [-2.0, 0.0]);
        assert!(slope[2] < -1e11 && slope[2].is_finite() && slope[3] == 0.0);
    }
}
