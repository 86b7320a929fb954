//! Predictions as distributions over the vocabulary: given, drawn from, and learned from.

use dfdx::prelude::NoneTape;
use kif_data::{Batch, Ragged};

use super::core::Goal;
use super::{Model, Network};
use crate::engine::Engine;
use crate::{Distributions, Dropout, ModelError, Sampling};

impl<E: Engine, N: Network<E>> Distributions for Model<E, N> {
    fn target_logits(&self, batch: &Batch) -> Result<Vec<Vec<f32>>, ModelError> {
        self.check_batch(batch)?;
        let hidden = self.hidden::<NoneTape>(batch, None)?.0;
        let logits = self.core.logits(hidden)?;
        let vocab_size = self.core.vocab_size;
        let offsets = batch.targets.offsets();
        Ok(offsets
            .windows(2)
            .map(|w| logits[w[0] * vocab_size..w[1] * vocab_size].to_vec())
            .collect())
    }

    fn sample(
        &self,
        prompts: &[&[u32]],
        keys: &[[u8; 32]],
        sampling: Sampling,
    ) -> Result<Vec<Vec<Vec<u32>>>, ModelError> {
        let prompts = Ragged::from_rows(prompts);
        self.core.check_rows(&prompts)?;
        assert_eq!(prompts.n_rows(), keys.len(), "a key for every text");
        self.drawn(&prompts, keys, sampling)
    }

    fn divergence_and_grad(
        &mut self,
        batch: &Batch,
        log_probs: &[Vec<f32>],
        weight: f32,
        dropout: Option<Dropout>,
        grad: &mut [f32],
    ) -> Result<f64, ModelError> {
        let log_probs = log_probs.concat();
        let n_values = batch.targets.n_tokens() * self.core.vocab_size;
        assert_eq!(log_probs.len(), n_values, "probabilities of all targets");
        let goal = Goal::LogProbs(&log_probs);
        let losses = self.add_gradient(batch, goal, weight, dropout, grad)?;
        Ok(losses.iter().map(|&x| f64::from(x)).sum())
    }
}
