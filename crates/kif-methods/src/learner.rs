//! The learner: a model, its gradient, its optimizer and what they cost.

mod clip;
pub(crate) mod micro_batch;

use std::ops::Range;

use anyhow::Result;
use kif_data::Batch;
use kif_data::chance::{self, Purpose};
use kif_model::{Dropout, LanguageModel, ParamLayout, Sampling};
use serde::{Deserialize, Serialize};

use self::clip::{clip, norm};
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
    /// The mean of the means of micro-batches (published: 4 of 2 rows each), which weighs rows with few target
    /// tokens more.
    Batches,
}

/// How a learner learns; the defaults are the published settings, except that they accumulate over tokens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LearnerConfig {
    /// The optimizer of the learning steps.
    pub optimizer: OptimizerConfig,
    /// How the loss of a batch is averaged.
    pub accumulate: Accumulate,
    /// Rows of a micro-batch under `accumulate: batches` (published: 2).
    pub micro_rows: usize,
    /// Most tokens, inputs and targets together, that go through the model at once under `accumulate: tokens`;
    /// a longer row goes alone. Bounds memory, changes results by rounding only (without dropout).
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
    /// Input and target tokens that went forward only: magnitudes of outputs, losses and predictions
    /// that a method looks at, texts that it draws. 0 in records
    /// from before they were counted. Evaluation, and the losses that choose the memory's rows, are not training.
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
/// [`gradient`](Self::gradient) and one of the `apply` functions with whatever a method does in between.
pub struct Learner {
    model: Box<dyn LanguageModel>,
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
    counters: Counters,
    memory_losses: Vec<f64>,
}

impl Learner {
    /// A learner on `model` as it is now; its present parameters are what [`reset_params`](Self::reset_params)
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
            model,
            task_idx: 0,
            task: String::new(),
            step: 0,
            pass: 0,
            counters: Counters::default(),
            memory_losses: Vec::new(),
        }
    }

    /// The same learner, whose adapter is read as `n_slots` adapters side by side
    /// ([`ParamLayout::with_slots`]).
    pub fn with_slots(self, n_slots: usize) -> Result<Self> {
        let layout = self.layout.with_slots(n_slots)?;
        Ok(Self { layout, ..self })
    }

    /// Starts a task: fresh moments, step 0 of `schedule`, every parameter may change. Parameters stay.
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

    /// Until the task ends or this is called again, only the parameters in `ranges` (ascending) may change: the gradient
    /// of all others is 0 before it is clipped, and no update touches them, whatever its momentum.
    pub fn train_only(&mut self, ranges: Vec<Range<usize>>) {
        self.trained = Some(ranges);
    }

    /// The soft prompts that take part from now on, as [`LanguageModel::activate_prompts`] says. They are no part of the
    /// saved state.
    pub fn activate_prompts(&mut self, prompts: &[usize]) -> Result<()> {
        Ok(self.model.activate_prompts(prompts)?)
    }

    /// From now on the first `open_slots` adapters share the work, as [`LanguageModel::set_open_slots`] says. No part of the
    /// saved state.
    pub fn set_open_slots(&mut self, open_slots: usize) -> Result<()> {
        Ok(self.model.set_open_slots(open_slots)?)
    }

    /// One learning step on `batch`: gradient, clipping, update, schedule. Returns the mean loss in nats per target
    /// token, averaged as configured. A non-finite loss or gradient is [`NonFinite`], before the update.
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

    /// The clipped gradient of the mean loss, averaged as configured; read it with [`grad`](Self::grad).
    pub fn gradient(&mut self, batch: &Batch) -> Result<f64> {
        self.gradient_with(batch, |_, _| {})
    }

    /// As [`gradient`](Self::gradient), with `adjust(params, grad)`, both `[P]`, called once on the gradient of the
    /// mean loss before it is clipped: a penalty adds its own gradient there. The loss is returned without it.
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

    /// Adds the gradient of the summed nll of `batch` to `grad`, `[P]`: without dropout, unclipped, and without a
    /// trace in [`grad`](Self::grad). Returns the sum in nats.
    pub fn add_nll_gradient(&mut self, batch: &Batch, grad: &mut [f32]) -> Result<f64> {
        let nll = self.model.loss_and_grad(batch, 1.0, None, grad)?.nll;
        self.counters.tokens += n_tokens(batch);
        self.finite_norm(nll, grad)?;
        Ok(nll)
    }

    /// Mean nll of `batch` in nats per target token, without dropout and without a gradient.
    pub fn mean_nll(&mut self, batch: &Batch) -> Result<f64> {
        let nll: f64 = self.model.nll_per_row(batch)?.iter().sum();
        self.counters.forward_only_tokens += n_tokens(batch);
        Ok(nll / batch.targets.n_tokens().max(1) as f64)
    }

    /// Mean absolute outputs over `batch`, as [`LanguageModel::output_magnitudes`] has them.
    pub fn output_magnitudes(&mut self, batch: &Batch) -> Result<Vec<Vec<f32>>> {
        let magnitudes = self.model.output_magnitudes(batch)?;
        self.counters.forward_only_tokens += n_tokens(batch);
        Ok(magnitudes)
    }

    /// Up to `at_most` vectors that each A reads in a pass over `batch`, as [`LanguageModel::layer_inputs`] has them.
    pub fn layer_inputs(&mut self, batch: &Batch, at_most: usize) -> Result<Vec<Vec<f32>>> {
        let inputs = self.model.layer_inputs(batch, at_most)?;
        self.counters.forward_only_tokens += n_tokens(batch);
        Ok(inputs)
    }

    /// Adds the gradient of a function of the routing weights of `batch` to `grad`, `[P]`, as
    /// [`LanguageModel::add_routing_gradient`]: unclipped, and without a trace in [`grad`](Self::grad). Only the router
    /// reads the rows, so they count as no tokens.
    pub fn add_routing_gradient(
        &mut self,
        batch: &Batch,
        by_weights: &[f32],
        grad: &mut [f32],
    ) -> Result<()> {
        Ok(self.model.add_routing_gradient(batch, by_weights, grad)?)
    }

    /// Adds the gradient of `weight` times the summed divergence of the model's predictions from those of `log_probs` to
    /// `grad`, `[P]`, as [`LanguageModel::divergence_and_grad`]: unclipped, and without a trace in [`grad`](Self::grad).
    /// Returns the sum in nats.
    pub fn add_divergence_gradient(
        &mut self,
        batch: &Batch,
        log_probs: &[Vec<f32>],
        weight: f32,
        grad: &mut [f32],
    ) -> Result<f64> {
        let sum = self
            .model
            .divergence_and_grad(batch, log_probs, weight, grad)?;
        self.counters.tokens += n_tokens(batch);
        self.finite_norm(sum, grad)?;
        Ok(sum)
    }

    /// Logits at every target position, as [`LanguageModel::target_logits`] has them.
    pub fn target_logits(&mut self, batch: &Batch) -> Result<Vec<Vec<f32>>> {
        let logits = self.model.target_logits(batch)?;
        self.counters.forward_only_tokens += n_tokens(batch);
        Ok(logits)
    }

    /// Texts that the model draws, as [`LanguageModel::sample`] has them.
    pub fn sample(
        &mut self,
        prompts: &[&[u32]],
        keys: &[[u8; 32]],
        sampling: Sampling,
    ) -> Result<Vec<Vec<Vec<u32>>>> {
        let texts = self.model.sample(prompts, keys, sampling)?;
        let asked: usize = prompts.iter().map(|prompt| prompt.len()).sum();
        let drawn: usize = texts.iter().flatten().map(Vec::len).sum();
        self.counters.forward_only_tokens += (asked + drawn) as u64;
        Ok(texts)
    }

    /// Puts `grad`, `[P]`, in the place of the gradient, checked and clipped as one.
    pub fn set_gradient(&mut self, grad: &[f32]) -> Result<()> {
        self.grad.copy_from_slice(grad);
        self.clip(0.0)
    }

    /// The clipped gradient of `scale` times the mean over all target tokens of a batch from the memory; the loss
    /// is returned unscaled.
    pub fn memory_gradient(&mut self, batch: &Batch, scale: f32) -> Result<f64> {
        self.memory_gradient_with(batch, scale, |_, _| {})
    }

    /// As [`memory_gradient`](Self::memory_gradient), with `adjust` as in [`gradient_with`](Self::gradient_with).
    pub fn memory_gradient_with(
        &mut self,
        batch: &Batch,
        scale: f32,
        adjust: impl FnOnce(&[f32], &mut [f32]),
    ) -> Result<f64> {
        self.counters.memory_rows += batch.n_rows() as u64;
        let loss = self.mean_gradient_with(batch, scale, adjust)?;
        self.memory_losses.push(loss);
        Ok(loss)
    }

    /// The clipped gradient of `scale` times the mean over all target tokens; the loss is returned unscaled.
    pub fn mean_gradient(&mut self, batch: &Batch, scale: f32) -> Result<f64> {
        self.mean_gradient_with(batch, scale, |_, _| {})
    }

    fn mean_gradient_with(
        &mut self,
        batch: &Batch,
        scale: f32,
        adjust: impl FnOnce(&[f32], &mut [f32]),
    ) -> Result<f64> {
        self.gradient_over(
            &by_tokens(batch, self.config.micro_tokens),
            Weighing::Tokens,
            scale,
            adjust,
        )
    }

    /// Passes forward and backward taken in this task.
    pub fn passes(&self) -> u64 {
        self.pass
    }

    /// The next passes drop what those behind pass number `pass` dropped: for the same loss at other parameters.
    pub fn repeat_from(&mut self, pass: u64) {
        self.pass = pass;
    }

    /// A learning step with the present gradient: own optimizer, the schedule's rate, and the schedule moves on.
    pub fn apply(&mut self) -> Result<()> {
        self.apply_without_advancing()?;
        self.step += 1;
        Ok(())
    }

    /// An update with the present gradient, own optimizer and the schedule's next rate; the schedule stays.
    pub fn apply_without_advancing(&mut self) -> Result<()> {
        let rate = self.schedule.rate(self.step);
        let frozen = self.frozen();
        self.optimizer.step(&mut self.params, &self.grad, rate);
        self.updated(frozen)
    }

    /// An update with the present gradient by another optimizer at the rate `lr`.
    pub fn apply_with(&mut self, optimizer: &mut AdamW, lr: f64) -> Result<()> {
        let frozen = self.frozen();
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
    pub fn reset_params(&mut self) -> Result<()> {
        self.params.copy_from_slice(&self.initial);
        Ok(self.model.set_params(&self.params)?)
    }

    /// Names and places of the parameters.
    pub fn layout(&self) -> &ParamLayout {
        &self.layout
    }

    /// The model, for evaluation.
    pub fn model(&self) -> &dyn LanguageModel {
        self.model.as_ref()
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
        self.counters
    }

    /// Writes parameters, moments and counters under `learner.`.
    pub fn save_state(&self, state: &mut State) {
        let (m, v, t) = self.optimizer.moments();
        state.put("learner.params", &self.params);
        state.put("learner.m", m);
        state.put("learner.v", v);
        state.put_counter("learner.t", t);
        state.put_counter("learner.step", self.step);
        state.put_counter("learner.pass", self.pass);
        state.put_counter("learner.updates", self.counters.updates);
        state.put_counter("learner.tokens", self.counters.tokens);
        state.put_counter(
            "learner.forward_only_tokens",
            self.counters.forward_only_tokens,
        );
        state.put_counter("learner.memory_rows", self.counters.memory_rows);
    }

    /// Reads what [`save_state`](Self::save_state) wrote, into a learner that has begun the same task.
    pub fn load_state(&mut self, state: &State) -> Result<()> {
        let n = self.params.len();
        let params = state.tensor("learner.params", n)?;
        self.optimizer.restore(
            state.tensor("learner.m", n)?,
            state.tensor("learner.v", n)?,
            state.counter("learner.t")?,
        );
        self.step = state.counter("learner.step")?;
        self.pass = state.counter("learner.pass")?;
        self.counters = Counters {
            updates: state.counter("learner.updates")?,
            tokens: state.counter("learner.tokens")?,
            forward_only_tokens: state.counter("learner.forward_only_tokens")?,
            memory_rows: state.counter("learner.memory_rows")?,
        };
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
        self.counters.updates += 1;
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
            self.counters.tokens += n_tokens(part);
        }
        adjust(&self.params, &mut self.grad);
        self.clip(loss)?;
        Ok(loss)
    }

    /// Leaves the gradient of trained parameters alone, clipped; an error where it or `loss` is not finite.
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

fn n_tokens(batch: &Batch) -> u64 {
    (batch.inputs.n_tokens() + batch.targets.n_tokens()) as u64
}

/// How micro-batches share the loss.
#[derive(Clone, Copy)]
enum Weighing {
    /// Every target token of the batch weighs the same.
    Tokens,
    /// Every micro-batch weighs the same.
    Means,
}
