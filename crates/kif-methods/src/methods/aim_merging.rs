//! AIMMerging: KIF's two loops, merged when learning and forgetting say so (Feng et al.,
//! *AIMMerging: Adaptive Iterative Model Merging Using Training Trajectories for Language Model
//! Continual Learning*, EMNLP 2025).
//!
//! As in the authors' code. After every step the loss on a batch of the memory is taken. Its mean
//! over the first two thirds of an interval, times a factor, is a threshold, and every later loss
//! above it is a signal of forgetting. A merge is due at the end of the interval if there was a
//! signal, at once at the third, and in any case after two intervals. It takes half as many memory
//! steps as the interval is long, then adds both task vectors to where the round began, with one
//! pair of weights for all parameters. The interval shrinks when the parameters moved faster than
//! in the round before, and grows when they moved more slowly. Everything starts anew with each
//! task; the first is plain.

use anyhow::Result;
use kif_data::Batch;
use kif_fusion::{FusionWeights, Update, delta, fuse_masked};
use kif_model::ParamLayout;
use serde::{Deserialize, Serialize};

use super::{FORWARD_ONLY, Method, MethodSpec};
use crate::error::{SettingError, check_setting};
use crate::learner::Learner;
use crate::state::State;
use crate::task_view::{Sampler, TaskView};

/// When adapters are merged.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AimMergingConfig {
    /// Steps on the task in the first interval (as KIF: 8). From `shortest` to `longest`.
    pub first: usize,
    /// Shortest interval (published code: 2). At least 1.
    pub shortest: usize,
    /// Longest interval (published code: 128).
    pub longest: usize,
    /// Merges before the interval may change (published code: 3).
    pub cold_start: u64,
    /// Memory steps per step on the task (as KIF: 1/2). Above 0.
    pub outer_share: f64,
    /// A memory loss is a signal from this many times the mean on (published code: 2). Above 0.
    pub threshold: f64,
}

impl Default for AimMergingConfig {
    fn default() -> Self {
        Self {
            first: 8,
            shortest: 2,
            longest: 128,
            cold_start: 3,
            outer_share: 0.5,
            threshold: 2.0,
        }
    }
}

impl MethodSpec for AimMergingConfig {
    fn presets() -> Vec<Self> {
        vec![Self::default()]
    }

    fn name(&self) -> &'static str {
        "aim_merging"
    }

    fn summary(&self) -> &'static str {
        "KIF's two loops, merged when learning and forgetting say so"
    }

    fn check(&self) -> Result<(), SettingError> {
        let Self {
            first,
            shortest,
            longest,
            ..
        } = *self;
        check_setting(shortest > 0, "shortest", shortest, "at least 1")?;
        let fine = (shortest..=longest).contains(&first);
        check_setting(fine, "first", first, "a number from shortest to longest")?;
        for (field, value) in [
            ("outer_share", self.outer_share),
            ("threshold", self.threshold),
        ] {
            let fine = value.is_finite() && value > 0.0;
            check_setting(fine, field, value, "a finite number above 0")?;
        }
        Ok(())
    }

    fn keeps_memory(&self) -> bool {
        true
    }

    fn added_steps(&self) -> f64 {
        // Memory steps, and a pass forward on the memory.
        self.outer_share + FORWARD_ONLY
    }

    fn build(&self, _: &ParamLayout) -> Box<dyn Method> {
        Box::new(AimMerging::new(*self))
    }
}

/// Intervals up to this many steps mean that the task is still being learned.
const LEARNING: usize = 70;
/// From this length on intervals change less.
const LONG: usize = 64;
/// So many signals make a merge at once.
const URGENT: u64 = 3;

/// What decides on merges; all of it is part of the state.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Timing {
    interval: usize,
    outer_steps: usize,
    /// The step from which on one signal is enough.
    due: u64,
    /// Memory losses that the threshold is made of, and their sum.
    n_losses: u64,
    loss_sum: f64,
    threshold: f64,
    n_signals: u64,
    n_merges: u64,
    /// Summed absolute movement per step of the last round.
    last_change: f64,
}

impl Timing {
    fn new(config: &AimMergingConfig) -> Self {
        Self {
            interval: config.first,
            outer_steps: outer_steps(config, config.first),
            due: config.first as u64,
            n_losses: 0,
            loss_sum: 0.0,
            threshold: 0.0,
            n_signals: 0,
            n_merges: 0,
            last_change: 0.0,
        }
    }

    /// Takes in the loss on the memory after step `step` (from 1); whether to merge now.
    fn is_due(&mut self, config: &AimMergingConfig, loss: f64, step: u64) -> bool {
        let window = self.interval as u64 * 2 / 3;
        if self.n_losses <= window {
            self.loss_sum += loss;
            self.n_losses += 1;
            if self.n_losses > window {
                self.threshold = self.loss_sum / self.n_losses as f64 * config.threshold;
            }
        } else if loss >= self.threshold || step >= self.due + self.interval as u64 {
            self.n_signals += 1;
        }
        (step >= self.due && self.n_signals > 0) || self.n_signals >= URGENT
    }

    /// Weights of the inner and the outer task vector: what is still learned weighs more, and what
    /// is forgotten.
    fn weights(&self) -> (f32, f32) {
        match (self.interval <= LEARNING, self.n_signals > 1) {
            (true, false) => (0.6, 0.4),
            (false, true) => (0.4, 0.6),
            _ => (0.5, 0.5),
        }
    }

    /// Goes on to the next interval after a merge in step `step`, where the inner vector has the
    /// absolute sum `moved`.
    fn merged(&mut self, config: &AimMergingConfig, moved: f64, step: u64) {
        let change = moved / self.interval as f64;
        if self.n_merges > config.cold_start {
            self.interval = next_interval(config, self.interval, change, self.last_change);
            self.outer_steps = outer_steps(config, self.interval);
        }
        *self = Self {
            due: step + self.interval as u64,
            n_losses: 0,
            loss_sum: 0.0,
            threshold: 0.0,
            n_signals: 0,
            n_merges: self.n_merges + 1,
            last_change: change,
            ..*self
        };
    }
}

fn outer_steps(config: &AimMergingConfig, interval: usize) -> usize {
    ((interval as f64 * config.outer_share) as usize).max(1)
}

/// Shorter in proportion where parameters move faster than before, longer where they move more
/// slowly.
fn next_interval(config: &AimMergingConfig, interval: usize, change: f64, before: f64) -> usize {
    let steps = interval as f64;
    if change >= before {
        let shorter = config.shortest.max((steps / (change / before)) as usize);
        if shorter >= LONG {
            config.shortest.max(shorter / 2)
        } else {
            shorter
        }
    } else {
        let extra = if interval < LONG { 1.0 } else { 0.5 };
        config
            .longest
            .min((steps * (before / change + extra)) as usize)
    }
}

/// Steps on the task, and merges with memory steps when they are due.
pub(super) struct AimMerging {
    config: AimMergingConfig,
    rounds: Option<Rounds>,
}

/// What the rounds of one task keep.
struct Rounds {
    memory: Sampler,
    /// Parameters at the start of the round, `[P]`.
    start: Vec<f32>,
    timing: Timing,
}

impl AimMerging {
    pub(super) fn new(config: AimMergingConfig) -> Self {
        Self {
            config,
            rounds: None,
        }
    }
}

impl Rounds {
    /// The memory steps and the merge.
    fn merge(&mut self, learner: &mut Learner) -> Result<f64> {
        let inner_end = learner.params().to_vec();
        for _ in 0..self.timing.outer_steps {
            learner.memory_gradient(&self.memory.draw(), 1.0)?;
            learner.apply_with(None, learner.next_rate())?;
        }
        let mut deltas = [vec![0.0; inner_end.len()], vec![0.0; inner_end.len()]];
        delta(&inner_end, &self.start, &mut deltas[0]);
        delta(learner.params(), &inner_end, &mut deltas[1]);
        let mask = vec![false; inner_end.len()];
        let [inner, outer] = deltas.each_ref().map(|delta| Update { delta, mask: &mask });
        let (w_in, w_out) = self.timing.weights();
        let weights = FusionWeights::everywhere(w_in, w_out);
        fuse_masked(&mut self.start, inner, outer, &weights);
        learner.set_params(&self.start)?;
        Ok(deltas[0].iter().map(|d| f64::from(d.abs())).sum())
    }
}

impl Method for AimMerging {
    fn begin_task(&mut self, learner: &mut Learner, task: &TaskView) -> Result<()> {
        self.rounds = (!task.memory.is_empty()).then(|| Rounds {
            memory: Sampler::of_memory(task),
            start: learner.params().to_vec(),
            timing: Timing::new(&self.config),
        });
        Ok(())
    }

    fn observe(&mut self, learner: &mut Learner, batch: &Batch) -> Result<f64> {
        let loss = learner.step(batch)?;
        let Some(rounds) = &mut self.rounds else {
            return Ok(loss);
        };
        let forgotten = learner.model_mut().mean_nll(&rounds.memory.draw())?;
        let step = learner.steps();
        if rounds.timing.is_due(&self.config, forgotten, step) {
            let moved = rounds.merge(learner)?;
            rounds.timing.merged(&self.config, moved, step);
        }
        Ok(loss)
    }

    fn end_task(&mut self, _: &mut Learner, _: &TaskView) -> Result<()> {
        self.rounds = None;
        Ok(())
    }

    fn save_state(&self, state: &mut State) {
        let Some(rounds) = &self.rounds else { return };
        rounds.memory.save_state(state);
        state.put("method.start", &rounds.start);
        let timing = &rounds.timing;
        for (name, value) in [
            ("interval", timing.interval as u64),
            ("outer_steps", timing.outer_steps as u64),
            ("due", timing.due),
            ("n_losses", timing.n_losses),
            ("loss_sum", timing.loss_sum.to_bits()),
            ("threshold", timing.threshold.to_bits()),
            ("n_signals", timing.n_signals),
            ("n_merges", timing.n_merges),
            ("last_change", timing.last_change.to_bits()),
        ] {
            state.put_counter(format!("method.{name}"), value);
        }
    }

    fn load_state(&mut self, state: &State) -> Result<()> {
        let Some(rounds) = &mut self.rounds else {
            return Ok(());
        };
        rounds.memory.load_state(state)?;
        let n = rounds.start.len();
        rounds
            .start
            .copy_from_slice(state.tensor("method.start", n)?);
        let longest = self.config.longest as u64;
        let of = |name: &str| state.counter(&format!("method.{name}"));
        let bits = |name: &str| of(name).map(f64::from_bits);
        rounds.timing = Timing {
            interval: state.counter_up_to("method.interval", longest)? as usize,
            outer_steps: of("outer_steps")? as usize,
            due: of("due")?,
            n_losses: of("n_losses")?,
            loss_sum: bits("loss_sum")?,
            threshold: bits("threshold")?,
            n_signals: of("n_signals")?,
            n_merges: of("n_merges")?,
            last_change: bits("last_change")?,
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference::Case;
    use super::*;

    #[test]
    fn merges_come_when_python_has_them() {
        let case = Case::read("aim_merging");
        let config = AimMergingConfig {
            threshold: case.number("threshold"),
            ..AimMergingConfig::default()
        };
        let mut timing = Timing::new(&config);
        let moved = case.vector("moved");
        let mut found = Vec::new();
        for (i, loss) in case.vector("losses").into_iter().enumerate() {
            let step = i as u64 + 1;
            if timing.is_due(&config, f64::from(loss), step) {
                let (w_in, _) = timing.weights();
                timing.merged(&config, f64::from(moved[found.len() / 3]), step);
                found.extend([step as f32, w_in, timing.interval as f32]);
            }
        }
        assert_eq!(found, case.vector("merges"));
        let weights = [0.4, 0.5, 0.6];
        let seen = |w: &f32| found.chunks(3).any(|merge| merge[1] == *w);
        assert!(weights.iter().all(seen), "{found:?}");
    }
}
