//! The border: what the rest of the workspace knows about a model.
//!
//! [`LanguageModel`] is what every model can do. What only some can is a trait of its own, which a
//! model offers or not: the caller asks for it, and [`required`] is the error of one that cannot do
//! without.

mod capability;
mod distributions;
mod insights;
mod prompted;
mod routed;

use kif_data::Batch;

pub use self::capability::{Capability, required};
pub use self::distributions::{Distributions, Sampling};
pub use self::insights::Insights;
pub use self::prompted::Prompted;
pub use self::routed::{RowRouted, SlotRouted};
use crate::{ModelError, ParamLayout};

/// Dropout on the input of every LoRA A, keyed so that any pass can be repeated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Share of inputs set to zero, in `[0, 1)`; the others are divided by `1 - p`.
    pub p: f32,
    /// Key of the pass ([`kif_data::chance::key`]).
    pub key: [u8; 32],
}

/// What a pass over a batch cost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BatchLoss {
    /// Sum over all target tokens of the negative log-likelihood, in nats.
    pub nll: f64,
    /// Number of target tokens, end tokens included.
    pub n_tokens: usize,
}

/// A language model with P trainable parameters in one flat vector.
///
/// Encoder-decoder models read `batch.inputs` with the encoder and predict `batch.targets`;
/// decoder-only models predict the targets behind the inputs. Either way the loss is taken on
/// target tokens alone. Token ids outside the vocabulary and empty rows are errors.
pub trait LanguageModel {
    /// Names and places of the trainable parameters.
    fn layout(&self) -> &ParamLayout;

    /// The trainable parameters, `[P]`.
    fn params(&self) -> &[f32];

    /// Replaces the trainable parameters by `params`, `[P]`.
    fn set_params(&mut self, params: &[f32]) -> Result<(), ModelError>;

    /// Adds the gradient of `weight * sum(nll)` to `grad` (`[P]`) and returns the unweighted loss.
    fn loss_and_grad(
        &mut self,
        batch: &Batch,
        weight: f32,
        dropout: Option<Dropout>,
        grad: &mut [f32],
    ) -> Result<BatchLoss, ModelError>;

    /// Sum of nats over each row's target tokens, `[B]`, without dropout.
    fn nll_per_row(&self, batch: &Batch) -> Result<Vec<f64>, ModelError>;

    /// Greedy continuations, at most `max_new_tokens` each; the end token is not part of them.
    fn generate(
        &self,
        prompts: &[&[u32]],
        max_new_tokens: usize,
    ) -> Result<Vec<Vec<u32>>, ModelError>;

    /// Log-likelihood of every label (ids, end token included) for every prompt: `[B][labels]`, in
    /// nats.
    fn label_scores(
        &self,
        prompts: &[&[u32]],
        labels: &[Vec<u32>],
    ) -> Result<Vec<Vec<f64>>, ModelError>;

    /// Whether rows of a batch that begin alike have the beginning read once.
    fn shares_beginnings(&self) -> bool {
        false
    }

    /// Number of token ids, V.
    fn vocab_size(&self) -> usize;

    /// Its adapters side by side, where something chooses between them.
    fn slot_routed(&self) -> Option<&dyn SlotRouted> {
        None
    }

    /// As [`slot_routed`](Self::slot_routed), to change it.
    fn slot_routed_mut(&mut self) -> Option<&mut dyn SlotRouted> {
        None
    }

    /// Its router, where that weighs adapters for whole rows.
    fn row_routed(&self) -> Option<&dyn RowRouted> {
        None
    }

    /// As [`row_routed`](Self::row_routed), to learn.
    fn row_routed_mut(&mut self) -> Option<&mut dyn RowRouted> {
        None
    }

    /// Its soft prompts, where it has some.
    fn prompted(&self) -> Option<&dyn Prompted> {
        None
    }

    /// As [`prompted`](Self::prompted), to change it.
    fn prompted_mut(&mut self) -> Option<&mut dyn Prompted> {
        None
    }

    /// Its predictions as distributions over the vocabulary, where it gives them.
    fn distributions(&self) -> Option<&dyn Distributions> {
        None
    }

    /// As [`distributions`](Self::distributions), to learn from some.
    fn distributions_mut(&mut self) -> Option<&mut dyn Distributions> {
        None
    }

    /// What it shows of its layers, where it does.
    fn insights(&self) -> Option<&dyn Insights> {
        None
    }
}
