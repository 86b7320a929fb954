//! The feed-forward block's activations on the tape. Their inputs have no other consumer, so
//! gradients are written, not added.

use dfdx::prelude::*;

use super::CudaEngine;
use super::device::{Address, Grid, Result, arguments, take_gradient};
use crate::engine::Act;

pub(super) fn relu<T: Tape<f32, Cuda>>(
    engine: &CudaEngine,
    x: Act<Cuda, T>,
) -> Result<Act<Cuda, T>> {
    let gpu = engine.gpu.clone();
    let (x, mut tape) = x.split_tape();
    let (n_rows, width) = *x.shape();
    let n = n_rows * width;
    let out = gpu.tensor(n_rows, width)?;
    let y = Address::of_tensor(&out);
    gpu.launch(
        "relu",
        Grid::elements(n),
        arguments![n, Address::of_tensor(&x), y],
    )?;
    if T::OWNS_TAPE {
        let (x_ghost, out_ghost, kept) = (x.ghost(), out.ghost(), out.clone());
        tape.add_backward_op(move |gradients| {
            let mut gy = take_gradient!(gpu, gradients, out_ghost);
            let gx = Address::of_gradient(gradients.get_or_alloc_mut(&x_ghost)?);
            let y = Address::of_tensor(&kept);
            gpu.launch(
                "relu_backward",
                Grid::elements(n),
                arguments![n, y, gy.address()?, gx],
            )
        });
    }
    Ok(out.put_tape(tape))
}

/// `f(gate) * up`, for the kernels of f forward and backward.
pub(super) fn gated<T: Tape<f32, Cuda>>(
    engine: &CudaEngine,
    [forward, backward]: [&'static str; 2],
    gate: Act<Cuda, T>,
    up: Act<Cuda, T>,
) -> Result<Act<Cuda, T>> {
    let gpu = engine.gpu.clone();
    let (gate, gate_tape) = gate.split_tape();
    let (up, up_tape) = up.split_tape();
    let mut tape = gate_tape.merge(up_tape);
    let (n_rows, width) = *gate.shape();
    let n = n_rows * width;
    let out = gpu.tensor(n_rows, width)?;
    let inputs = (Address::of_tensor(&gate), Address::of_tensor(&up));
    gpu.launch(
        forward,
        Grid::elements(n),
        arguments![n, inputs.0, inputs.1, Address::of_tensor(&out)],
    )?;
    if T::OWNS_TAPE {
        let out_ghost = out.ghost();
        tape.add_backward_op(move |gradients| {
            let mut gy = take_gradient!(gpu, gradients, out_ghost);
            let g_gate = Address::of_gradient(gradients.get_or_alloc_mut(&gate)?);
            let g_up = Address::of_gradient(gradients.get_or_alloc_mut(&up)?);
            gpu.launch(
                backward,
                Grid::elements(n),
                arguments![n, inputs.0, inputs.1, gy.address()?, g_gate, g_up],
            )
        });
    }
    Ok(out.put_tape(tape))
}
