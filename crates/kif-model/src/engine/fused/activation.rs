//! The feed-forward block's activations on the tape. Their inputs have no other consumer, so
//! gradients are moved.

use dfdx::prelude::*;

use super::{Fused, buffers, take_gradient, view};
use crate::ModelError;
use crate::engine::Act;

pub(super) fn relu<T: Tape<f32, Cpu>>(
    engine: &Fused,
    x: Act<Cpu, T>,
) -> Result<Act<Cpu, T>, ModelError> {
    let (x, mut tape) = x.split_tape();
    let (n_rows, width) = *x.shape();
    let x_ghost = x.ghost();
    let mut y = buffers::take(n_rows * width);
    kif_kernels::relu(view(&x), &mut y);
    // The output tells where the input was positive: the input can go.
    drop(x);
    let out = engine.tensor(y, n_rows, width)?;
    if T::OWNS_TAPE {
        let (out_ghost, y) = (out.ghost(), out.clone());
        tape.add_backward_op(move |gradients| {
            let gy = take_gradient!(gradients, out_ghost);
            kif_kernels::relu_backward(view(&y), &gy, gradients.get_or_alloc_mut(&x_ghost)?);
            buffers::give(gy);
            Ok(())
        });
    }
    Ok(out.put_tape(tape))
}

pub(super) fn gated_gelu<T: Tape<f32, Cpu>>(
    engine: &Fused,
    gate: Act<Cpu, T>,
    up: Act<Cpu, T>,
) -> Result<Act<Cpu, T>, ModelError> {
    let kernels: (Forward, Backward) = (kif_kernels::gated_gelu, kif_kernels::gated_gelu_backward);
    gated(kernels, engine, gate, up)
}

pub(super) fn gated_silu<T: Tape<f32, Cpu>>(
    engine: &Fused,
    gate: Act<Cpu, T>,
    up: Act<Cpu, T>,
) -> Result<Act<Cpu, T>, ModelError> {
    let kernels: (Forward, Backward) = (kif_kernels::gated_silu, kif_kernels::gated_silu_backward);
    gated(kernels, engine, gate, up)
}

/// A kernel of gate, up and output.
type Forward = fn(&[f32], &[f32], &mut [f32]);
/// A kernel of gate, up, the output's gradient, and those of gate and up.
type Backward = fn(&[f32], &[f32], &[f32], &mut [f32], &mut [f32]);

fn gated<T: Tape<f32, Cpu>>(
    (forward, backward): (Forward, Backward),
    engine: &Fused,
    gate: Act<Cpu, T>,
    up: Act<Cpu, T>,
) -> Result<Act<Cpu, T>, ModelError> {
    let (gate, gate_tape) = gate.split_tape();
    let (up, up_tape) = up.split_tape();
    let mut tape = gate_tape.merge(up_tape);
    let (n_rows, width) = *gate.shape();
    let mut y = buffers::take(n_rows * width);
    forward(view(&gate), view(&up), &mut y);
    let out = engine.tensor(y, n_rows, width)?;
    if T::OWNS_TAPE {
        let out_ghost = out.ghost();
        tape.add_backward_op(move |gradients| {
            let gy = take_gradient!(gradients, out_ghost);
            let (mut g_gate, mut g_up) = (buffers::take(gy.len()), buffers::take(gy.len()));
            backward(view(&gate), view(&up), &gy, &mut g_gate, &mut g_up);
            buffers::give(gy);
            buffers::replace(gradients.get_or_alloc_mut(&gate)?, g_gate);
            buffers::replace(gradients.get_or_alloc_mut(&up)?, g_up);
            Ok(())
        });
    }
    Ok(out.put_tape(tape))
}
