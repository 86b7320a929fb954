//! The forward pass: encoder, decoder, loss.

use dfdx::prelude::{PutTape, SplitTape, Tape, WithEmptyTape};
use kif_data::{Batch, Ragged};

use super::routing::AdapterPass;
use super::{AttentionLayer, FeedForward, Linear, Param, Stack, T5, position};
use crate::engine::{Act, Attention, Engine, InputGradient, Loss, PositionBias, Span};
use crate::{Dropout, ModelError};

/// The places of all rows of a ragged batch.
pub(super) fn spans(rows: &Ragged) -> Vec<Span> {
    rows.offsets()
        .windows(2)
        .map(|w| Span {
            start: w[0],
            len: w[1] - w[0],
        })
        .collect()
}

/// What the model's predictions at the target positions are compared with.
#[derive(Clone, Copy)]
pub(super) enum Goal<'a> {
    /// The target tokens: negative log-likelihood.
    Ids(&'a [u32]),
    /// Logarithms of other predictions, `[target tokens, V]`: KL divergence from them.
    LogProbs(&'a [f32]),
}

/// Buckets of all distances that a pass can meet.
pub(super) struct Distances {
    buckets: Vec<usize>,
    min_distance: isize,
}

impl Distances {
    pub(super) fn bias<'a, E: Engine>(
        &'a self,
        stack: &'a Stack<E>,
    ) -> PositionBias<'a, E::Weight> {
        PositionBias {
            table: &stack.position_bias.weight,
            buckets: &self.buckets,
            min_distance: self.min_distance,
        }
    }
}

/// What all blocks of the encoder share in one pass.
pub(super) struct EncoderPass<E: Engine> {
    shape: Attention,
    distances: Distances,
    adapters: AdapterPass<E>,
}

/// What all blocks of the decoder share in one pass.
pub(super) struct DecoderPass<E: Engine> {
    shape: Attention,
    cross_shape: Attention,
    distances: Distances,
    adapters: AdapterPass<E>,
    /// For what reads the encoder's tokens.
    encoded_adapters: AdapterPass<E>,
}

impl<E: Engine> T5<E> {
    /// The lowest activations of a stack, `[tokens, D]`.
    pub(super) fn embed<T: Tape<f32, E::Device>>(
        &self,
        stack: &Stack<E>,
        inputs: &Ragged,
    ) -> Result<Act<E::Device, T>, ModelError> {
        let prompts = self.prompts.as_ref().map(|prompts| &prompts.rows.weight);
        self.engine
            .embed::<T>(&self.embedding(stack).weight, prompts, inputs.ids())
    }

    /// Distances within sequences of up to `longest` tokens.
    pub(super) fn distances(&self, longest: usize, bidirectional: bool) -> Distances {
        let far = longest as isize - 1;
        Distances {
            buckets: position::buckets(
                -far,
                far,
                bidirectional,
                self.config.relative_attention_num_buckets,
                self.config.relative_attention_max_distance,
            ),
            min_distance: -far,
        }
    }

    pub(super) fn attention_shape(
        &self,
        queries: Vec<Span>,
        keys: Vec<Span>,
        causal: bool,
    ) -> Attention {
        Attention {
            queries,
            keys,
            n_heads: self.config.num_heads,
            head_dim: self.config.d_kv,
            scale: 1.0,
            causal,
        }
    }

    pub(super) fn norm<T: Tape<f32, E::Device>>(
        &self,
        x: Act<E::Device, T>,
        gain: &Param<E>,
    ) -> Result<Act<E::Device, T>, ModelError> {
        self.engine
            .rms_norm(x, &gain.weight, self.config.layer_norm_epsilon)
    }

    /// `x W^T` with the low-rank part, `[tokens, out]`.
    pub(super) fn project<T: Tape<f32, E::Device>>(
        &self,
        x: Act<E::Device, T>,
        linear: &Linear<E>,
        pass: &AdapterPass<E>,
        input_gradient: InputGradient,
    ) -> Result<Act<E::Device, T>, ModelError> {
        self.see(&x, linear)?;
        let low_rank = self.low_rank(&x, linear, pass, input_gradient)?;
        self.engine
            .linear(x, &linear.weight.weight, low_rank, None, input_gradient)
    }

    /// `residual + x W^T` with the low-rank part; nothing else reads the residual or `x` later.
    pub(super) fn project_onto<T: Tape<f32, E::Device>>(
        &self,
        residual: Act<E::Device, T>,
        x: Act<E::Device, T>,
        linear: &Linear<E>,
        pass: &AdapterPass<E>,
    ) -> Result<Act<E::Device, T>, ModelError> {
        self.see(&x, linear)?;
        let write = InputGradient::Write;
        let low_rank = self.low_rank(&x, linear, pass, write)?;
        self.engine
            .linear(x, &linear.weight.weight, low_rank, Some(residual), write)
    }

    /// Self-attention with norm and residual. `is_lowest` where nothing trainable lies below.
    fn self_attention<T: Tape<f32, E::Device>>(
        &self,
        x: Act<E::Device, T>,
        layer: &AttentionLayer<E>,
        shape: &Attention,
        bias: PositionBias<'_, E::Weight>,
        pass: &AdapterPass<E>,
        is_lowest: bool,
    ) -> Result<Act<E::Device, T>, ModelError> {
        let normed = self.norm(x.with_empty_tape(), &layer.norm)?;
        let (add, write) = if is_lowest {
            (InputGradient::Skip, InputGradient::Skip)
        } else {
            (InputGradient::Add, InputGradient::Write)
        };
        let q = self.project(normed.with_empty_tape(), &layer.q, pass, add)?;
        let k = self.project(normed.with_empty_tape(), &layer.k, pass, add)?;
        let v = self.project(normed, &layer.v, pass, write)?;
        let mixed = self.engine.attention(q, k, v, shape, Some(bias))?;
        self.project_onto(x, mixed, &layer.o, pass)
    }

    /// Attention to the encoder's output, with norm and residual.
    fn cross_attention<T: Tape<f32, E::Device>>(
        &self,
        x: Act<E::Device, T>,
        encoded: &Act<E::Device, T>,
        layer: &AttentionLayer<E>,
        pass: &DecoderPass<E>,
    ) -> Result<Act<E::Device, T>, ModelError> {
        let normed = self.norm(x.with_empty_tape(), &layer.norm)?;
        let q = self.project(normed, &layer.q, &pass.adapters, InputGradient::Write)?;
        // Every layer of the decoder reads the encoder's output.
        let (add, of_encoded) = (InputGradient::Add, &pass.encoded_adapters);
        let k = self.project(encoded.with_empty_tape(), &layer.k, of_encoded, add)?;
        let v = self.project(encoded.with_empty_tape(), &layer.v, of_encoded, add)?;
        let mixed = self.engine.attention(q, k, v, &pass.cross_shape, None)?;
        self.project_onto(x, mixed, &layer.o, &pass.adapters)
    }

    /// The feed-forward block with norm and residual.
    pub(super) fn feed_forward<T: Tape<f32, E::Device>>(
        &self,
        x: Act<E::Device, T>,
        layer: &FeedForward<E>,
        pass: &AdapterPass<E>,
    ) -> Result<Act<E::Device, T>, ModelError> {
        let normed = self.norm(x.with_empty_tape(), &layer.norm)?;
        let (add, write) = (InputGradient::Add, InputGradient::Write);
        let hidden = match &layer.up {
            None => {
                let wide = self.project(normed, &layer.wi, pass, write)?;
                self.engine.relu(wide)?
            }
            Some(up) => {
                let gate = self.project(normed.with_empty_tape(), &layer.wi, pass, add)?;
                let up = self.project(normed, up, pass, write)?;
                self.engine.gated_gelu(gate, up)?
            }
        };
        self.project_onto(x, hidden, &layer.wo, pass)
    }

    /// What the encoder's blocks share in a pass over `inputs`, whose rows have `weights` where rows are routed.
    pub(super) fn encoder_pass(
        &self,
        inputs: &Ragged,
        weights: Option<&Act<E::Device>>,
        dropout: Option<Dropout>,
    ) -> EncoderPass<E> {
        EncoderPass {
            shape: self.attention_shape(spans(inputs), spans(inputs), false),
            distances: self.distances(longest(inputs), true),
            adapters: AdapterPass::new(weights, inputs, dropout),
        }
    }

    /// Block `i` of the encoder.
    pub(super) fn encoder_block<T: Tape<f32, E::Device>>(
        &self,
        i: usize,
        x: Act<E::Device, T>,
        pass: &EncoderPass<E>,
    ) -> Result<Act<E::Device, T>, ModelError> {
        let block = &self.encoder.blocks[i];
        let bias = pass.distances.bias(&self.encoder);
        let is_lowest = i == 0 && !self.trains_encoder_inputs();
        let (shape, adapters) = (&pass.shape, &pass.adapters);
        let x = self.self_attention(x, &block.attention, shape, bias, adapters, is_lowest)?;
        self.feed_forward(x, &block.feed_forward, adapters)
    }

    /// Whether something below the encoder's lowest block is trained.
    pub(super) fn trains_encoder_inputs(&self) -> bool {
        self.embedding(&self.encoder).slot.is_some() || self.prompts.is_some()
    }

    /// The encoder's output for what [`encoder_inputs`](Self::encoder_inputs) made, `[tokens, D]`.
    pub(super) fn encode<T: Tape<f32, E::Device>>(
        &self,
        inputs: &Ragged,
        weights: Option<&Act<E::Device>>,
        dropout: Option<Dropout>,
    ) -> Result<Act<E::Device, T>, ModelError> {
        let pass = self.encoder_pass(inputs, weights, dropout);
        let mut x = self.embed::<T>(&self.encoder, inputs)?;
        for i in 0..self.encoder.blocks.len() {
            x = self.encoder_block(i, x, &pass)?;
        }
        self.norm(x, &self.encoder.final_norm)
    }

    /// What the decoder's blocks share in a pass over `inputs`; row i attends to row i of `encoded` and has its weights
    /// where rows are routed.
    pub(super) fn decoder_pass(
        &self,
        encoded: &Ragged,
        inputs: &Ragged,
        weights: Option<&Act<E::Device>>,
        dropout: Option<Dropout>,
    ) -> DecoderPass<E> {
        DecoderPass {
            shape: self.attention_shape(spans(inputs), spans(inputs), true),
            cross_shape: self.attention_shape(spans(inputs), spans(encoded), false),
            distances: self.distances(longest(inputs), false),
            adapters: AdapterPass::new(weights, inputs, dropout),
            encoded_adapters: AdapterPass::new(weights, encoded, dropout),
        }
    }

    /// Block `i` of the decoder.
    pub(super) fn decoder_block<T: Tape<f32, E::Device>>(
        &self,
        i: usize,
        y: Act<E::Device, T>,
        encoded: &Act<E::Device, T>,
        pass: &DecoderPass<E>,
    ) -> Result<Act<E::Device, T>, ModelError> {
        let block = &self.decoder.blocks[i];
        let bias = pass.distances.bias(&self.decoder);
        let is_lowest = i == 0 && self.embedding(&self.decoder).slot.is_none();
        let (shape, adapters) = (&pass.shape, &pass.adapters);
        let mut y = self.self_attention(y, &block.attention, shape, bias, adapters, is_lowest)?;
        if let Some(cross) = &block.cross {
            y = self.cross_attention(y, encoded, cross, pass)?;
        }
        self.feed_forward(y, &block.feed_forward, adapters)
    }

    /// The decoder's output for given decoder inputs, `[tokens, D]`, in a pass over these.
    pub(super) fn decode<T: Tape<f32, E::Device>>(
        &self,
        encoded: &Act<E::Device, T>,
        inputs: &Ragged,
        pass: &DecoderPass<E>,
    ) -> Result<Act<E::Device, T>, ModelError> {
        let mut y = self.embed::<T>(&self.decoder, inputs)?;
        for i in 0..self.decoder.blocks.len() {
            y = self.decoder_block(i, y, encoded, pass)?;
        }
        self.norm(y, &self.decoder.final_norm)
    }

    /// Targets moved right by one, behind the start token: what the decoder reads.
    pub(super) fn decoder_inputs<'a>(
        &self,
        targets: impl IntoIterator<Item = &'a [u32]>,
    ) -> Ragged {
        let start = self.config.decoder_start_token_id;
        Ragged::from_rows(targets.into_iter().map(|target| {
            let mut row = vec![start];
            row.extend_from_slice(&target[..target.len() - 1]);
            row
        }))
    }

    /// The decoder's output at every target position, and the tape of encoder and routing, which has to be merged into
    /// the loss.
    pub(super) fn hidden<T: Tape<f32, E::Device>>(
        &self,
        batch: &Batch,
        dropout: Option<Dropout>,
    ) -> Result<(Act<E::Device, T>, T), ModelError> {
        let (weights, tape) = match self.row_weights::<T>(&batch.inputs)? {
            None => (None, T::default()),
            Some(weights) => {
                let (weights, tape) = weights.split_tape();
                (Some(weights), tape)
            }
        };
        let weights = weights.as_ref();
        let inputs = &*self.encoder_inputs(&batch.inputs)?;
        let encoded = self.encode::<T>(inputs, weights, dropout)?;
        let decoder_inputs = self.decoder_inputs(batch.targets.rows());
        let pass = self.decoder_pass(inputs, &decoder_inputs, weights, dropout);
        let hidden = self.decode(&encoded, &decoder_inputs, &pass)?;
        let (_, encoder_tape) = encoded.split_tape();
        Ok((hidden, encoder_tape.merge(tape)))
    }

    /// `weight * sum(loss)` of the decoder's output, and the loss of every target token.
    pub(super) fn compare<T: Tape<f32, E::Device>>(
        &self,
        hidden: Act<E::Device, T>,
        goal: Goal<'_>,
        weight: f32,
    ) -> Result<Loss<E::Device, T>, ModelError> {
        let (engine, head, scale) = (&self.engine, self.head(), self.logit_scale());
        match goal {
            Goal::Ids(ids) => engine.cross_entropy(hidden, head, scale, ids, weight),
            Goal::LogProbs(log_probs) => engine.divergence(hidden, head, scale, log_probs, weight),
        }
    }

    /// `weight * sum(loss)` with its tape, and the loss of every target token.
    pub(super) fn loss<T: Tape<f32, E::Device>>(
        &self,
        batch: &Batch,
        goal: Goal<'_>,
        weight: f32,
        dropout: Option<Dropout>,
    ) -> Result<Loss<E::Device, T>, ModelError> {
        let (hidden, lower_tape) = self.hidden::<T>(batch, dropout)?;
        let (loss, losses) = self.compare(hidden, goal, weight)?;
        let (loss, tape) = loss.split_tape();
        Ok((loss.put_tape(tape.merge(lower_tape)), losses))
    }
}

/// Length of the longest row.
fn longest(rows: &Ragged) -> usize {
    rows.rows().map(<[u32]>::len).max().unwrap_or(0)
}
