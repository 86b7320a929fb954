//! What every architecture has: an engine, the flat parameter vector, token embedding, head, and
//! layers with adapters.

use std::cell::RefCell;

use dfdx::prelude::Tape;
use kif_data::Ragged;

use super::layer::{Linear, Param};
use super::parts::{AdapterPass, Gathered, InstanceRouter, SideBySide, SoftPrompts};
use crate::engine::{Act, Engine, InputGradient, Loss};
use crate::{DropoutOf, ModelError, ParamLayout};

/// What the model's predictions at the target positions are compared with.
#[derive(Clone, Copy)]
pub(crate) enum Goal<'a> {
    /// The target tokens: negative log-likelihood.
    Ids(&'a [u32]),
    /// Logarithms of other predictions, `[target tokens, V]`: KL divergence from them.
    LogProbs(&'a [f32]),
}

/// The parts of a model that do not depend on its architecture.
pub(crate) struct Core<E: Engine> {
    pub(crate) engine: E,
    /// Number of token ids, V.
    pub(crate) vocab_size: usize,
    /// Width D of the residual stream.
    pub(crate) width: usize,
    /// Added to the mean square in every norm.
    pub(crate) epsilon: f32,
    /// Factor on token embeddings and on soft prompts.
    pub(crate) embedding_scale: f32,
    /// Factor on the last hidden states before the head.
    pub(crate) logit_scale: f32,
    /// Ids that end a text.
    pub(crate) end_ids: Vec<u32>,
    pub(crate) layout: ParamLayout,
    pub(crate) params: Vec<f32>,
    /// Whether a step computes activations twice instead of keeping them.
    pub(crate) recompute: bool,
    /// Which tokens drop something of their own.
    pub(crate) dropout_of: DropoutOf,
    /// Token embedding, `[V, D]`.
    pub(crate) embedding: Param<E>,
    /// The output head, where it is not the embedding.
    pub(crate) head: Option<Param<E>>,
    /// The adapters that something chooses between.
    pub(crate) side_by_side: Option<SideBySide>,
    pub(crate) instance_router: Option<InstanceRouter<E>>,
    /// What the present pass gathers for those who look inside.
    pub(crate) gathered: RefCell<Option<Gathered>>,
    pub(crate) prompts: Option<SoftPrompts<E>>,
}

impl<E: Engine> Core<E> {
    /// All weights of its own, trained ones among them.
    pub(crate) fn params_mut(&mut self) -> Vec<&mut Param<E>> {
        let mut all = vec![&mut self.embedding];
        all.extend(&mut self.head);
        let routers = self.instance_router.iter_mut();
        all.extend(routers.flat_map(|router| router.params_mut()));
        all.extend(self.prompts.as_mut().map(|prompts| &mut prompts.rows));
        all
    }

    fn head(&self) -> &E::Weight {
        &self.head.as_ref().unwrap_or(&self.embedding).weight
    }

    /// Rows of `table`, and of soft prompts for ids behind the vocabulary: `[tokens, D]`.
    pub(crate) fn embed<T: Tape<f32, E::Device>>(
        &self,
        table: &Param<E>,
        inputs: &Ragged,
    ) -> Result<Act<E::Device, T>, ModelError> {
        self.embed_ids(table, inputs.ids())
    }

    /// As [`embed`](Self::embed), for ids one after the other.
    pub(crate) fn embed_ids<T: Tape<f32, E::Device>>(
        &self,
        table: &Param<E>,
        ids: &[u32],
    ) -> Result<Act<E::Device, T>, ModelError> {
        let prompts = self.prompts.as_ref().map(|prompts| &prompts.rows.weight);
        let rows = self.engine.embed::<T>(&table.weight, prompts, ids)?;
        match self.embedding_scale {
            1.0 => Ok(rows),
            scale => self.engine.scale(rows, scale),
        }
    }

    pub(crate) fn norm<T: Tape<f32, E::Device>>(
        &self,
        x: Act<E::Device, T>,
        gain: &Param<E>,
    ) -> Result<Act<E::Device, T>, ModelError> {
        self.engine.rms_norm(x, &gain.weight, self.epsilon)
    }

    /// `residual + norm(x)`; nothing else reads either later.
    pub(crate) fn norm_onto<T: Tape<f32, E::Device>>(
        &self,
        residual: Act<E::Device, T>,
        x: Act<E::Device, T>,
        gain: &Param<E>,
    ) -> Result<Act<E::Device, T>, ModelError> {
        let normed = self.norm(x, gain)?;
        self.engine.add(residual, normed)
    }

    /// `x W^T` with the low-rank part, `[tokens, out]`.
    pub(crate) fn project<T: Tape<f32, E::Device>>(
        &self,
        x: Act<E::Device, T>,
        linear: &Linear<E>,
        pass: &AdapterPass<E>,
        input_gradient: InputGradient,
    ) -> Result<Act<E::Device, T>, ModelError> {
        self.gather_from(&x, linear)?;
        let low_rank = self.low_rank(&x, linear, pass, input_gradient)?;
        let weight = &linear.weight.weight;
        let y = self
            .engine
            .linear(x, weight, low_rank, None, input_gradient)?;
        self.add_bias(y, linear)
    }

    /// `residual + x W^T` with the low-rank part; nothing else reads the residual or `x` later.
    pub(crate) fn project_onto<T: Tape<f32, E::Device>>(
        &self,
        residual: Act<E::Device, T>,
        x: Act<E::Device, T>,
        linear: &Linear<E>,
        pass: &AdapterPass<E>,
    ) -> Result<Act<E::Device, T>, ModelError> {
        self.gather_from(&x, linear)?;
        let write = InputGradient::Write;
        let low_rank = self.low_rank(&x, linear, pass, write)?;
        let weight = &linear.weight.weight;
        let y = self
            .engine
            .linear(x, weight, low_rank, Some(residual), write)?;
        self.add_bias(y, linear)
    }

    fn add_bias<T: Tape<f32, E::Device>>(
        &self,
        y: Act<E::Device, T>,
        linear: &Linear<E>,
    ) -> Result<Act<E::Device, T>, ModelError> {
        match &linear.bias {
            None => Ok(y),
            Some(bias) => self.engine.add_bias(y, &bias.weight),
        }
    }

    /// A linear layer without tape.
    pub(crate) fn project_plain(
        &self,
        x: Act<E::Device>,
        linear: &Linear<E>,
        pass: &AdapterPass<E>,
    ) -> Result<Act<E::Device>, ModelError> {
        self.project(x, linear, pass, InputGradient::Skip)
    }

    /// `weight * sum(loss)` of the last hidden states at all target positions, and the loss of
    /// every target token.
    pub(crate) fn compare<T: Tape<f32, E::Device>>(
        &self,
        hidden: Act<E::Device, T>,
        goal: Goal<'_>,
        weight: f32,
    ) -> Result<Loss<E::Device, T>, ModelError> {
        let (engine, head, scale) = (&self.engine, self.head(), self.logit_scale);
        match goal {
            Goal::Ids(ids) => engine.cross_entropy(hidden, head, scale, ids, weight),
            Goal::LogProbs(log_probs) => engine.divergence(hidden, head, scale, log_probs, weight),
        }
    }

    /// Logits `[rows, V]` of last hidden states, on the host.
    pub(crate) fn logits(&self, hidden: Act<E::Device>) -> Result<Vec<f32>, ModelError> {
        self.engine.logits(hidden, self.head(), self.logit_scale)
    }

    pub(crate) fn check_rows(&self, rows: &Ragged) -> Result<(), ModelError> {
        for (row, ids) in rows.rows().enumerate() {
            if ids.is_empty() {
                return Err(ModelError::EmptyRow { row });
            }
            if let Some(&id) = ids.iter().find(|&&id| id as usize >= self.vocab_size) {
                return Err(ModelError::TokenOutOfVocabulary {
                    id,
                    vocab_size: self.vocab_size,
                    row,
                });
            }
        }
        Ok(())
    }
}
