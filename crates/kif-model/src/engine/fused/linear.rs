//! Linear layers with a low-rank part on the tape.

use std::sync::Arc;

use dfdx::prelude::*;
use kif_kernels::{MatMut, MatRef, PackedWeight};

use super::{Fused, FusedWeight, buffers, take_gradient, view};
use crate::engine::{Act, InputGradient, LowRank};
use crate::{Dropout, ModelError};

/// What the backward pass of the low-rank part needs.
struct SavedLowRank {
    a: Arc<PackedWeight>,
    b: Arc<PackedWeight>,
    a_leaf: Act<Cpu>,
    b_leaf: Act<Cpu>,
    scale: f32,
    dropout: Option<(Dropout, u64)>,
    /// `scale * dropout(x) A^T`, `[tokens, R]`.
    hidden: Vec<f32>,
}

impl SavedLowRank {
    /// Adds the gradients of A and B, and of `x` if it has one, for the gradient `gy[tokens, n_out]` of the layer's output.
    fn backward(
        self,
        x: &Act<Cpu>,
        gy: &[f32],
        gradients: &mut Gradients<f32, Cpu>,
        with_input: bool,
    ) -> Result<(), CpuError> {
        let (n_rows, n_in) = *x.shape();
        let (rank, n_out) = (self.a.n_out(), self.b.n_out());
        let b_gradient = gradients.get_or_alloc_mut(&self.b_leaf)?;
        add_weight_gradient(b_gradient, gy, &self.hidden, n_out, rank);
        let mut g_hidden = buffers::take(n_rows * rank);
        self.b.backward(n_rows, gy, &mut g_hidden, false);
        g_hidden.iter_mut().for_each(|g| *g *= self.scale);
        let dropped = dropped(view(x), n_in, self.dropout);
        let input = dropped.as_deref().unwrap_or(view(x));
        let a_gradient = gradients.get_or_alloc_mut(&self.a_leaf)?;
        add_weight_gradient(a_gradient, &g_hidden, input, rank, n_in);
        if with_input {
            let gx = gradients.get_or_alloc_mut(x)?;
            match self.dropout {
                None => self.a.backward(n_rows, &g_hidden, gx, true),
                Some((dropout, stream)) => {
                    let mut g_dropped = buffers::take(n_rows * n_in);
                    self.a.backward(n_rows, &g_hidden, &mut g_dropped, false);
                    let Dropout { p, key } = dropout;
                    kif_kernels::dropout_backward(&g_dropped, n_in, p, key, stream, gx);
                    buffers::give(g_dropped);
                }
            }
        }
        buffers::give(g_hidden);
        buffers::give(self.hidden);
        if let Some(dropped) = dropped {
            buffers::give(dropped);
        }
        Ok(())
    }
}

pub(super) fn linear<T: Tape<f32, Cpu>>(
    engine: &Fused,
    x: Act<Cpu, T>,
    weight: &FusedWeight,
    low_rank: Option<LowRank<'_, FusedWeight>>,
    residual: Option<Act<Cpu, T>>,
    input_gradient: InputGradient,
) -> Result<Act<Cpu, T>, ModelError> {
    let (x, mut tape) = x.split_tape();
    let (n_rows, n_in) = *x.shape();
    let n_out = weight.spec.n_rows;
    assert_eq!(n_in, weight.spec.n_cols, "width of a linear layer's input");

    let mut residual_ghost = None;
    let mut y = match residual {
        None => buffers::take(n_rows * n_out),
        Some(residual) => {
            let (residual, residual_tape) = residual.split_tape();
            tape = tape.merge(residual_tape);
            assert_eq!(*residual.shape(), (n_rows, n_out), "shape of a residual");
            residual_ghost = Some(residual.ghost());
            let mut y = buffers::take(n_rows * n_out);
            y.copy_from_slice(view(&residual));
            y
        }
    };
    weight
        .packed()
        .forward(n_rows, view(&x), &mut y, residual_ghost.is_some());
    let low_rank = low_rank.map(|low_rank| {
        let hidden = hidden_states(&low_rank, n_rows, view(&x));
        low_rank.b.packed().forward(n_rows, &hidden, &mut y, true);
        (low_rank, hidden)
    });
    let out = engine.tensor(y, n_rows, n_out)?;

    if T::OWNS_TAPE {
        let (x_ghost, out_ghost) = (x.ghost(), out.ghost());
        let (packed, leaf) = (Arc::clone(weight.packed()), weight.leaf.clone());
        let saved = low_rank.and_then(|(low_rank, hidden)| save(low_rank, hidden));
        // A frozen layer without a low-rank part does not have to keep its input alive.
        let x = (saved.is_some() || leaf.is_some()).then_some(x);
        tape.add_backward_op(move |gradients| {
            let gy = take_gradient!(gradients, out_ghost);
            match input_gradient {
                InputGradient::Skip => {}
                InputGradient::Write => {
                    let mut gx = buffers::take(n_rows * n_in);
                    packed.backward(n_rows, &gy, &mut gx, false);
                    buffers::replace(gradients.get_or_alloc_mut(&x_ghost)?, gx);
                }
                InputGradient::Add => {
                    packed.backward(n_rows, &gy, gradients.get_or_alloc_mut(&x_ghost)?, true);
                }
            }
            if let (Some(leaf), Some(x)) = (&leaf, &x) {
                add_weight_gradient(gradients.get_or_alloc_mut(leaf)?, &gy, view(x), n_out, n_in);
            }
            if let (Some(saved), Some(x)) = (saved, &x) {
                saved.backward(x, &gy, gradients, input_gradient != InputGradient::Skip)?;
            }
            match residual_ghost {
                // The last consumer in the forward pass is the first in the backward pass: nothing is there yet.
                Some(residual) => buffers::replace(gradients.get_or_alloc_mut(&residual)?, gy),
                None => buffers::give(gy),
            }
            Ok(())
        });
    }
    Ok(out.put_tape(tape))
}

/// `scale * dropout(x) A^T`, `[tokens, R]`.
fn hidden_states(low_rank: &LowRank<'_, FusedWeight>, n_rows: usize, x: &[f32]) -> Vec<f32> {
    let a = low_rank.a.packed();
    let dropped = dropped(x, a.n_in(), low_rank.dropout);
    let mut hidden = buffers::take(n_rows * a.n_out());
    a.forward(n_rows, dropped.as_deref().unwrap_or(x), &mut hidden, false);
    hidden.iter_mut().for_each(|h| *h *= low_rank.scale);
    if let Some(dropped) = dropped {
        buffers::give(dropped);
    }
    hidden
}

/// Keeps the low-rank part for the backward pass, if it is trained.
fn save(low_rank: LowRank<'_, FusedWeight>, hidden: Vec<f32>) -> Option<SavedLowRank> {
    Some(SavedLowRank {
        a: Arc::clone(low_rank.a.packed()),
        b: Arc::clone(low_rank.b.packed()),
        a_leaf: low_rank.a.leaf.clone()?,
        b_leaf: low_rank.b.leaf.clone()?,
        scale: low_rank.scale,
        dropout: low_rank.dropout,
        hidden,
    })
}

/// `x` after dropout, or nothing where there is none. Made again in the backward pass: cheaper than keeping it.
fn dropped(x: &[f32], width: usize, dropout: Option<(Dropout, u64)>) -> Option<Vec<f32>> {
    let (dropout, stream) = dropout?;
    let mut y = buffers::take(x.len());
    kif_kernels::dropout(x, width, dropout.p, dropout.key, stream, &mut y);
    Some(y)
}

/// `into[n_out, n_in] += gy[tokens, n_out]^T x[tokens, n_in]`.
pub(super) fn add_weight_gradient(
    into: &mut [f32],
    gy: &[f32],
    x: &[f32],
    n_out: usize,
    n_in: usize,
) {
    let n_rows = gy.len() / n_out;
    kif_kernels::gemm(
        1.0,
        MatRef::row_major(gy, n_rows, n_out).transposed(),
        MatRef::row_major(x, n_rows, n_in),
        1.0,
        MatMut::row_major(into, n_out, n_in),
        true,
    );
}
