//! The forward pass: encoder, decoder.

use dfdx::prelude::{SplitTape, Tape, WithEmptyTape};
use kif_data::Ragged;

use super::{AttentionLayer, FeedForward, Stack, T5, position};
use crate::engine::{Act, Attention, Engine, InputGradient, PositionBias, Span};
use crate::model::{AdapterPass, Core, Reading, shared_input, spans};
use crate::{Dropout, ModelError};

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
            n_kv_heads: self.config.num_heads,
            head_dim: self.config.d_kv,
            scale: 1.0,
            causal,
            window: None,
        }
    }

    /// Self-attention with norm and residual. `is_lowest` where nothing trainable lies below.
    fn self_attention<T: Tape<f32, E::Device>>(
        &self,
        core: &Core<E>,
        x: Act<E::Device, T>,
        layer: &AttentionLayer<E>,
        shape: &Attention,
        bias: PositionBias<'_, E::Weight>,
        pass: &AdapterPass<E>,
        is_lowest: bool,
    ) -> Result<Act<E::Device, T>, ModelError> {
        let normed = core.norm(x.with_empty_tape(), &layer.norm)?;
        let (add, write) = shared_input(is_lowest);
        let q = core.project(normed.with_empty_tape(), &layer.q, pass, add)?;
        let k = core.project(normed.with_empty_tape(), &layer.k, pass, add)?;
        let v = core.project(normed, &layer.v, pass, write)?;
        let mixed = core.engine.attention(q, k, v, shape, Some(bias))?;
        core.project_onto(x, mixed, &layer.o, pass)
    }

    /// Attention to the encoder's output, with norm and residual.
    fn cross_attention<T: Tape<f32, E::Device>>(
        &self,
        core: &Core<E>,
        x: Act<E::Device, T>,
        encoded: &Act<E::Device, T>,
        layer: &AttentionLayer<E>,
        pass: &DecoderPass<E>,
    ) -> Result<Act<E::Device, T>, ModelError> {
        let normed = core.norm(x.with_empty_tape(), &layer.norm)?;
        let q = core.project(normed, &layer.q, &pass.adapters, InputGradient::Write)?;
        // Every layer of the decoder reads the encoder's output.
        let (add, of_encoded) = (InputGradient::Add, &pass.encoded_adapters);
        let k = core.project(encoded.with_empty_tape(), &layer.k, of_encoded, add)?;
        let v = core.project(encoded.with_empty_tape(), &layer.v, of_encoded, add)?;
        let mixed = core.engine.attention(q, k, v, &pass.cross_shape, None)?;
        core.project_onto(x, mixed, &layer.o, &pass.adapters)
    }

    /// The feed-forward block with norm and residual.
    pub(super) fn feed_forward<T: Tape<f32, E::Device>>(
        &self,
        core: &Core<E>,
        x: Act<E::Device, T>,
        layer: &FeedForward<E>,
        pass: &AdapterPass<E>,
    ) -> Result<Act<E::Device, T>, ModelError> {
        let normed = core.norm(x.with_empty_tape(), &layer.norm)?;
        let (add, write) = (InputGradient::Add, InputGradient::Write);
        let hidden = match &layer.up {
            None => {
                let wide = core.project(normed, &layer.wi, pass, write)?;
                core.engine.relu(wide)?
            }
            Some(up) => {
                let gate = core.project(normed.with_empty_tape(), &layer.wi, pass, add)?;
                let up = core.project(normed, up, pass, write)?;
                core.engine.gated_gelu(gate, up)?
            }
        };
        core.project_onto(x, hidden, &layer.wo, pass)
    }

    /// What the encoder's blocks share in a pass over `inputs`, whose rows have `weights` where
    /// rows are routed.
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
        core: &Core<E>,
        i: usize,
        x: Act<E::Device, T>,
        pass: &EncoderPass<E>,
    ) -> Result<Act<E::Device, T>, ModelError> {
        let block = &self.encoder.blocks[i];
        let bias = pass.distances.bias(&self.encoder);
        let is_lowest = i == 0 && !self.trains_encoder_inputs(core);
        let (shape, adapters) = (&pass.shape, &pass.adapters);
        let x = self.self_attention(core, x, &block.attention, shape, bias, adapters, is_lowest)?;
        self.feed_forward(core, x, &block.feed_forward, adapters)
    }

    /// Whether something below the encoder's lowest block is trained.
    pub(super) fn trains_encoder_inputs(&self, core: &Core<E>) -> bool {
        self.encoder.embedding(core).slot.is_some() || core.prompts.is_some()
    }

    /// The encoder's output for prompts behind their soft prompts, `[tokens, D]`.
    pub(super) fn encode<T: Tape<f32, E::Device>>(
        &self,
        core: &Core<E>,
        inputs: &Ragged,
        weights: Option<&Act<E::Device>>,
        dropout: Option<Dropout>,
    ) -> Result<Act<E::Device, T>, ModelError> {
        let pass = self.encoder_pass(inputs, weights, dropout);
        let mut x = core.embed::<T>(self.encoder.embedding(core), inputs)?;
        for i in 0..self.encoder.blocks.len() {
            x = self.encoder_block(core, i, x, &pass)?;
        }
        core.norm(x, &self.encoder.final_norm)
    }

    /// What the decoder's blocks share in a pass over `inputs`; row i attends to row i of `encoded`
    /// and has its weights where rows are routed.
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
        core: &Core<E>,
        i: usize,
        y: Act<E::Device, T>,
        encoded: &Act<E::Device, T>,
        pass: &DecoderPass<E>,
    ) -> Result<Act<E::Device, T>, ModelError> {
        let block = &self.decoder.blocks[i];
        let bias = pass.distances.bias(&self.decoder);
        let is_lowest = i == 0 && self.decoder.embedding(core).slot.is_none();
        let (shape, adapters) = (&pass.shape, &pass.adapters);
        let mut y =
            self.self_attention(core, y, &block.attention, shape, bias, adapters, is_lowest)?;
        if let Some(cross) = &block.cross {
            y = self.cross_attention(core, y, encoded, cross, pass)?;
        }
        self.feed_forward(core, y, &block.feed_forward, adapters)
    }

    /// The decoder's output for given decoder inputs, `[tokens, D]`, in a pass over these.
    pub(super) fn decode<T: Tape<f32, E::Device>>(
        &self,
        core: &Core<E>,
        encoded: &Act<E::Device, T>,
        inputs: &Ragged,
        pass: &DecoderPass<E>,
    ) -> Result<Act<E::Device, T>, ModelError> {
        let mut y = core.embed::<T>(self.decoder.embedding(core), inputs)?;
        for i in 0..self.decoder.blocks.len() {
            y = self.decoder_block(core, i, y, encoded, pass)?;
        }
        core.norm(y, &self.decoder.final_norm)
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

    /// The decoder's output at every target position, and the tape of the encoder.
    pub(super) fn decoded<T: Tape<f32, E::Device>>(
        &self,
        core: &Core<E>,
        reading: &Reading<'_, E, T>,
        targets: &Ragged,
        dropout: Option<Dropout>,
    ) -> Result<(Act<E::Device, T>, T), ModelError> {
        let (inputs, weights) = (&*reading.inputs, reading.weights.as_ref());
        let encoded = self.encode::<T>(core, inputs, weights, dropout)?;
        let decoder_inputs = self.decoder_inputs(targets.rows());
        let pass = self.decoder_pass(inputs, &decoder_inputs, weights, dropout);
        let hidden = self.decode(core, &encoded, &decoder_inputs, &pass)?;
        let (_, encoder_tape) = encoded.split_tape();
        Ok((hidden, encoder_tape))
    }
}

/// Length of the longest row.
fn longest(rows: &Ragged) -> usize {
    rows.rows().map(<[u32]>::len).max().unwrap_or(0)
}
