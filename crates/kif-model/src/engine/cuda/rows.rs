//! Biases, rotations and choices of rows on the tape. Their inputs have no other consumer, so
//! gradients are written, not added.

use std::rc::Rc;

use cudarc::driver::CudaSlice;
use dfdx::prelude::*;

use super::device::{Address, Gpu, Grid, Result, arguments, take_gradient};
use super::{CudaEngine, CudaWeight, Groups};
use crate::engine::{Act, Angles};

/// `x + bias` in every row.
pub(super) fn add_bias<T: Tape<f32, Cuda>>(
    engine: &CudaEngine,
    x: Act<Cuda, T>,
    bias: &CudaWeight,
) -> Result<Act<Cuda, T>> {
    let gpu = engine.gpu.clone();
    let (x, mut tape) = x.split_tape();
    let (n_rows, width) = *x.shape();
    let n = n_rows * width;
    let out = gpu.tensor(n_rows, width)?;
    let (x_at, y) = (Address::of_tensor(&x), Address::of_tensor(&out));
    gpu.launch(
        "add_bias",
        Grid::elements(n),
        arguments![n, width, bias.full(), x_at, y],
    )?;
    if T::OWNS_TAPE {
        let (x_ghost, out_ghost, leaf) = (x.ghost(), out.ghost(), bias.leaf());
        tape.add_backward_op(move |gradients| {
            let mut taken = take_gradient!(gpu, gradients, out_ghost);
            if let Some(leaf) = &leaf {
                let into = Address::of_gradient(gradients.get_or_alloc_mut(leaf)?);
                gpu.launch(
                    "add_column_sums",
                    Grid::exactly(width.div_ceil(32), (32, 8)),
                    arguments![n_rows, width, taken.address()?, into],
                )?;
            }
            taken.move_to(gradients.get_or_alloc_mut(&x_ghost)?)
        });
    }
    Ok(out.put_tape(tape))
}

/// Rotary position embedding.
pub(super) fn rotate<T: Tape<f32, Cuda>>(
    engine: &CudaEngine,
    x: Act<Cuda, T>,
    angles: &Angles,
) -> Result<Act<Cuda, T>> {
    let gpu = engine.gpu.clone();
    let (x, mut tape) = x.split_tape();
    let (n_rows, width) = *x.shape();
    let half = angles.half;
    let [cos, sin] = gpu.angles(angles)?;
    let grid = Grid::elements(n_rows * width / 2);
    let out = gpu.tensor(n_rows, width)?;
    let (x_at, y) = (Address::of_tensor(&x), Address::of_tensor(&out));
    let (cos_at, sin_at) = (Address::of(&cos), Address::of(&sin));
    gpu.launch(
        "rotate",
        grid,
        arguments![n_rows, width, half, 1.0, cos_at, sin_at, x_at, y],
    )?;
    if T::OWNS_TAPE {
        let (x_ghost, out_ghost) = (x.ghost(), out.ghost());
        tape.add_backward_op(move |gradients| {
            let mut gy = take_gradient!(gpu, gradients, out_ghost);
            let gx = Address::of_gradient(gradients.get_or_alloc_mut(&x_ghost)?);
            let (cos, sin, gy) = (Address::of(&cos), Address::of(&sin), gy.address()?);
            gpu.launch(
                "rotate",
                grid,
                arguments![n_rows, width, half, -1.0, cos, sin, gy, gx],
            )
        });
    }
    Ok(out.put_tape(tape))
}

/// The given rows of `x`, each at most once.
pub(super) fn select<T: Tape<f32, Cuda>>(
    engine: &CudaEngine,
    x: Act<Cuda, T>,
    rows: &[usize],
) -> Result<Act<Cuda, T>> {
    let gpu = engine.gpu.clone();
    let (x, mut tape) = x.split_tape();
    let (out, rows) = rows_of(&gpu, &x, rows)?;
    if T::OWNS_TAPE {
        let (n, width) = *out.shape();
        let (x_ghost, out_ghost) = (x.ghost(), out.ghost());
        tape.add_backward_op(move |gradients| {
            let mut gy = take_gradient!(gpu, gradients, out_ghost);
            // What was not chosen keeps the zeros that it is allocated with.
            let gx = Address::of_gradient(gradients.get_or_alloc_mut(&x_ghost)?);
            gpu.launch(
                "put_rows",
                Grid::elements(n * width),
                arguments![n, width, Address::of(&rows), gy.address()?, gx],
            )
        });
    }
    Ok(out.put_tape(tape))
}

/// The given rows of `x`, each any number of times: their gradients are added in the order of
/// `rows`.
pub(super) fn repeat<T: Tape<f32, Cuda>>(
    engine: &CudaEngine,
    x: Act<Cuda, T>,
    rows: &[usize],
) -> Result<Act<Cuda, T>> {
    let gpu = engine.gpu.clone();
    let (x, mut tape) = x.split_tape();
    let (out, _) = rows_of(&gpu, &x, rows)?;
    if T::OWNS_TAPE {
        let width = out.shape().1;
        let (x_ghost, out_ghost) = (x.ghost(), out.ghost());
        let groups = Groups::new(rows.iter().map(|&row| Some(row as u32)));
        tape.add_backward_op(move |gradients| {
            let mut gy = take_gradient!(gpu, gradients, out_ghost);
            let lists = groups.upload(&gpu)?;
            let gx = Address::of_gradient(gradients.get_or_alloc_mut(&x_ghost)?);
            let [rows, starts, places] = lists.each_ref().map(|list| Address::of(list));
            gpu.launch(
                "embed_backward",
                Grid::rows(groups.len(), width),
                arguments![width, rows, starts, places, gy.address()?, gx],
            )
        });
    }
    Ok(out.put_tape(tape))
}

/// Rows of `x`, looked up as those of a table, and their numbers on the device.
fn rows_of(gpu: &Gpu, x: &Act<Cuda>, rows: &[usize]) -> Result<(Act<Cuda>, Rc<CudaSlice<u32>>)> {
    let (n_rows, width) = *x.shape();
    let n = rows.len();
    let rows: Vec<u32> = rows.iter().map(|&row| row as u32).collect();
    let rows = gpu.indices(&rows)?;
    let out = gpu.tensor(n, width)?;
    let (x_at, rows_at, y) = (
        Address::of_tensor(x),
        Address::of(&rows),
        Address::of_tensor(&out),
    );
    gpu.launch(
        "embed",
        Grid::elements(n * width),
        arguments![n, width, n_rows as u32, x_at, Address::NULL, rows_at, y],
    )?;
    Ok((out, rows))
}
