//! The learner: a model, its gradient, its optimizer and what they cost.

mod clip;
mod metered;
pub(crate) mod micro_batch;

use std::ops::Range;

use anyhow::Result;
use kif_data::Batch;
use kif_data::chance::{self, Purpose};
use kif_model::{Dropout, LanguageModel, ModelError, ParamLayout};
use serde::{Deserialize, Serialize};

use self::clip::{clip, norm};
pub use self::metered::Metered;
use self::micro_batch::{by_rows, by_tokens};
use crate::adamw::{AdamW, OptimizerConfig};
use crate::error::{NonFinite, Quantity, SettingError, check_setting};
use crate::schedule::Schedule;
use crate::state::State;

/// How the loss of a batch is averaged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accumulate {
    /// One mean over all target tokens of the batch, whatever micro-batches it is computed in.
    #[default]
    Tokens,
    /// The mean of the means of micro-batches (published: 4 of 2 rows each), which weighs rows with
    /// few target tokens more.
    Batches,
}

/// How a learner learns; the defaults are the published settings, except that they accumulate over
/// tokens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LearnerConfig {
    /// The optimizer of the learning steps.
    pub optimizer: OptimizerConfig,
    /// How the loss of a batch is averaged.
    pub accumulate: Accumulate,
    /// Rows of a micro-batch under `accumulate: batches` (published: 2).
    pub micro_rows: usize,
    /// Most tokens, inputs and targets together, that go through the model at once under
    /// `accumulate: tokens`; a longer row goes alone. Bounds memory, changes results by rounding
    /// only (without dropout).
    pub micro_tokens: usize,
    /// Share of the inputs of every LoRA A that is dropped in training (published: 0.05).
    pub dropout: f32,
    /// Seed of the dropout masks.
    pub seed: u64,
}

impl Default for LearnerConfig {
    fn default() -> Self {
        Self {
            optimizer: OptimizerConfig::default(),
            accumulate: Accumulate::default(),
            micro_rows: 2,
            micro_tokens: 16_384,
            dropout: 0.05,
            seed: 1,
        }
    }
}

impl LearnerConfig {
    /// Whether every value is in its range.
    pub fn check(&self) -> Result<(), SettingError> {
        self.optimizer.check()?;
        check_setting(
            self.micro_rows > 0,
            "micro_rows",
            self.micro_rows,
            "at least 1",
        )?;
        check_setting(
            self.micro_tokens > 0,
            "micro_tokens",
            self.micro_tokens,
            "at least 1",
        )?;
        check_setting(
            (0.0..1.0).contains(&self.dropout),
            "dropout",
            self.dropout,
            "a number in [0, 1)",
        )
    }
}

/// What training has cost, over all tasks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Optimizer updates, memory steps included.
    pub updates: u64,
    /// Input and target tokens that went forward and backward.
    pub tokens: u64,
    /// Input and target tokens that went forward only: magnitudes of outputs, losses and
    /// predictions that a method looks at, texts that it draws. 0 in records from before they were
    /// counted. Evaluation, and the losses that choose the memory's rows, are not training.
    #[serde(default)]
    pub forward_only_tokens: u64,
    /// Rows of memory steps (methods that shuffle the memory into their batches do not count here).
    pub memory_rows: u64,
}

impl Counters {
    /// Tokens that went forward.
    pub fn tokens_forward(&self) -> u64 {
        self.tokens + self.forward_only_tokens
    }
}

/// A model in training: parameters, the gradient of the last pass, the optimizer and the schedule.
///
/// A task starts with [`begin_task`](Self::begin_task); then [`step`](Self::step), or its parts
/// [`gradient`](Self::gradient) and one of the `apply` functions with whatever a method does in
/// between.
pub struct Learner {
    model: Metered,
    layout: ParamLayout,
    config: LearnerConfig,
    params: Vec<f32>,
    initial: Vec<f32>,
    grad: Vec<f32>,
    /// The only parameters that may change, in ascending order; all without.
    trained: Option<Vec<Range<usize>>>,
    optimizer: AdamW,
    schedule: Schedule,
    task_idx: u64,
    task: String,
    step: u64,
    pass: u64,
    updates: u64,
    memory_rows: u64,
    memory_losses: Vec<f64>,
}

impl Learner {
    /// A learner on `model` as it is now; its present parameters are what `reset_params`
    /// returns to. `schedule` holds until a task begins.
    pub fn new(model: Box<dyn LanguageModel>, config: LearnerConfig, schedule: Schedule) -> Self {
        let params = model.params().to_vec();
        Self {
            config,
            initial: params.clone(),
            grad: vec![0.0; params.len()],
            trained: None,
            layout: model.layout().clone(),
            optimizer: AdamW::new(&config.optimizer, params.len()),
            schedule,
            params,
            model: Metered::new(model),
            task_idx: 0,
            task: String::new(),
            step: 0,
            pass: 0,
            updates: 0,
            memory_rows: 0,
            memory_losses: Vec::new(),
        }
    }

    /// The same learner, whose adapter is read as `n_slots` adapters side by side
    /// ([`ParamLayout::with_slots`]).
    pub fn with_slots(self, n_slots: usize) -> Result<Self> {
        let layout = self.layout.with_slots(n_slots)?;
        Ok(Self { layout, ..self })
    }

    /// Starts a task: fresh moments, step 0 of `schedule`, every parameter may change. Parameters
    /// stay.
    pub fn begin_task(&mut self, task_idx: usize, name: &str, schedule: Schedule) {
        self.optimizer.reset();
        self.schedule = schedule;
        self.task_idx = task_idx as u64;
        self.task = name.to_owned();
        self.step = 0;
        self.pass = 0;
        self.trained = None;
        self.memory_losses.clear();
    }

    /// Until the task ends or this is called again, only the parameters in `ranges` (ascending) may
    /// change: the gradient of all others is 0 before it is clipped, and no update touches them,
    /// whatever its momentum.
    pub fn train_only(&mut self, ranges: Vec<Range<usize>>) {
        self.trained = Some(ranges);
    }

    /// One learning step on `batch`: gradient, clipping, update, schedule. Returns the mean loss in
    /// nats per target token, averaged as configured. A non-finite loss or gradient is
    /// [`NonFinite`], before the update.
    pub fn step(&mut self, batch: &Batch) -> Result<f64> {
        self.step_with(batch, |_, _| {})
    }

    /// As [`step`](Self::step), with `adjust` as in [`gradient_with`](Self::gradient_with).
    pub fn step_with(
        &mut self,
        batch: &Batch,
        adjust: impl FnOnce(&[f32], &mut [f32]),
    ) -> Result<f64> {
        let loss = self.gradient_with(batch, adjust)?;
        self.apply()?;
        Ok(loss)
    }

    /// The clipped gradient of the mean loss, averaged as configured; read it with
    /// [`grad`](Self::grad).
    pub fn gradient(&mut self, batch: &Batch) -> Result<f64> {
        self.gradient_with(batch, |_, _| {})
    }

    /// As [`gradient`](Self::gradient), with `adjust(params, grad)`, both `[P]`, called once on the
    /// gradient of the mean loss before it is clipped: a penalty adds its own gradient there. The
    /// loss is returned without it.
    pub fn gradient_with(
        &mut self,
        batch: &Batch,
        adjust: impl FnOnce(&[f32], &mut [f32]),
    ) -> Result<f64> {
        let (parts, weighing) = match self.config.accumulate {
            Accumulate::Tokens => (by_tokens(batch, self.config.micro_tokens), Weighing::Tokens),
            Accumulate::Batches => (by_rows(batch, self.config.micro_rows), Weighing::Means),
        };
        self.gradient_over(&parts, weighing, 1.0, adjust)
    }

    /// Lets `pass` add a gradient to `grad`, `[P]`, and returns its loss: unclipped, and without a
    /// trace in [`grad`](Self::grad). A loss or gradient that is not finite is [`NonFinite`].
    pub fn add_gradient(
        &mut self,
        grad: &mut [f32],
        pass: impl FnOnce(&mut Metered, &mut [f32]) -> Result<f64, ModelError>,
    ) -> Result<f64> {
        let loss = pass(&mut self.model, grad)?;
        self.finite_norm(loss, grad)?;
        Ok(loss)
    }

    /// Puts `grad`, `[P]`, in the place of the gradient, checked and clipped as one.
    pub fn set_gradient(&mut self, grad: &[f32]) -> Result<()> {
        self.grad.copy_from_slice(grad);
        self.clip(0.0)
    }

    /// The clipped gradient of `scale` times the mean over all target tokens of a batch from the
    /// memory; the loss is returned unscaled.
    pub fn memory_gradient(&mut self, batch: &Batch, scale: f32) -> Result<f64> {
        self.memory_gradient_with(batch, scale, |_, _| {})
    }

    /// As [`memory_gradient`](Self::memory_gradient), with `adjust` as in
    /// [`gradient_with`](Self::gradient_with).
    pub(crate) fn memory_gradient_with(
        &mut self,
        batch: &Batch,
        scale: f32,
        adjust: impl FnOnce(&[f32], &mut [f32]),
    ) -> Result<f64> {
        self.memory_rows += batch.n_rows() as u64;
        let parts = by_tokens(batch, self.config.micro_tokens);
        let loss = self.gradient_over(&parts, Weighing::Tokens, scale, adjust)?;
        self.memory_losses.push(loss);
        Ok(loss)
    }

    /// As [`memory_gradient`](Self::memory_gradient), of the mean divergence from other predictions
    /// in the place of the negative log-likelihood. `log_probs(rows)` makes those of a range of
    /// rows, row by row `[T, V]`, when they are needed.
    pub(crate) fn memory_divergence(
        &mut self,
        batch: &Batch,
        log_probs: impl Fn(Range<usize>) -> Vec<Vec<f32>>,
        scale: f32,
    ) -> Result<f64> {
        self.memory_rows += batch.n_rows() as u64;
        let share = 1.0 / batch.targets.n_tokens() as f64;
        let weight = (f64::from(scale) * share) as f32;
        self.grad.fill(0.0);
        let (mut loss, mut start) = (0.0, 0);
        for part in by_tokens(batch, self.config.micro_tokens) {
            let log_probs = log_probs(start..start + part.n_rows());
            let dropout = self.next_dropout();
            let grad = &mut self.grad;
            let model = &mut self.model;
            loss += share * model.divergence_and_grad(&part, &log_probs, weight, dropout, grad)?;
            start += part.n_rows();
        }
        self.clip(loss)?;
        self.memory_losses.push(loss);
        Ok(loss)
    }

    /// Passes forward and backward taken in this task.
    pub(crate) fn passes(&self) -> u64 {
        self.pass
    }

    /// The next passes drop what those after pass number `pass` dropped: for the same loss at other
    /// parameters.
    pub(crate) fn repeat_from(&mut self, pass: u64) {
        self.pass = pass;
    }

    /// A learning step with the present gradient: own optimizer, the schedule's rate, and the
    /// schedule moves on.
    pub fn apply(&mut self) -> Result<()> {
        self.apply_with(None, self.next_rate())?;
        self.step += 1;
        Ok(())
    }

    /// An update with the present gradient at the rate `lr`, by another optimizer or by the own
    /// one; the schedule stays.
    pub fn apply_with(&mut self, optimizer: Option<&mut AdamW>, lr: f64) -> Result<()> {
        let frozen = self.frozen();
        let optimizer = optimizer.unwrap_or(&mut self.optimizer);
        optimizer.step(&mut self.params, &self.grad, lr);
        self.updated(frozen)
    }

    /// The trainable parameters, `[P]`.
    pub fn params(&self) -> &[f32] {
        &self.params
    }

    /// The clipped gradient of the last pass, `[P]`.
    pub fn grad(&self) -> &[f32] {
        &self.grad
    }

    /// Replaces the parameters; moments and schedule stay.
    pub fn set_params(&mut self, params: &[f32]) -> Result<()> {
        self.params.copy_from_slice(params);
        Ok(self.model.set_params(&self.params)?)
    }

    /// Returns to the parameters that the learner started with.
    pub(crate) fn reset_params(&mut self) -> Result<()> {
        self.params.copy_from_slice(&self.initial);
        Ok(self.model.set_params(&self.params)?)
    }

    /// Names and places of the parameters.
    pub fn layout(&self) -> &ParamLayout {
        &self.layout
    }

    /// The model, for evaluation: what goes through it here is not training, and is not counted.
    pub fn model(&self) -> &dyn LanguageModel {
        self.model.uncounted()
    }

    /// The model, for what a method does with it besides steps, all of which is counted. A gradient
    /// made here is not checked; [`add_gradient`](Self::add_gradient) does that, too.
    pub fn model_mut(&mut self) -> &mut Metered {
        &mut self.model
    }

    /// How it learns.
    pub fn config(&self) -> &LearnerConfig {
        &self.config
    }

    /// Learning steps taken in this task; memory steps are not among them.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// The rate at every step of this task.
    pub fn schedule(&self) -> Schedule {
        self.schedule
    }

    /// The rate of the next learning step.
    pub fn next_rate(&self) -> f64 {
        self.schedule.rate(self.step)
    }

    /// The unscaled losses of all memory steps since they were last taken.
    pub fn take_memory_losses(&mut self) -> Vec<f64> {
        std::mem::take(&mut self.memory_losses)
    }

    /// What training has cost so far.
    pub fn counters(&self) -> Counters {
        Counters {
            updates: self.updates,
            tokens: self.model.tokens,
            forward_only_tokens: self.model.forward_only_tokens,
            memory_rows: self.memory_rows,
        }
    }

    /// Writes parameters, moments and counters under `learner.`.
    pub(crate) fn save_state(&self, state: &mut State) {
        let (m, v, t) = self.optimizer.moments();
        state.put("learner.params", &self.params);
        state.put("learner.m", m);
        state.put("learner.v", v);
        state.put_counter("learner.t", t);
        state.put_counter("learner.step", self.step);
        state.put_counter("learner.pass", self.pass);
        let counters = self.counters();
        state.put_counter("learner.updates", counters.updates);
        state.put_counter("learner.tokens", counters.tokens);
        state.put_counter("learner.forward_only_tokens", counters.forward_only_tokens);
        state.put_counter("learner.memory_rows", counters.memory_rows);
    }

    /// Reads what [`save_state`](Self::save_state) wrote, into a learner that has begun the same
    /// task.
    pub(crate) fn load_state(&mut self, state: &State) -> Result<()> {
        let n = self.params.len();
        let params = state.tensor("learner.params", n)?;
        self.optimizer.restore(
            state.tensor("learner.m", n)?,
            state.tensor("learner.v", n)?,
            state.counter("learner.t")?,
        );
        self.step = state.counter("learner.step")?;
        self.pass = state.counter("learner.pass")?;
        self.updates = state.counter("learner.updates")?;
        self.model.tokens = state.counter("learner.tokens")?;
        self.model.forward_only_tokens = state.counter("learner.forward_only_tokens")?;
        self.memory_rows = state.counter("learner.memory_rows")?;
        self.set_params(params)
    }

    /// The parameters before an update, where some of them must not change.
    fn frozen(&self) -> Option<Vec<f32>> {
        self.trained.as_ref().map(|_| self.params.clone())
    }

    fn updated(&mut self, frozen: Option<Vec<f32>>) -> Result<()> {
        if let (Some(before), Some(trained)) = (frozen, &self.trained) {
            // Weight decay moves parameters that have no gradient.
            for gap in gaps(trained, before.len()) {
                self.params[gap.clone()].copy_from_slice(&before[gap]);
            }
        }
        self.updates += 1;
        Ok(self.model.set_params(&self.params)?)
    }

    /// Adds up the gradients of `parts`, stops at anything non-finite, and clips.
    fn gradient_over(
        &mut self,
        parts: &[Batch],
        weighing: Weighing,
        scale: f32,
        adjust: impl FnOnce(&[f32], &mut [f32]),
    ) -> Result<f64> {
        let all_tokens: usize = parts.iter().map(|part| part.targets.n_tokens()).sum();
        self.grad.fill(0.0);
        let mut loss = 0.0;
        for part in parts {
            let share = match weighing {
                Weighing::Tokens => 1.0 / all_tokens as f64,
                Weighing::Means => 1.0 / (parts.len() * part.targets.n_tokens()) as f64,
            };
            let weight = (f64::from(scale) * share) as f32;
            let dropout = self.next_dropout();
            loss += share
                * self
                    .model
                    .loss_and_grad(part, weight, dropout, &mut self.grad)?
                    .nll;
        }
        adjust(&self.params, &mut self.grad);
        self.clip(loss)?;
        Ok(loss)
    }

    /// Leaves the gradient of trained parameters alone, clipped; an error where it or `loss` is not
    /// finite.
    fn clip(&mut self, loss: f64) -> Result<()> {
        if let Some(trained) = &self.trained {
            for gap in gaps(trained, self.grad.len()) {
                self.grad[gap].fill(0.0);
            }
        }
        let norm = self.finite_norm(loss, &self.grad)?;
        clip(&mut self.grad, norm, self.config.optimizer.clip);
        Ok(())
    }

    fn finite_norm(&self, loss: f64, grad: &[f32]) -> Result<f64> {
        let norm = norm(grad);
        if !loss.is_finite() {
            return Err(self.non_finite(Quantity::Loss, loss, grad).into());
        }
        if !norm.is_finite() {
            return Err(self.non_finite(Quantity::Gradient, norm, grad).into());
        }
        Ok(norm)
    }

    fn next_dropout(&mut self) -> Option<Dropout> {
        let key = chance::key(self.config.seed, Purpose::Dropout, self.task_idx, self.pass);
        self.pass += 1;
        (self.config.dropout > 0.0).then_some(Dropout {
            p: self.config.dropout,
            key,
        })
    }

    fn non_finite(&self, quantity: Quantity, value: f64, grad: &[f32]) -> NonFinite {
        let first = |values: &[f32]| values.iter().position(|x| !x.is_finite());
        let at = first(&self.params).or_else(|| first(grad));
        NonFinite {
            task: self.task.clone(),
            step: self.step,
            quantity,
            value,
            parameter: at.and_then(|i| self.layout().name_at(i)).map(str::to_owned),
        }
    }
}

/// What lies between `ranges`, which ascend, in `0..len`.
fn gaps(ranges: &[Range<usize>], len: usize) -> impl Iterator<Item = Range<usize>> {
    let starts = std::iter::once(0).chain(ranges.iter().map(|range| range.end));
    let ends = ranges
        .iter()
        .map(|range| range.start)
        .chain(std::iter::once(len));
    starts.zip(ends).map(|(start, end)| start..end)
}

/// How micro-batches share the loss.
#[derive(Clone, Copy)]
enum Weighing {
    /// Every target token of the batch weighs the same.
    Tokens,
    /// Every micro-batch weighs the same.
    Means,
}
