//! A model small enough to check by hand, and streams for it.

pub(crate) mod quick;

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use anyhow::Result;
use kif_data::{Batch, Encoded, Ragged, epoch_order};
use kif_methods::methods::Parts;
use kif_methods::{Learner, LearnerConfig, MemoryOrder, Method, MethodConfig, Schedule, TaskView};
use kif_model::{
    BatchLoss, Distributions, Dropout, Insights, LORA_A, LORA_B, LanguageModel, ModelError,
    ParamGroup, ParamLayout, ParamSpec, PromptSelection, Prompted, Router, Routing, RowRouted,
    Sampling, SlotRouted, closest_keys,
};

/// The method that is called so.
pub(crate) fn named(name: &str) -> MethodConfig {
    MethodConfig::by_name(name).unwrap()
}

/// Parameters of the toy model, in an A and a B of 4.
pub(crate) const P: usize = 8;

/// The nll of target token `t` is `1/2 |theta - e_t|^2`: every token pulls its own parameter to 1,
/// the others to 0. With more slots than one, token `t` has the parameters `t`, `t + P`, `t + 2 P`
/// and so on. With soft prompts, every row of these has P parameters, and those of the active ones
/// count that a pool chooses. A router says how much each slot counts, and the loss does not depend
/// on it.
///
/// It notes the input tokens of all rows that it is shown and has not written. Dropout shifts the
/// gradient by up to 0.01 as its key says. Input token [`POISON`] makes the loss NaN, input token
/// [`EXPLODE`] one gradient infinite.
pub(crate) struct Quadratic {
    theta: Vec<f32>,
    layout: ParamLayout,
    parts: Parts,
    active: Vec<usize>,
    open_slots: usize,
    seen: Seen,
}

/// First input tokens of the rows that a model was shown.
pub(crate) type Seen = Arc<Mutex<BTreeSet<u32>>>;

pub(crate) const POISON: u32 = 1000;
pub(crate) const EXPLODE: u32 = 1001;
/// The first input token of texts that the model writes.
pub(crate) const WRITTEN: u32 = 2000;

impl Quadratic {
    pub(crate) fn new(parts: Parts) -> Self {
        let mut layout = ParamLayout::default();
        match parts.prompts {
            None => {
                layout.push(format!("toy{LORA_A}"), vec![2 * parts.n_slots, 2]);
                layout.push(format!("toy{LORA_B}"), vec![2, 2 * parts.n_slots]);
                let rows = |width| vec![parts.n_slots, width];
                match parts.router {
                    Some(Router::Instance { .. }) => {
                        layout.push_to(ParamGroup::SlotKeys, "slot_keys".into(), rows(P));
                    }
                    Some(Router::Token { .. }) => {
                        layout.push_to(ParamGroup::Router, "router.toy.weight".into(), rows(2));
                    }
                    None => {}
                }
            }
            Some(prompts) => {
                let shape = vec![prompts.n_prompts, prompts.length, P];
                layout.push_to(ParamGroup::Prompts, "prompts".into(), shape);
                if let PromptSelection::Pool { .. } = prompts.selection {
                    let shape = vec![prompts.n_prompts, P];
                    layout.push_to(ParamGroup::PromptKeys, "prompt_keys".into(), shape);
                }
            }
        }
        let theta = (0..layout.n_params())
            .map(|i| 0.1 + 0.02 * (i % P) as f32)
            .collect();
        Self {
            theta,
            layout,
            parts,
            active: Vec::new(),
            open_slots: parts.n_slots,
            seen: Seen::default(),
        }
    }

    /// The parameters that answer a text.
    fn answering(&self, text: &[u32]) -> Vec<Range<usize>> {
        let Some(prompts) = self.parts.prompts else {
            return std::iter::once(0..P * self.parts.n_slots).collect();
        };
        let chosen = match prompts.selection {
            PromptSelection::Fixed => self.active.clone(),
            PromptSelection::Pool { top_k } => {
                let keys = self.layout.group(ParamGroup::PromptKeys).remove(0);
                closest_keys(&self.theta[keys], &embedding(text), &self.active, top_k)
            }
        };
        let places = self.layout.prompts();
        chosen.into_iter().map(|i| places[i].clone()).collect()
    }

    fn nll(&self, answering: &[Range<usize>], token: u32) -> f64 {
        let square = |i: usize| (f64::from(self.theta[i]) - target(i, token)).powi(2);
        answering.iter().cloned().flatten().map(square).sum::<f64>() / 2.0
    }

    /// Energies as logits: of all tokens the parameters that they pull, summed over the slots.
    fn logits(&self, answering: &[Range<usize>]) -> Vec<f32> {
        let mut logits = vec![0.0; P];
        for i in answering.iter().cloned().flatten() {
            logits[i % P] += self.theta[i];
        }
        logits
    }

    fn key(&self, slot: usize) -> Range<usize> {
        let keys = self.layout.group(ParamGroup::SlotKeys).remove(0);
        keys.start + slot * P..keys.start + (slot + 1) * P
    }

    fn routes_rows(&self) -> bool {
        matches!(self.parts.router, Some(Router::Instance { .. }))
    }

    fn note(&self, batch: &Batch) {
        let firsts = batch.inputs.rows().filter_map(|row| row.first());
        let read = firsts.filter(|token| **token < WRITTEN);
        self.seen.lock().unwrap().extend(read);
    }
}

/// Where `token` pulls parameter `i`.
fn target(i: usize, token: u32) -> f64 {
    f64::from(u8::from(i % P == token as usize))
}

/// One direction for every first token, up to P of them.
fn embedding(text: &[u32]) -> Vec<f32> {
    let at = text[0] as usize % P;
    (0..P).map(|i| if i == at { 1.0 } else { 0.1 }).collect()
}

impl LanguageModel for Quadratic {
    fn layout(&self) -> &ParamLayout {
        &self.layout
    }

    fn params(&self) -> &[f32] {
        &self.theta
    }

    fn set_params(&mut self, params: &[f32]) -> Result<(), ModelError> {
        self.theta.copy_from_slice(params);
        Ok(())
    }

    fn loss_and_grad(
        &mut self,
        batch: &Batch,
        weight: f32,
        dropout: Option<Dropout>,
        grad: &mut [f32],
    ) -> Result<BatchLoss, ModelError> {
        self.note(batch);
        let mut loss = BatchLoss {
            nll: 0.0,
            n_tokens: batch.targets.n_tokens(),
        };
        for (text, tokens) in batch.inputs.rows().zip(batch.targets.rows()) {
            let answering = self.answering(text);
            for &token in tokens {
                loss.nll += self.nll(&answering, token);
                for i in answering.iter().cloned().flatten() {
                    let shift =
                        dropout.map_or(0.0, |d| f32::from(d.key[(i + 24) % 32] % 100) * 1e-4);
                    grad[i] += weight * (self.theta[i] - target(i, token) as f32 + shift);
                }
            }
        }
        if batch.inputs.ids().contains(&POISON) {
            loss.nll = f64::NAN;
        }
        if batch.inputs.ids().contains(&EXPLODE) {
            grad[P - 1] = f32::INFINITY;
        }
        Ok(loss)
    }

    fn nll_per_row(&self, batch: &Batch) -> Result<Vec<f64>, ModelError> {
        self.note(batch);
        let of_row = |(text, tokens): (&[u32], &[u32])| {
            let answering = self.answering(text);
            tokens.iter().map(|&t| self.nll(&answering, t)).sum()
        };
        Ok((batch.inputs.rows().zip(batch.targets.rows()))
            .map(of_row)
            .collect())
    }

    fn generate(&self, prompts: &[&[u32]], _: usize) -> Result<Vec<Vec<u32>>, ModelError> {
        Ok(vec![Vec::new(); prompts.len()])
    }

    fn label_scores(
        &self,
        prompts: &[&[u32]],
        labels: &[Vec<u32>],
    ) -> Result<Vec<Vec<f64>>, ModelError> {
        Ok(vec![vec![0.0; labels.len()]; prompts.len()])
    }

    fn vocab_size(&self) -> usize {
        P
    }

    fn slot_routed(&self) -> Option<&dyn SlotRouted> {
        self.parts.router.is_some().then_some(self)
    }

    fn slot_routed_mut(&mut self) -> Option<&mut dyn SlotRouted> {
        self.parts.router.is_some().then_some(self)
    }

    fn row_routed(&self) -> Option<&dyn RowRouted> {
        self.routes_rows().then_some(self)
    }

    fn row_routed_mut(&mut self) -> Option<&mut dyn RowRouted> {
        self.routes_rows().then_some(self)
    }

    fn prompted(&self) -> Option<&dyn Prompted> {
        self.parts.prompts.is_some().then_some(self)
    }

    fn prompted_mut(&mut self) -> Option<&mut dyn Prompted> {
        self.parts.prompts.is_some().then_some(self)
    }

    fn distributions(&self) -> Option<&dyn Distributions> {
        Some(self)
    }

    fn distributions_mut(&mut self) -> Option<&mut dyn Distributions> {
        Some(self)
    }

    fn insights(&self) -> Option<&dyn Insights> {
        Some(self)
    }
}

impl SlotRouted for Quadratic {
    fn routing(&self) -> Routing {
        Routing {
            n_slots: self.parts.n_slots,
            open_slots: self.open_slots,
            router: self.parts.router.expect("offered only with a router"),
        }
    }

    fn set_open_slots(&mut self, open_slots: usize) -> Result<(), ModelError> {
        self.open_slots = open_slots;
        Ok(())
    }
}

impl RowRouted for Quadratic {
    /// A softmax of the products of the text's direction and the keys.
    fn routing_weights(&self, batch: &Batch) -> Result<Vec<f32>, ModelError> {
        self.note(batch);
        let of_text = |text: &[u32]| {
            let score = |slot: usize| -> f32 {
                let key = &self.theta[self.key(slot)];
                key.iter().zip(embedding(text)).map(|(k, e)| k * e).sum()
            };
            let mut weights = vec![0.0; self.parts.n_slots];
            for (slot, w) in weights[..self.open_slots].iter_mut().enumerate() {
                *w = score(slot).exp();
            }
            let sum: f32 = weights.iter().sum();
            weights.iter_mut().for_each(|w| *w /= sum);
            weights
        };
        Ok(batch.inputs.rows().flat_map(of_text).collect())
    }

    fn add_routing_gradient(
        &mut self,
        batch: &Batch,
        by_weights: &[f32],
        grad: &mut [f32],
    ) -> Result<(), ModelError> {
        let n_slots = self.parts.n_slots;
        let weights = self.routing_weights(batch)?;
        let rows = batch.inputs.rows().zip(weights.chunks_exact(n_slots));
        for ((text, w), by) in rows.zip(by_weights.chunks_exact(n_slots)) {
            let mean: f32 = w.iter().zip(by).map(|(w, by)| w * by).sum();
            for slot in 0..n_slots {
                let by_score = w[slot] * (by[slot] - mean);
                let into = grad[self.key(slot)].iter_mut().zip(embedding(text));
                into.for_each(|(g, e)| *g += by_score * e);
            }
        }
        Ok(())
    }
}

impl Prompted for Quadratic {
    fn activate_prompts(&mut self, prompts: &[usize]) -> Result<(), ModelError> {
        self.active = prompts.to_vec();
        Ok(())
    }

    fn active_prompts(&self) -> &[usize] {
        &self.active
    }
}

impl Distributions for Quadratic {
    fn target_logits(&self, batch: &Batch) -> Result<Vec<Vec<f32>>, ModelError> {
        self.note(batch);
        let of_row = |(text, tokens): (&[u32], &[u32])| {
            self.logits(&self.answering(text)).repeat(tokens.len())
        };
        Ok((batch.inputs.rows().zip(batch.targets.rows()))
            .map(of_row)
            .collect())
    }

    /// A text of its own and the number of the task that it was drawn in.
    fn sample(
        &self,
        _: &[&[u32]],
        keys: &[[u8; 32]],
        _: Sampling,
    ) -> Result<Vec<Vec<Vec<u32>>>, ModelError> {
        let text = |key: &[u8; 32]| {
            let (task, number) = (u32::from(key[16]), u32::from(key[24]));
            // An end token that no row of the stream begins with.
            vec![vec![WRITTEN + number, WRITTEN], vec![task, 0]]
        };
        Ok(keys.iter().map(text).collect())
    }

    fn divergence_and_grad(
        &mut self,
        batch: &Batch,
        log_probs: &[Vec<f32>],
        weight: f32,
        _: Option<Dropout>,
        grad: &mut [f32],
    ) -> Result<f64, ModelError> {
        self.note(batch);
        let mut sum = 0.0;
        for (text, of_row) in batch.inputs.rows().zip(log_probs) {
            let answering = self.answering(text);
            let logits = self.logits(&answering);
            let most = logits.iter().copied().fold(f32::MIN, f32::max);
            let log_total = most + logits.iter().map(|x| (x - most).exp()).sum::<f32>().ln();
            for log_q in of_row.chunks_exact(P) {
                for i in answering.iter().cloned().flatten() {
                    let log_p = logits[i % P] - log_total;
                    grad[i] += weight * (log_p.exp() - log_q[i % P].exp());
                }
                let terms = log_q.iter().zip(&logits);
                sum += terms
                    .map(|(q, x)| f64::from(q.exp() * (q - (x - log_total))))
                    .sum::<f64>();
            }
        }
        Ok(sum)
    }
}

impl Insights for Quadratic {
    fn layer_inputs(&self, batch: &Batch, at_most: usize) -> Result<Vec<Vec<f32>>, ModelError> {
        self.note(batch);
        let firsts = batch.inputs.rows().take(at_most);
        let x: Vec<f32> = firsts.flat_map(|row| [1.0, row[0] as f32 / 20.0]).collect();
        let of_spec = |spec: &ParamSpec| match spec.name.ends_with(LORA_A) {
            true => x.clone(),
            false => Vec::new(),
        };
        Ok(self.layout.specs().iter().map(of_spec).collect())
    }

    fn mean_embeddings(&self, texts: &Ragged) -> Result<Vec<f32>, ModelError> {
        Ok(texts.rows().flat_map(embedding).collect())
    }

    /// The rows with a target's parameter have large outputs.
    fn output_magnitudes(&self, batch: &Batch) -> Result<Vec<Vec<f32>>, ModelError> {
        self.note(batch);
        let is_target = |i: usize| batch.targets.ids().contains(&((i % P) as u32));
        let rows = |spec: &ParamSpec| -> Vec<f32> {
            let starts = spec.range.clone().step_by(spec.shape[1]);
            let large = |start: usize| (start..start + spec.shape[1]).any(is_target);
            starts.map(|at| if large(at) { 1.0 } else { 0.1 }).collect()
        };
        Ok(self.layout.specs().iter().map(rows).collect())
    }
}

/// A row with one input token.
pub(crate) fn row(input: u32, targets: &[u32]) -> Encoded {
    Encoded {
        input_ids: vec![input],
        target_ids: targets.to_vec(),
        cut: false,
    }
}

/// A learner without warm-up at a rate that the toy learns with.
pub(crate) fn learner(dropout: f32) -> Learner {
    watched_learner(Parts::default(), dropout).0
}

/// A learner with the parts that `config` wants for the toy stream.
pub(crate) fn learner_for(config: &MethodConfig, dropout: f32) -> Learner {
    watched_learner(config.parts(N_TASKS), dropout).0
}

/// A learner, and what its model is shown.
pub(crate) fn watched_learner(parts: Parts, dropout: f32) -> (Learner, Seen) {
    let config = LearnerConfig {
        dropout,
        micro_tokens: 8,
        ..LearnerConfig::default()
    };
    let schedule = Schedule::warmed_up(0.02, 0);
    let model = Quadratic::new(parts);
    let seen = model.seen.clone();
    let learner = Learner::new(Box::new(model), config, schedule);
    (learner.with_slots(parts.n_slots).unwrap(), seen)
}

/// All methods that train one adapter, as the toy has it; the others are tested on the embedded
/// bases.
pub(crate) fn methods_of_one_slot() -> Vec<MethodConfig> {
    let mut methods = MethodConfig::all();
    methods.retain(|config| config.parts(N_TASKS) == Parts::default());
    methods
}

/// Tasks of the toy stream.
pub(crate) const N_TASKS: usize = 3;

/// Three tasks of 13 rows: task k writes token k, some rows twice; 4 rows of each are kept. Every
/// row has another input token.
pub(crate) fn stream(memory_order: MemoryOrder) -> Vec<TaskView> {
    let rows = |k: u32| -> Vec<Encoded> {
        (0..13)
            .map(|i| {
                let input = 20 * k + i;
                if i % 3 == 0 {
                    row(input, &[k, k])
                } else {
                    row(input, &[k])
                }
            })
            .collect()
    };
    let all: Arc<Vec<Encoded>> = Arc::new((0..3).flat_map(rows).collect());
    (0..3)
        .map(|k| TaskView {
            index: k as usize,
            name: format!("task {k}"),
            rows: Arc::new(rows(k)),
            memory: Arc::new((0..k).flat_map(|k| rows(k).into_iter().take(4)).collect()),
            memory_sizes: vec![4; k as usize],
            all_rows: all.clone(),
            batch_size: 3,
            seed: 7,
            memory_order,
        })
        .collect()
}

/// Batches of all epochs of a task, in the order of the run.
pub(crate) fn batches(method: &dyn Method, task: &TaskView, n_epochs: u64) -> Vec<Batch> {
    let rows = method.training_rows(task);
    let mut batches = Vec::new();
    for epoch in 0..n_epochs {
        let order = epoch_order(rows.len(), task.seed, task.index as u64, epoch);
        batches.extend(
            order
                .chunks(task.batch_size)
                .map(|c| Batch::from_rows(c.iter().map(|&i| &rows[i]))),
        );
    }
    batches
}

/// Starts a task with the learner's schedule over `n_steps`.
pub(crate) fn begin(
    learner: &mut Learner,
    method: &mut dyn Method,
    task: &TaskView,
    n_steps: usize,
) {
    let schedule = learner.schedule().over(n_steps as u64);
    learner.begin_task(task.index, &task.name, schedule);
    method.begin_task(learner, task).unwrap();
}

/// A whole task; returns the losses.
pub(crate) fn learn(
    learner: &mut Learner,
    method: &mut dyn Method,
    task: &TaskView,
    n_epochs: u64,
) -> Vec<f64> {
    let batches = batches(method, task, n_epochs);
    begin(learner, method, task, batches.len());
    let losses = batches
        .iter()
        .map(|batch| method.observe(learner, batch).unwrap())
        .collect();
    method.end_task(learner, task).unwrap();
    losses
}

/// The parameters after learning all `tasks` with `config`.
pub(crate) fn params_after(config: &MethodConfig, tasks: &[TaskView], n_epochs: u64) -> Vec<f32> {
    let mut learner = learner_for(config, 0.0);
    let mut method = config.build(learner.layout());
    for task in tasks {
        learn(&mut learner, method.as_mut(), task, n_epochs);
    }
    learner.params().to_vec()
}

/// Mean loss over rows, without dropout.
pub(crate) fn loss_on(learner: &Learner, rows: &[Encoded]) -> f64 {
    let nll = learner
        .model()
        .nll_per_row(&Batch::from_rows(rows))
        .unwrap();
    nll.iter().sum::<f64>() / rows.iter().map(|r| r.target_ids.len()).sum::<usize>() as f64
}

/// Mean KL divergence of predictions from earlier ones, both logits `[positions, V]`, in nats.
pub(crate) fn mean_divergence(earlier: &[f32], now: &[f32], vocab_size: usize) -> f64 {
    let softmax = |logits: &[f32]| -> Vec<f64> {
        let all: Vec<f64> = logits.iter().map(|x| f64::from(*x).exp()).collect();
        let sum: f64 = all.iter().sum();
        all.into_iter().map(|x| x / sum).collect()
    };
    let of_position = |(earlier, now): (&[f32], &[f32])| -> f64 {
        let (q, p) = (softmax(earlier), softmax(now));
        q.iter().zip(&p).map(|(q, p)| q * (q / p).ln()).sum()
    };
    let pairs = earlier
        .chunks_exact(vocab_size)
        .zip(now.chunks_exact(vocab_size));
    pairs.map(of_position).sum::<f64>() / (now.len() / vocab_size) as f64
}

/// The largest difference of two vectors.
pub(crate) fn distance(a: &[f32], b: &[f32]) -> f32 {
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}

/// The inner product, summed in f64.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(a, b)| f64::from(*a) * f64::from(*b))
        .sum()
}
