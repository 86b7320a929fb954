//! The schedule that KIF and its controls share: inner steps on the task, then outer steps, then a
//! rule that makes one set of parameters of both (Recurrent-KIF, ACL 2025, arXiv 2502.17510,
//! section 3).
//!
//! A round is `inner_steps` steps on batches of the task, followed by `outer_steps` steps on
//! batches of a second source. Without a memory, as on the first task, steps are plain. Steps after
//! the last full round of a task stay as they are. Everything starts anew with each task.

use anyhow::Result;
use kif_data::Batch;
use kif_fusion::{Regions, weighted_average};
use serde::{Deserialize, Serialize};

use super::Method;
use super::predictions::{Distillation, Teacher};
use crate::adamw::AdamW;
use crate::error::{SettingError, check_setting};
use crate::learner::Learner;
use crate::state::State;
use crate::task_view::{MemoryOrder, Sampler, TaskView};

/// How many steps a round has and what makes the outer ones.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TwoLoopConfig {
    /// Steps on the current task between two fusion rounds (published: 8). At least 1.
    pub inner_steps: usize,
    /// Steps on the memory in every round (published: 4). At least 1.
    pub outer_steps: usize,
    /// What makes the memory steps (paper: its own AdamW at 1e-3; released code: the inner one).
    pub outer_optimizer: OuterOptimizer,
    /// The memory loss is multiplied by this before clipping (paper: 1; released code: 1/4, its
    /// accumulation divisor).
    pub outer_loss_scale: f32,
    /// How memory batches are taken (published: drawn). `kif learn --no-shuffle` takes them in file
    /// order in any case.
    #[serde(default)]
    pub memory_order: MemoryOrder,
    /// `Some`: decay per round of a slow average of the parameters, which starts where the task
    /// starts and is what the task leaves behind (published: none). In [0, 1).
    #[serde(default)]
    pub slow_average: Option<f64>,
    /// `Some`: the memory steps learn kept predictions, too (published: none).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distillation: Option<Distillation>,
}

/// What makes the outer steps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum OuterOptimizer {
    /// An AdamW of their own, with the inner one's betas, epsilon and decay; its moments are kept
    /// over the rounds of a task.
    Own {
        /// Its constant rate, whatever the inner rate (paper: 1e-3).
        lr: f64,
    },
    /// As `own`, but its rate follows the schedule of the inner steps.
    OwnScheduled {
        /// Its rate as a multiple of that of the next inner step.
        ratio: f64,
    },
    /// The inner AdamW at the rate of the next inner step; the schedule does not move on.
    Shared,
}

impl TwoLoopConfig {
    /// As the paper states it.
    pub fn paper() -> Self {
        let outer_optimizer = OuterOptimizer::Own { lr: 1e-3 };
        Self {
            inner_steps: 8,
            outer_steps: 4,
            outer_optimizer,
            outer_loss_scale: 1.0,
            memory_order: MemoryOrder::Drawn,
            slow_average: None,
            distillation: None,
        }
    }

    /// As the released T5 code does it: `optimizer.step()` in both loops, every loss divided by 4.
    pub fn released() -> Self {
        Self {
            outer_optimizer: OuterOptimizer::Shared,
            outer_loss_scale: 0.25,
            ..Self::paper()
        }
    }

    /// Steps on the memory for every step on the task.
    pub fn added_steps(&self) -> f64 {
        self.outer_steps as f64 / self.inner_steps as f64
    }

    /// Whether every value is in its range.
    pub fn check(&self) -> Result<(), SettingError> {
        check_steps(self.inner_steps, self.outer_steps)?;
        let positive = |field: &'static str, value: f64| {
            let fine = value.is_finite() && value > 0.0;
            check_setting(fine, field, value, "a finite number above 0")
        };
        match self.outer_optimizer {
            // At a rate of 0 the memory says what matters and moves nothing.
            OuterOptimizer::Own { lr } => check_setting(
                lr.is_finite() && lr >= 0.0,
                "outer_optimizer.lr",
                lr,
                "a finite number, at least 0",
            )?,
            OuterOptimizer::OwnScheduled { ratio } => positive("outer_optimizer.ratio", ratio)?,
            OuterOptimizer::Shared => {}
        }
        positive("outer_loss_scale", f64::from(self.outer_loss_scale))?;
        let decay = self.slow_average.unwrap_or(0.0);
        check_setting(
            (0.0..1.0).contains(&decay),
            "slow_average",
            decay,
            "a number in [0, 1)",
        )?;
        self.distillation.map_or(Ok(()), |config| config.check())
    }
}

/// Whether a round has steps of both kinds.
pub(super) fn check_steps(inner_steps: usize, outer_steps: usize) -> Result<(), SettingError> {
    check_setting(inner_steps > 0, "inner_steps", inner_steps, "at least 1")?;
    check_setting(outer_steps > 0, "outer_steps", outer_steps, "at least 1")
}

/// Which of the two loops a step belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loop {
    /// Steps on the task.
    Inner,
    /// Steps on the second source.
    Outer,
}

/// What a round makes of its two updates, and what it wants to see on the way. All slices are
/// `[P]`.
#[allow(unused_variables)]
pub(super) trait Rule: Send {
    /// Forgets the last task.
    fn begin_task(&mut self) {}

    /// Sees the clipped gradient with the parameters that it belongs to.
    fn before_update(&mut self, which: Loop, params: &[f32], grads: &[f32]) {}

    /// Sees the clipped gradient with the parameters after the update.
    fn after_update(&mut self, which: Loop, params: &[f32], grads: &[f32]) {}

    /// Replaces `theta`, the parameters at the start of the round, by those that the next round
    /// starts from.
    fn combine(&mut self, theta: &mut [f32], inner_end: &[f32], outer_end: &[f32]) -> Result<()>;

    /// What the masks of the last round chose, as [`Method::take_regions`].
    fn take_regions(&mut self) -> Option<Vec<Regions>> {
        None
    }

    /// Writes what it keeps between two batches.
    fn save_state(&self, state: &mut State) {}

    /// Reads what it wrote.
    fn load_state(&mut self, state: &State) -> Result<()> {
        Ok(())
    }
}

/// The rule that does nothing: the outer steps go on where the inner ones ended, and so does the
/// next round.
pub(super) struct InSequence;

impl Rule for InSequence {
    fn combine(&mut self, theta: &mut [f32], _: &[f32], outer_end: &[f32]) -> Result<()> {
        theta.copy_from_slice(outer_end);
        Ok(())
    }
}

/// What the outer steps learn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StepsOn {
    /// Rows kept of earlier tasks.
    Memory,
    /// Rows of the task itself.
    Task,
}

/// The two loops, as a method.
pub(super) struct TwoLoop<R> {
    config: TwoLoopConfig,
    steps_on: StepsOn,
    rule: R,
    rounds: Option<Rounds>,
    /// What was predicted for the memory, where it is learned.
    teacher: Option<Teacher>,
}

/// What the rounds of one task keep.
struct Rounds {
    sampler: Sampler,
    /// Parameters at the start of the round.
    start: Vec<f32>,
    /// The outer loop's own optimizer, unless it shares the inner one.
    own: Option<AdamW>,
    /// The slow average, with its decay, where there is one.
    slow: Option<(Vec<f32>, f64)>,
}

impl Rounds {
    /// Takes the parameters after a round into the slow average.
    fn average(&mut self) -> Result<()> {
        if let Some((slow, decay)) = &mut self.slow {
            let before = slow.clone();
            weighted_average(&[(&before, *decay), (&self.start, 1.0 - *decay)], slow)?;
        }
        Ok(())
    }
}

impl<R: Rule> TwoLoop<R> {
    pub(super) fn new(config: TwoLoopConfig, steps_on: StepsOn, rule: R) -> Self {
        Self {
            config,
            steps_on,
            rule,
            rounds: None,
            teacher: config.distillation.map(Teacher::new),
        }
    }
}

impl<R: Rule> Method for TwoLoop<R> {
    fn begin_task(&mut self, learner: &mut Learner, task: &TaskView) -> Result<()> {
        self.rule.begin_task();
        self.rounds = (!task.memory.is_empty()).then(|| Rounds {
            sampler: match self.steps_on {
                StepsOn::Memory => Sampler::of_memory(task),
                StepsOn::Task => Sampler::of_task(task),
            }
            .ordered(self.config.memory_order),
            start: learner.params().to_vec(),
            own: (self.config.outer_optimizer != OuterOptimizer::Shared)
                .then(|| AdamW::new(&learner.config().optimizer, learner.params().len())),
            slow: (self.config.slow_average).map(|decay| (learner.params().to_vec(), decay)),
        });
        if let Some(teacher) = &mut self.teacher {
            teacher.watch(learner, &task.memory, task.batch_size)?;
        }
        Ok(())
    }

    fn observe(&mut self, learner: &mut Learner, batch: &Batch) -> Result<f64> {
        let Some(rounds) = &mut self.rounds else {
            return learner.step(batch);
        };
        let loss = learner.gradient(batch)?;
        self.rule
            .before_update(Loop::Inner, learner.params(), learner.grad());
        learner.apply()?;
        self.rule
            .after_update(Loop::Inner, learner.params(), learner.grad());
        if learner
            .steps()
            .is_multiple_of(self.config.inner_steps as u64)
        {
            let inner_end = learner.params().to_vec();
            for _ in 0..self.config.outer_steps {
                outer_step(
                    &self.config,
                    self.steps_on,
                    rounds,
                    self.teacher.as_ref(),
                    &mut self.rule,
                    learner,
                )?;
            }
            self.rule
                .combine(&mut rounds.start, &inner_end, learner.params())?;
            rounds.average()?;
            learner.set_params(&rounds.start)?;
        }
        Ok(loss)
    }

    fn end_task(&mut self, learner: &mut Learner, _: &TaskView) -> Result<()> {
        if let Some((slow, _)) = self.rounds.take().and_then(|rounds| rounds.slow) {
            learner.set_params(&slow)?;
        }
        Ok(())
    }

    fn take_regions(&mut self) -> Option<Vec<Regions>> {
        self.rule.take_regions()
    }

    fn kept_bytes(&self) -> u64 {
        self.teacher.as_ref().map_or(0, Teacher::kept_bytes)
    }

    fn save_state(&self, state: &mut State) {
        if let Some(teacher) = &self.teacher {
            teacher.save_state(state);
        }
        let Some(rounds) = &self.rounds else { return };
        rounds.sampler.save_state(state);
        state.put("method.start", &rounds.start);
        if let Some((slow, _)) = &rounds.slow {
            state.put("method.slow", slow);
        }
        if let Some(optimizer) = &rounds.own {
            let (m, v, t) = optimizer.moments();
            state.put("method.outer_m", m);
            state.put("method.outer_v", v);
            state.put_counter("method.outer_t", t);
        }
        self.rule.save_state(state);
    }

    fn load_state(&mut self, state: &State) -> Result<()> {
        if let Some(teacher) = &mut self.teacher {
            teacher.load_state(state)?;
        }
        let Some(rounds) = &mut self.rounds else {
            return Ok(());
        };
        let n = rounds.start.len();
        rounds.sampler.load_state(state)?;
        rounds
            .start
            .copy_from_slice(state.tensor("method.start", n)?);
        if let Some((slow, _)) = &mut rounds.slow {
            slow.copy_from_slice(state.tensor("method.slow", n)?);
        }
        if let Some(optimizer) = &mut rounds.own {
            let (m, v) = (
                state.tensor("method.outer_m", n)?,
                state.tensor("method.outer_v", n)?,
            );
            optimizer.restore(m, v, state.counter("method.outer_t")?);
        }
        self.rule.load_state(state)
    }
}

fn outer_step(
    config: &TwoLoopConfig,
    steps_on: StepsOn,
    rounds: &mut Rounds,
    teacher: Option<&Teacher>,
    rule: &mut impl Rule,
    learner: &mut Learner,
) -> Result<()> {
    let (batch, places) = rounds.sampler.draw_with_places();
    match (steps_on, teacher) {
        (StepsOn::Memory, None) => learner.memory_gradient(&batch, config.outer_loss_scale)?,
        (StepsOn::Memory, Some(teacher)) => {
            teacher.gradient(learner, &batch, &places, config.outer_loss_scale)?
        }
        (StepsOn::Task, _) => learner.gradient(&batch)?,
    };
    rule.before_update(Loop::Outer, learner.params(), learner.grad());
    let rate = match config.outer_optimizer {
        OuterOptimizer::Own { lr } => lr,
        OuterOptimizer::OwnScheduled { ratio } => ratio * learner.next_rate(),
        OuterOptimizer::Shared => learner.next_rate(),
    };
    learner.apply_with(rounds.own.as_mut(), rate)?;
    rule.after_update(Loop::Outer, learner.params(), learner.grad());
    Ok(())
}
