//! Root-mean-square normalisation on the tape, of whole rows or of every head by itself.

use dfdx::prelude::*;

use super::device::{Address, Grid, Result, arguments, take_gradient};
use super::{CudaEngine, CudaWeight};
use crate::engine::Act;

pub(super) fn rms_norm<T: Tape<f32, Cuda>>(
    engine: &CudaEngine,
    x: Act<Cuda, T>,
    gain: &CudaWeight,
    eps: f32,
) -> Result<Act<Cuda, T>> {
    let gpu = engine.gpu.clone();
    let (x, mut tape) = x.split_tape();
    let shape = *x.shape();
    // A gain narrower than a row is that of single heads.
    let width = gain.spec.n_cols;
    let n_rows = shape.0 * (shape.1 / width);
    let out = gpu.tensor(shape.0, shape.1)?;
    let inv_rms = gpu.scratch::<f32>(n_rows)?;
    let (x_at, inv_at) = (Address::of_tensor(&x), Address::of(&inv_rms));
    gpu.launch(
        "rms_norm",
        Grid::rows(n_rows, width),
        arguments![
            width,
            eps,
            x_at,
            gain.full(),
            Address::of_tensor(&out),
            inv_at
        ],
    )?;
    if T::OWNS_TAPE {
        let (out_ghost, gain, leaf) = (out.ghost(), gain.clone(), gain.leaf());
        tape.add_backward_op(move |gradients| {
            let mut gy = take_gradient!(gpu, gradients, out_ghost);
            let (gy, inv_at) = (gy.address()?, Address::of(&inv_rms));
            let gx = Address::of_gradient(gradients.get_or_alloc_mut(&x)?);
            gpu.launch(
                "rms_norm_backward",
                Grid::rows(n_rows, width),
                arguments![width, x_at, gain.full(), inv_at, gy, gx],
            )?;
            let Some(leaf) = leaf else { return Ok(()) };
            let g_gain = Address::of_gradient(gradients.get_or_alloc_mut(&leaf)?);
            gpu.launch(
                "rms_norm_gain_backward",
                Grid::exactly(width.div_ceil(32), (32, 8)),
                arguments![n_rows, width, x_at, inv_at, gy, g_gain],
            )
        });
    }
    Ok(out.put_tape(tape))
}
