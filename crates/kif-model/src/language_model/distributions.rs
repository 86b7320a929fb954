//! Models whose predictions are read and taught as distributions over the vocabulary.

use kif_data::Batch;

use super::Capability;
use crate::{Dropout, ModelError};

/// How texts are drawn from a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampling {
    /// Every token is drawn among so many of the likeliest ones, by their probabilities. At least
    /// 1.
    pub top_k: usize,
    /// A text is over after so many end tokens: it has so many parts. At least 1.
    pub n_parts: usize,
    /// Longest text in tokens, end tokens included.
    pub max_new_tokens: usize,
}

/// A model that gives its predictions, draws from them, and learns from those of others.
pub trait Distributions {
    /// Logits at every target position under teacher forcing: per row `[T, V]`, row-major, without
    /// dropout.
    fn target_logits(&self, batch: &Batch) -> Result<Vec<Vec<f32>>, ModelError>;

    /// Continuations that are drawn, not greedy: text i by the key `keys[i]` alone
    /// ([`kif_data::chance::key`]), whatever texts are beside it. The finished parts of each, end
    /// tokens included; fewer than asked for where `max_new_tokens` were not enough.
    fn sample(
        &self,
        prompts: &[&[u32]],
        keys: &[[u8; 32]],
        sampling: Sampling,
    ) -> Result<Vec<Vec<Vec<u32>>>, ModelError>;

    /// Adds the gradient of `weight * sum(KL(q || p))` to `grad`, `[P]`, and returns the unweighted
    /// sum in nats. p is what the model predicts at every target position, and q what `log_probs`
    /// says: row by row `[T, V]`, as made from [`target_logits`](Self::target_logits).
    fn divergence_and_grad(
        &mut self,
        batch: &Batch,
        log_probs: &[Vec<f32>],
        weight: f32,
        dropout: Option<Dropout>,
        grad: &mut [f32],
    ) -> Result<f64, ModelError>;
}

impl Capability for dyn Distributions + '_ {
    const WANTED: &'static str =
        "sampling from this model, or learning from distributions with it,";
}
