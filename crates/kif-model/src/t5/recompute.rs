//! Backward with little memory: only what enters each block is kept, and the rest is computed once more when its turn
//! comes (Chen et al. 2016, arXiv 1604.06174).
//!
//! A block is computed from the same input by the same operations, and gradients are added in the same order as on one
//! long tape: loss and gradients are the same bits. The price is nearly a second forward pass.

use dfdx::prelude::{
    Backward, Device, Gradients, Merge, NoneTape, OwnedTape, PutTape, Rank0, SplitTape, Tape,
    Tensor, Trace,
};
use kif_data::Batch;

use super::T5;
use super::forward::Goal;
use crate::engine::{Act, Engine, device_error};
use crate::{Dropout, ModelError};

/// The loss of every target token in nats, and the gradients of what is trained.
type LossAndGradients<D> = (Vec<f32>, Gradients<f32, D>);

impl<E: Engine> T5<E> {
    /// As [`T5::loss`] and its backward pass, with one block's activations at a time.
    ///
    /// dfdx's own operations keep the gradients of activations until the end, so the stock engine saves only about half.
    pub(super) fn recomputed_loss(
        &self,
        batch: &Batch,
        goal: Goal<'_>,
        weight: f32,
        dropout: Option<Dropout>,
    ) -> Result<LossAndGradients<E::Device>, ModelError> {
        let weights = self.row_weights::<NoneTape>(&batch.inputs)?;
        let inputs = &*self.encoder_inputs(&batch.inputs)?;
        let pass = self.encoder_pass(inputs, weights.as_ref(), dropout);
        let mut xs = vec![self.embed::<NoneTape>(&self.encoder, inputs)?];
        for i in 0..self.encoder.blocks.len() {
            xs.push(self.encoder_block(i, xs[i].clone(), &pass)?);
        }
        let top = xs.last().expect("the embedding at least").clone();
        let encoded = self.norm(top, &self.encoder.final_norm)?;

        let decoder_inputs = self.decoder_inputs(batch.targets.rows());
        let decoder_pass = self.decoder_pass(inputs, &decoder_inputs, weights.as_ref(), dropout);
        let mut ys = vec![self.embed::<NoneTape>(&self.decoder, &decoder_inputs)?];
        for i in 0..self.decoder.blocks.len() {
            ys.push(self.decoder_block(i, ys[i].clone(), &encoded, &decoder_pass)?);
        }

        let mut y = ys.pop().expect("the embedding at least");
        let hidden = self.norm(y.clone().leaky_traced(), &self.decoder.final_norm)?;
        let (loss, nll) = self.compare(hidden, goal, weight)?;
        let (loss, tape) = loss.split_tape();
        let mut segments = Segments {
            gradients: loss
                .clone()
                .put_tape(tape)
                .try_backward()
                .map_err(device_error)?,
            loss,
        };
        for i in (0..self.decoder.blocks.len()).rev() {
            let input = ys.pop().expect("an input for every block");
            let traced = input.clone().leaky_traced();
            let out = self.decoder_block(i, traced, &encoded.retaped(), &decoder_pass)?;
            segments = segments.backward(out, &y)?;
            y = input;
        }
        if self.embedding(&self.decoder).slot.is_some() {
            segments = segments.backward(self.embed(&self.decoder, &decoder_inputs)?, &y)?;
        }

        let mut x = xs.pop().expect("the embedding at least");
        let out = self.norm(x.clone().leaky_traced(), &self.encoder.final_norm)?;
        segments = segments.backward(out, &encoded)?;
        for i in (0..self.encoder.blocks.len()).rev() {
            let input = xs.pop().expect("an input for every block");
            let out = self.encoder_block(i, input.clone().leaky_traced(), &pass)?;
            segments = segments.backward(out, &x)?;
            x = input;
        }
        if self.trains_encoder_inputs() {
            segments = segments.backward(self.embed(&self.encoder, inputs)?, &x)?;
        }
        if let (Some(first), Some(again)) = (&weights, self.row_weights(&batch.inputs)?) {
            segments = segments.backward(again, first)?;
        }
        Ok((nll, segments.gradients))
    }
}

/// A backward pass in pieces.
struct Segments<D: Device<f32>> {
    gradients: Gradients<f32, D>,
    /// dfdx begins every backward pass at a scalar, and this is one.
    loss: Tensor<Rank0, f32, D>,
}

impl<D: Device<f32>> Segments<D> {
    /// Goes back along the tape of `out`, which is `first` computed once more, from the gradient that `first` has got.
    fn backward(self, out: Act<D, OwnedTape<f32, D>>, first: &Act<D>) -> Result<Self, ModelError> {
        let Self { gradients, loss } = self;
        let (out, tape) = out.split_tape();
        let (out, first) = (out.ghost(), first.ghost());
        let (_, mut whole) = loss.clone().traced(gradients).split_tape();
        whole = whole.merge(tape);
        whole.add_backward_op(move |gradients| {
            // The store lends one entry at a time: a second store lies between.
            let mut between = Gradients::leaky();
            let moved = between.get_or_alloc_mut(&out)?;
            std::mem::swap(moved, gradients.get_or_alloc_mut(&first)?);
            std::mem::swap(moved, gradients.get_or_alloc_mut(&out)?);
            Ok(())
        });
        let gradients = loss
            .clone()
            .put_tape(whole)
            .try_backward()
            .map_err(device_error)?;
        Ok(Self { gradients, loss })
    }
}
