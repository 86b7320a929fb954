//! Backward with little memory: only what enters each block is kept, and the rest is computed once
//! more when its turn comes (Chen et al. 2016, arXiv 1604.06174).
//!
//! A block is computed from the same input by the same operations, and gradients are added in the
//! same order as on one long tape: loss and gradients are the same bits. The price is nearly a
//! second forward pass. dfdx's own operations keep the gradients of activations until the end, so
//! the stock engine saves only about half.

use dfdx::prelude::{
    Backward, Device, Gradients, Merge, OwnedTape, PutTape, Rank0, SplitTape, Tape, Tensor, Trace,
};

use crate::ModelError;
use crate::engine::{Act, Scalar, device_error};

/// A backward pass in pieces.
pub(crate) struct Segments<D: Device<f32>> {
    pub(crate) gradients: Gradients<f32, D>,
    /// dfdx begins every backward pass at a scalar, and this is one.
    loss: Tensor<Rank0, f32, D>,
}

impl<D: Device<f32>> Segments<D> {
    /// Begins at the loss, with what its tape holds.
    pub(crate) fn begin(loss: Scalar<D, OwnedTape<f32, D>>) -> Result<Self, ModelError> {
        let (loss, tape) = loss.split_tape();
        let whole = loss.clone().put_tape(tape);
        Ok(Self {
            gradients: whole.try_backward().map_err(device_error)?,
            loss,
        })
    }

    /// Goes back along the tape of `out`, which is `first` computed once more, from the gradient
    /// that `first` has got.
    pub(crate) fn backward(
        self,
        out: Act<D, OwnedTape<f32, D>>,
        first: &Act<D>,
    ) -> Result<Self, ModelError> {
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
