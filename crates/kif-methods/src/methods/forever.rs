//! FOREVER: the memory is replayed after 1, 2, 4, 7, 15 and 30 days of model time (Feng et al.,
//! *FOREVER: Forgetting Curve-Inspired Memory Replay for Language Model Continual Learning*, ACL
//! 2026, arXiv 2601.03938).
//!
//! Model time is the sum of the norms of all updates of the task; a day is what the first 24 steps
//! take. A replay is one pass over the memory. Its loss has an anchor `beta |theta - theta*|^2` to
//! the parameters at the end of the last task, the stronger the faster the parameters moved since
//! the last replay: `beta = 1e-3 clip(1 + gamma (mu / mu_0 - 1), 0.5, 3)`, where mu is the mean
//! norm of an update since then and mu_0 that of the first day. Everything starts anew with each
//! task; without a memory, as on the first, steps are plain.

use std::sync::Arc;

use anyhow::Result;
use kif_data::{Batch, Encoded, epoch_order};
use kif_model::ParamLayout;
use serde::{Deserialize, Serialize};

use super::{Method, MethodSpec};
use crate::error::{SettingError, check_setting};
use crate::learner::Learner;
use crate::state::State;
use crate::task_view::TaskView;

/// How long a day is, and how strong the anchor.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForeverConfig {
    /// Steps whose updates make a day (published: 24). At least 1.
    pub day_steps: u64,
    /// Strength of the anchor at the pace of the first day (published: 1e-3). At least 0.
    pub anchor: f64,
    /// How much the pace changes the strength (gamma; its published value is not known to us). At
    /// least 0.
    pub sensitivity: f64,
}

impl Default for ForeverConfig {
    fn default() -> Self {
        Self {
            day_steps: 24,
            anchor: 1e-3,
            sensitivity: 1.0,
        }
    }
}

impl MethodSpec for ForeverConfig {
    fn presets() -> Vec<Self> {
        vec![Self::default()]
    }

    fn name(&self) -> &'static str {
        "forever"
    }

    fn summary(&self) -> &'static str {
        "the memory replayed at growing distances of model time"
    }

    fn check(&self) -> Result<(), SettingError> {
        check_setting(
            self.day_steps > 0,
            "day_steps",
            self.day_steps,
            "at least 1",
        )?;
        for (field, value) in [("anchor", self.anchor), ("sensitivity", self.sensitivity)] {
            let fine = value.is_finite() && value >= 0.0;
            check_setting(fine, field, value, "a finite number, at least 0")?;
        }
        Ok(())
    }

    fn keeps_memory(&self) -> bool {
        true
    }

    fn build(&self, _: &ParamLayout) -> Box<dyn Method> {
        Box::new(Forever::new(*self))
    }
}

/// The days of the replays (published, after Ebbinghaus' curve).
const DAYS: [f64; 6] = [1.0, 2.0, 4.0, 7.0, 15.0, 30.0];
/// Bounds of the anchor's factor (published).
const FACTORS: (f64, f64) = (0.5, 3.0);

/// The model's own time; all of it is part of the state.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Clock {
    n_steps: u64,
    /// Sum of the norms of all updates.
    now: f64,
    /// Length of a day; 0 until the first one is over.
    day: f64,
    /// Replays that are over, or left out.
    n_replays: u64,
    /// Step and time of the last replay.
    last_step: u64,
    last_time: f64,
}

impl Clock {
    /// Takes in an update; the strength of the anchor where it is time for a replay. Days that one
    /// update passes together are one replay.
    fn tick(&mut self, config: &ForeverConfig, norm: f64) -> Option<f64> {
        self.n_steps += 1;
        self.now += norm;
        // Days are not empty: a warm-up may begin with updates of 0.
        if self.day == 0.0 && self.n_steps >= config.day_steps {
            self.day = self.now;
        }
        let is_over = |day: &&f64| self.day > 0.0 && self.now >= **day * self.day;
        let n_over = DAYS.iter().take_while(is_over).count() as u64;
        if n_over <= self.n_replays {
            return None;
        }
        let pace = (self.now - self.last_time) / (self.n_steps - self.last_step) as f64;
        let first = self.day / config.day_steps as f64;
        let factor = 1.0 + config.sensitivity * (pace / first - 1.0);
        (self.n_replays, self.last_step, self.last_time) = (n_over, self.n_steps, self.now);
        Some(config.anchor * factor.clamp(FACTORS.0, FACTORS.1))
    }
}

/// Steps on the task, and replays by the model's clock.
pub(super) struct Forever {
    config: ForeverConfig,
    replays: Option<Replays>,
}

/// What the replays of one task keep.
struct Replays {
    memory: Arc<Vec<Encoded>>,
    batch_size: usize,
    seed: u64,
    task_idx: u64,
    clock: Clock,
    /// Parameters at the end of the last task, `[P]`.
    anchor: Vec<f32>,
}

impl Replays {
    /// One pass over the memory, shuffled, with the anchor of strength `beta`.
    fn replay(&self, learner: &mut Learner, beta: f64) -> Result<()> {
        // Epochs that no training reaches, so that these shuffles are their own.
        let epoch = u64::MAX - self.clock.n_replays;
        let order = epoch_order(self.memory.len(), self.seed, self.task_idx, epoch);
        for rows in order.chunks(self.batch_size) {
            let batch = Batch::from_rows(rows.iter().map(|&i| &self.memory[i]));
            learner.memory_gradient_with(&batch, 1.0, |params, grad| {
                add_anchor_gradient(params, &self.anchor, beta as f32, grad);
            })?;
            learner.apply_with(None, learner.next_rate())?;
        }
        Ok(())
    }
}

/// Adds the gradient of `beta |theta - anchor|^2` to `grad`, all `[P]`.
fn add_anchor_gradient(theta: &[f32], anchor: &[f32], beta: f32, grad: &mut [f32]) {
    for ((g, t), a) in grad.iter_mut().zip(theta).zip(anchor) {
        *g += 2.0 * beta * (t - a);
    }
}

impl Forever {
    pub(super) fn new(config: ForeverConfig) -> Self {
        Self {
            config,
            replays: None,
        }
    }
}

impl Method for Forever {
    fn begin_task(&mut self, learner: &mut Learner, task: &TaskView) -> Result<()> {
        self.replays = (!task.memory.is_empty()).then(|| Replays {
            memory: task.memory.clone(),
            batch_size: task.batch_size,
            seed: task.seed,
            task_idx: task.index as u64,
            clock: Clock::default(),
            anchor: learner.params().to_vec(),
        });
        Ok(())
    }

    fn observe(&mut self, learner: &mut Learner, batch: &Batch) -> Result<f64> {
        let Some(replays) = &mut self.replays else {
            return learner.step(batch);
        };
        let before = learner.params().to_vec();
        let loss = learner.step(batch)?;
        let pairs = learner.params().iter().zip(&before);
        let square: f64 = pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum();
        if let Some(beta) = replays.clock.tick(&self.config, square.sqrt()) {
            replays.replay(learner, beta)?;
        }
        Ok(loss)
    }

    fn end_task(&mut self, _: &mut Learner, _: &TaskView) -> Result<()> {
        self.replays = None;
        Ok(())
    }

    fn save_state(&self, state: &mut State) {
        let Some(Replays { clock, anchor, .. }) = &self.replays else {
            return;
        };
        state.put("method.anchor", anchor);
        for (name, value) in [
            ("n_steps", clock.n_steps),
            ("now", clock.now.to_bits()),
            ("day", clock.day.to_bits()),
            ("n_replays", clock.n_replays),
            ("last_step", clock.last_step),
            ("last_time", clock.last_time.to_bits()),
        ] {
            state.put_counter(format!("method.{name}"), value);
        }
    }

    fn load_state(&mut self, state: &State) -> Result<()> {
        let Some(Replays { clock, anchor, .. }) = &mut self.replays else {
            return Ok(());
        };
        let n = anchor.len();
        anchor.copy_from_slice(state.tensor("method.anchor", n)?);
        let of = |name: &str| state.counter(&format!("method.{name}"));
        let bits = |name: &str| of(name).map(f64::from_bits);
        *clock = Clock {
            n_steps: of("n_steps")?,
            now: bits("now")?,
            day: bits("day")?,
            n_replays: of("n_replays")?,
            last_step: of("last_step")?,
            last_time: bits("last_time")?,
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference::{Case, distance};
    use super::*;

    #[test]
    fn replays_come_when_numpy_has_them() {
        let case = Case::read("forever");
        let config = ForeverConfig {
            day_steps: case.number("day_steps") as u64,
            anchor: case.number("anchor"),
            sensitivity: case.number("sensitivity"),
        };
        let mut clock = Clock::default();
        let (mut steps, mut strengths) = (Vec::new(), Vec::new());
        for (i, norm) in case.vector("norms").into_iter().enumerate() {
            if let Some(beta) = clock.tick(&config, f64::from(norm)) {
                steps.push(i as f32 + 1.0);
                strengths.push(beta as f32);
            }
        }
        assert_eq!(steps, case.vector("steps"));
        assert!(distance(&strengths, &case.vector("strengths")) < 1e-6);
    }

    #[test]
    fn the_anchor_pulls_back_by_hand() {
        let mut grad = [1.0, 1.0];
        add_anchor_gradient(&[3.0, 0.5], &[1.0, 0.5], 0.25, &mut grad);
        assert_eq!(grad, [2.0, 1.0]);
    }

    #[test]
    fn a_model_that_does_not_move_has_no_days() {
        let mut clock = Clock::default();
        let config = ForeverConfig::default();
        assert!((0..100).all(|_| clock.tick(&config, 0.0).is_none()));
    }
}
