//! What a core may have besides its weights, and what a pass takes along.

use std::sync::Arc;

use kif_data::Ragged;

use super::layer::Param;
use crate::engine::{Act, Engine, Gate, Span};
use crate::{Dropout, LoraConfig, ModelError, PromptConfig, Prompted, Routing, SlotRouted};

/// The places of all rows of a ragged batch.
pub(crate) fn spans(rows: &Ragged) -> Vec<Span> {
    rows.offsets()
        .windows(2)
        .map(|w| Span {
            start: w[0],
            len: w[1] - w[0],
        })
        .collect()
}

/// The soft prompts of a model.
pub(crate) struct SoftPrompts<E: Engine> {
    pub(crate) config: PromptConfig,
    /// All rows of all prompts, `[n_prompts * length, D]`.
    pub(crate) rows: Param<E>,
    /// Index into the layout's specs of the keys `[n_prompts, D]` of a pool.
    pub(crate) keys: Option<usize>,
    /// The prompts that take part, in order.
    pub(crate) active: Vec<usize>,
}

impl<E: Engine> Prompted for SoftPrompts<E> {
    fn activate_prompts(&mut self, prompts: &[usize]) -> Result<(), ModelError> {
        let n_prompts = self.config.n_prompts;
        for (i, &prompt) in prompts.iter().enumerate() {
            if prompt >= n_prompts || prompts[..i].contains(&prompt) {
                let problem = format!("{prompts:?} are not some of {n_prompts} prompts, each once");
                return Err(ModelError::Prompts {
                    field: "active",
                    problem,
                });
            }
        }
        self.active = prompts.to_vec();
        Ok(())
    }

    fn active_prompts(&self) -> &[usize] {
        &self.active
    }
}

/// Adapters side by side that share the work.
pub(crate) struct SideBySide {
    pub(crate) routing: Routing,
    /// The settings of the adapter that they make together.
    pub(crate) lora: LoraConfig,
}

impl SlotRouted for SideBySide {
    fn routing(&self) -> Routing {
        self.routing
    }

    fn set_open_slots(&mut self, open_slots: usize) -> Result<(), ModelError> {
        let routing = Routing {
            open_slots,
            ..self.routing
        };
        routing.check(&self.lora)?;
        self.routing = routing;
        Ok(())
    }
}

/// See [`Router::Instance`](crate::Router::Instance).
pub(crate) struct InstanceRouter<E: Engine> {
    /// V, `[hidden, D]`.
    pub(crate) down: Param<E>,
    /// U, `[D, hidden]`.
    pub(crate) up: Param<E>,
    /// `[1, D]`.
    pub(crate) gain: Param<E>,
    /// K, `[n_slots, D]`.
    pub(crate) keys: Param<E>,
}

impl<E: Engine> InstanceRouter<E> {
    pub(crate) fn params_mut(&mut self) -> [&mut Param<E>; 4] {
        [&mut self.down, &mut self.up, &mut self.gain, &mut self.keys]
    }
}

/// What the adapters of all layers that read the same tokens share in one pass.
pub(crate) struct AdapterPass<E: Engine> {
    pub(crate) dropout: Option<Dropout>,
    /// Where rows are routed: their weights, and the row of each token.
    pub(crate) gate: Option<Gate<Act<E::Device>>>,
}

impl<E: Engine> AdapterPass<E> {
    /// A pass over `tokens`, rows one after the other, with the weights `[B, n_slots]` of the rows.
    pub(crate) fn new<T>(
        weights: Option<&Act<E::Device, T>>,
        tokens: &Ragged,
        dropout: Option<Dropout>,
    ) -> Self {
        let lengths = spans(tokens).into_iter().map(|span| span.len);
        let rows = lengths
            .enumerate()
            .flat_map(|(row, len)| std::iter::repeat_n(row, len));
        Self::of_rows(weights, rows.collect(), dropout)
    }

    /// As [`new`](Self::new), for tokens of the given rows.
    pub(crate) fn of_rows<T>(
        weights: Option<&Act<E::Device, T>>,
        rows: Arc<[usize]>,
        dropout: Option<Dropout>,
    ) -> Self {
        let gate = weights.map(|weights| Gate {
            weights: weights.retaped(),
            rows: Some(rows),
        });
        Self { dropout, gate }
    }
}

/// What a pass gathers, by place in the layout.
pub(crate) enum Gathered {
    /// Sums over all tokens that have passed, in f64.
    Magnitudes(Vec<RowSums>),
    /// The inputs of every A, at most so many.
    Inputs(Vec<Vec<f32>>, usize),
}

#[derive(Clone, Default)]
pub(crate) struct RowSums {
    sums: Vec<f64>,
    n_tokens: usize,
}

impl RowSums {
    /// Takes in the outputs of one matrix, `[tokens, rows]`.
    pub(super) fn add(&mut self, outputs: &[f32], n_rows: usize) {
        self.sums.resize(n_rows, 0.0);
        for token in outputs.chunks_exact(n_rows) {
            for (sum, x) in self.sums.iter_mut().zip(token) {
                *sum += f64::from(x.abs());
            }
        }
        self.n_tokens += outputs.len() / n_rows;
    }

    pub(super) fn mean(&self) -> Vec<f32> {
        let n = self.n_tokens.max(1) as f64;
        self.sums.iter().map(|sum| (sum / n) as f32).collect()
    }
}
