//! Linear layers with a low-rank part on the tape.

use std::sync::Arc;

use dfdx::prelude::*;
use kif_kernels::{MatMut, MatRef, PackedWeight};

use super::{Fused, FusedWeight, buffers, gate, take_gradient, view};
use crate::engine::{Act, Gate, InputGradient, LowRank};
use crate::{Dropout, ModelError};

/// What the backward pass of the low-rank part needs.
struct SavedLowRank {
    a: Arc<PackedWeight>,
    b: Arc<PackedWeight>,
    a_leaf: Act<Cpu>,
    b_leaf: Act<Cpu>,
    scale: f32,
    dropout: Option<(Dropout, u64)>,
    /// `scale * dropout(x) A^T`, `[tokens, R]`, before the gate.
    hidden: Vec<f32>,
    gate: Option<Gate<Act<Cpu>>>,
}

impl SavedLowRank {
    /// Adds the gradients of A, B and gate, and of `x` if it has one, for the gradient
    /// `gy[tokens, n_out]` of the layer's output.
    fn backward(
        self,
        x: &Act<Cpu>,
        gy: &[f32],
        gradients: &mut Gradients<f32, Cpu>,
        with_input: bool,
    ) -> Result<(), CpuError> {
        let (n_rows, n_in) = *x.shape();
        let (rank, n_out) = (self.a.n_out(), self.b.n_out());
        let gated = self
            .gate
            .as_ref()
            .map(|g| gate::gated(g, &self.hidden, rank));
        let b_gradient = gradients.get_or_alloc_mut(&self.b_leaf)?;
        let b_input = gated.as_deref().unwrap_or(&self.hidden);
        add_weight_gradient(b_gradient, gy, b_input, n_out, rank);
        let mut g_hidden = buffers::take(n_rows * rank);
        self.b.backward(n_rows, gy, &mut g_hidden, false);
        if let Some(gate) = &self.gate {
            let into = gradients.get_or_alloc_mut(&gate.weights)?;
            gate::add_gradient(gate, &self.hidden, &g_hidden, rank, into);
            gate::apply(gate, &mut g_hidden, rank);
        }
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
        [dropped, gated]
            .into_iter()
            .flatten()
            .for_each(buffers::give);
        Ok(())
    }
}

pub(super) fn linear<T: Tape<f32, Cpu>>(
    engine: &Fused,
    x: Act<Cpu, T>,
    weight: &FusedWeight,
    low_rank: Option<LowRank<'_, FusedWeight, Act<Cpu, T>>>,
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
        let (low_rank, gate_tape) = split_gate(low_rank);
        tape = std::mem::take(&mut tape).merge(gate_tape);
        let hidden = hidden_states(&low_rank, n_rows, view(&x));
        let rank = low_rank.a.packed().n_out();
        let gated = low_rank
            .gate
            .as_ref()
            .map(|g| gate::gated(g, &hidden, rank));
        let b_input = gated.as_deref().unwrap_or(&hidden);
        low_rank.b.packed().forward(n_rows, b_input, &mut y, true);
        gated.into_iter().for_each(buffers::give);
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
                // The last consumer in the forward pass is the first in the backward pass: nothing
                // is there yet.
                Some(residual) => buffers::replace(gradients.get_or_alloc_mut(&residual)?, gy),
                None => buffers::give(gy),
            }
            Ok(())
        });
    }
    Ok(out.put_tape(tape))
}

/// The low-rank part without tape, and the tape of its gate.
fn split_gate<T: Tape<f32, Cpu>>(
    low_rank: LowRank<'_, FusedWeight, Act<Cpu, T>>,
) -> (LowRank<'_, FusedWeight, Act<Cpu>>, T) {
    let LowRank {
        a,
        b,
        scale,
        dropout,
        gate,
    } = low_rank;
    let (gate, tape) = match gate {
        None => (None, T::default()),
        Some(Gate { weights, rows }) => {
            let (weights, tape) = weights.split_tape();
            (Some(Gate { weights, rows }), tape)
        }
    };
    (
        LowRank {
            a,
            b,
            scale,
            dropout,
            gate,
        },
        tape,
    )
}

/// `scale * dropout(x) A^T`, `[tokens, R]`.
fn hidden_states(
    low_rank: &LowRank<'_, FusedWeight, Act<Cpu>>,
    n_rows: usize,
    x: &[f32],
) -> Vec<f32> {
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
fn save(low_rank: LowRank<'_, FusedWeight, Act<Cpu>>, hidden: Vec<f32>) -> Option<SavedLowRank> {
    Some(SavedLowRank {
        a: Arc::clone(low_rank.a.packed()),
        b: Arc::clone(low_rank.b.packed()),
        a_leaf: low_rank.a.leaf.clone()?,
        b_leaf: low_rank.b.leaf.clone()?,
        scale: low_rank.scale,
        dropout: low_rank.dropout,
        hidden,
        gate: low_rank.gate,
    })
}

/// `x` after dropout, or nothing where there is none. Made again in the backward pass: cheaper than
/// keeping it.
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
