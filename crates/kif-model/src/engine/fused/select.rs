//! A choice of rows on the tape: the last hidden states that predict something, or the keys of
//! tokens that several rows share.

use dfdx::prelude::*;

use super::{Fused, buffers, take_gradient, view};
use crate::ModelError;
use crate::engine::Act;

pub(super) fn select<T: Tape<f32, Cpu>>(
    engine: &Fused,
    x: Act<Cpu, T>,
    rows: &[usize],
) -> Result<Act<Cpu, T>, ModelError> {
    chosen(engine, x, rows, |into, gy| into.copy_from_slice(gy))
}

/// Gradients of a row that was taken several times are added in the order of `rows`.
pub(super) fn repeat<T: Tape<f32, Cpu>>(
    engine: &Fused,
    x: Act<Cpu, T>,
    rows: &[usize],
) -> Result<Act<Cpu, T>, ModelError> {
    chosen(engine, x, rows, |into, gy| {
        into.iter_mut().zip(gy).for_each(|(into, g)| *into += g);
    })
}

/// `give` puts the gradient of a chosen row into that of its origin, which begins with zeros.
fn chosen<T: Tape<f32, Cpu>>(
    engine: &Fused,
    x: Act<Cpu, T>,
    rows: &[usize],
    give: fn(&mut [f32], &[f32]),
) -> Result<Act<Cpu, T>, ModelError> {
    let (x, mut tape) = x.split_tape();
    let width = x.shape().1;
    let mut y = buffers::take(rows.len() * width);
    for (y, row) in y.chunks_exact_mut(width).zip(rows) {
        y.copy_from_slice(&view(&x)[row * width..][..width]);
    }
    let out = engine.tensor(y, rows.len(), width)?;
    if T::OWNS_TAPE {
        let (x_ghost, out_ghost, rows) = (x.ghost(), out.ghost(), rows.to_vec());
        tape.add_backward_op(move |gradients| {
            let gy = take_gradient!(gradients, out_ghost);
            // What was not chosen keeps the zeros that it is allocated with.
            let gx = gradients.get_or_alloc_mut(&x_ghost)?;
            for (gy, row) in gy.chunks_exact(width).zip(&rows) {
                give(&mut gx[row * width..][..width], gy);
            }
            buffers::give(gy);
            Ok(())
        });
    }
    Ok(out.put_tape(tape))
}
