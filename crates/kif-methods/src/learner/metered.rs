//! The model in training, and the count of the tokens that training takes through it.

use kif_data::{Batch, Ragged};
use kif_model::{BatchLoss, Dropout, LanguageModel, ModelError, Sampling, required};

/// A model whose passes are counted, each at the one place where it is made.
///
/// What a method needs and the model does not offer is an error ([`required`]).
pub struct Metered {
    model: Box<dyn LanguageModel>,
    /// Input and target tokens that went forward and backward.
    pub(super) tokens: u64,
    /// Input and target tokens that went forward only.
    pub(super) forward_only_tokens: u64,
}

impl Metered {
    pub(super) fn new(model: Box<dyn LanguageModel>) -> Self {
        Self {
            model,
            tokens: 0,
            forward_only_tokens: 0,
        }
    }

    /// The model itself: passes through it are not counted.
    pub(super) fn uncounted(&self) -> &dyn LanguageModel {
        self.model.as_ref()
    }

    /// Replaces the parameters. The learner's alone, which has a copy of them.
    pub(super) fn set_params(&mut self, params: &[f32]) -> Result<(), ModelError> {
        self.model.set_params(params)
    }

    /// As [`LanguageModel::loss_and_grad`].
    pub fn loss_and_grad(
        &mut self,
        batch: &Batch,
        weight: f32,
        dropout: Option<Dropout>,
        grad: &mut [f32],
    ) -> Result<BatchLoss, ModelError> {
        let loss = self.model.loss_and_grad(batch, weight, dropout, grad)?;
        self.tokens += n_tokens(batch);
        Ok(loss)
    }

    /// Mean nll of `batch` in nats per target token, without dropout and without a gradient.
    pub fn mean_nll(&mut self, batch: &Batch) -> Result<f64, ModelError> {
        let nll: f64 = self.model.nll_per_row(batch)?.iter().sum();
        self.forward_only_tokens += n_tokens(batch);
        Ok(nll / batch.targets.n_tokens().max(1) as f64)
    }

    /// As [`Distributions::target_logits`](kif_model::Distributions::target_logits).
    pub fn target_logits(&mut self, batch: &Batch) -> Result<Vec<Vec<f32>>, ModelError> {
        let logits = required(self.model.distributions())?.target_logits(batch)?;
        self.forward_only_tokens += n_tokens(batch);
        Ok(logits)
    }

    /// As [`Distributions::sample`](kif_model::Distributions::sample).
    pub fn sample(
        &mut self,
        prompts: &[&[u32]],
        keys: &[[u8; 32]],
        sampling: Sampling,
    ) -> Result<Vec<Vec<Vec<u32>>>, ModelError> {
        let texts = required(self.model.distributions())?.sample(prompts, keys, sampling)?;
        let asked: usize = prompts.iter().map(|prompt| prompt.len()).sum();
        let drawn: usize = texts.iter().flatten().map(Vec::len).sum();
        self.forward_only_tokens += (asked + drawn) as u64;
        Ok(texts)
    }

    /// As [`Distributions::divergence_and_grad`](kif_model::Distributions::divergence_and_grad).
    pub fn divergence_and_grad(
        &mut self,
        batch: &Batch,
        log_probs: &[Vec<f32>],
        weight: f32,
        dropout: Option<Dropout>,
        grad: &mut [f32],
    ) -> Result<f64, ModelError> {
        let model = required(self.model.distributions_mut())?;
        let sum = model.divergence_and_grad(batch, log_probs, weight, dropout, grad)?;
        self.tokens += n_tokens(batch);
        Ok(sum)
    }

    /// As [`Insights::output_magnitudes`](kif_model::Insights::output_magnitudes).
    pub fn output_magnitudes(&mut self, batch: &Batch) -> Result<Vec<Vec<f32>>, ModelError> {
        let magnitudes = required(self.model.insights())?.output_magnitudes(batch)?;
        self.forward_only_tokens += n_tokens(batch);
        Ok(magnitudes)
    }

    /// As [`Insights::layer_inputs`](kif_model::Insights::layer_inputs).
    pub fn layer_inputs(
        &mut self,
        batch: &Batch,
        at_most: usize,
    ) -> Result<Vec<Vec<f32>>, ModelError> {
        let inputs = required(self.model.insights())?.layer_inputs(batch, at_most)?;
        self.forward_only_tokens += n_tokens(batch);
        Ok(inputs)
    }

    /// As [`Insights::mean_embeddings`](kif_model::Insights::mean_embeddings). The layers read
    /// nothing, so this counts as no tokens.
    pub fn mean_embeddings(&self, texts: &Ragged) -> Result<Vec<f32>, ModelError> {
        required(self.model.insights())?.mean_embeddings(texts)
    }

    /// As [`RowRouted::routing_weights`](kif_model::RowRouted::routing_weights). Only the router
    /// reads the rows, so they count as no tokens.
    pub fn routing_weights(&self, batch: &Batch) -> Result<Vec<f32>, ModelError> {
        required(self.model.row_routed())?.routing_weights(batch)
    }

    /// As [`RowRouted::add_routing_gradient`](kif_model::RowRouted::add_routing_gradient), and
    /// counted as [`routing_weights`](Self::routing_weights).
    pub fn add_routing_gradient(
        &mut self,
        batch: &Batch,
        by_weights: &[f32],
        grad: &mut [f32],
    ) -> Result<(), ModelError> {
        let model = required(self.model.row_routed_mut())?;
        model.add_routing_gradient(batch, by_weights, grad)
    }

    /// As [`SlotRouted::set_open_slots`](kif_model::SlotRouted::set_open_slots). No part of the
    /// saved state.
    pub fn set_open_slots(&mut self, open_slots: usize) -> Result<(), ModelError> {
        required(self.model.slot_routed_mut())?.set_open_slots(open_slots)
    }

    /// As [`Prompted::activate_prompts`](kif_model::Prompted::activate_prompts). No part of the
    /// saved state.
    pub fn activate_prompts(&mut self, prompts: &[usize]) -> Result<(), ModelError> {
        required(self.model.prompted_mut())?.activate_prompts(prompts)
    }
}

fn n_tokens(batch: &Batch) -> u64 {
    (batch.inputs.n_tokens() + batch.targets.n_tokens()) as u64
}
