//! Sums and multiples on the tape. Their inputs have no later consumer, so gradients are written,
//! not added.

use dfdx::prelude::*;

use super::CudaEngine;
use super::device::{Address, Grid, Result, arguments, take_gradient};
use crate::engine::Act;

pub(super) fn add<T: Tape<f32, Cuda>>(
    engine: &CudaEngine,
    residual: Act<Cuda, T>,
    x: Act<Cuda, T>,
) -> Result<Act<Cuda, T>> {
    let gpu = engine.gpu.clone();
    let (residual, residual_tape) = residual.split_tape();
    let (x, x_tape) = x.split_tape();
    let mut tape = residual_tape.merge(x_tape);
    let (n_rows, width) = *x.shape();
    let n = n_rows * width;
    let out = gpu.tensor(n_rows, width)?;
    let inputs = (Address::of_tensor(&residual), Address::of_tensor(&x));
    gpu.launch(
        "add",
        Grid::elements(n),
        arguments![n, inputs.0, inputs.1, Address::of_tensor(&out)],
    )?;
    if T::OWNS_TAPE {
        let (residual_ghost, x_ghost, out_ghost) = (residual.ghost(), x.ghost(), out.ghost());
        tape.add_backward_op(move |gradients| {
            let mut gy = take_gradient!(gpu, gradients, out_ghost);
            let gx = Address::of_gradient(gradients.get_or_alloc_mut(&x_ghost)?);
            gpu.launch(
                "scale",
                Grid::elements(n),
                arguments![n, 1.0, gy.address()?, gx],
            )?;
            gy.move_to(gradients.get_or_alloc_mut(&residual_ghost)?)
        });
    }
    Ok(out.put_tape(tape))
}

pub(super) fn scale<T: Tape<f32, Cuda>>(
    engine: &CudaEngine,
    x: Act<Cuda, T>,
    factor: f32,
) -> Result<Act<Cuda, T>> {
    let gpu = engine.gpu.clone();
    let (x, mut tape) = x.split_tape();
    let (n_rows, width) = *x.shape();
    let n = n_rows * width;
    let out = gpu.tensor(n_rows, width)?;
    let (x_at, y) = (Address::of_tensor(&x), Address::of_tensor(&out));
    gpu.launch("scale", Grid::elements(n), arguments![n, factor, x_at, y])?;
    if T::OWNS_TAPE {
        let (x_ghost, out_ghost) = (x.ghost(), out.ghost());
        tape.add_backward_op(move |gradients| {
            let mut gy = take_gradient!(gpu, gradients, out_ghost);
            let gx = Address::of_gradient(gradients.get_or_alloc_mut(&x_ghost)?);
            gpu.launch(
                "scale",
                Grid::elements(n),
                arguments![n, factor, gy.address()?, gx],
            )
        });
    }
    Ok(out.put_tape(tape))
}
