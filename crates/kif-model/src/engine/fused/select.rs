//! A choice of rows on the tape: the last hidden states that predict something.

use dfdx::prelude::*;

use super::{Fused, buffers, take_gradient, view};
use crate::ModelError;
use crate::engine::Act;

pub(super) fn select<T: Tape<f32, Cpu>>(
    engine: &Fused,
    x: Act<Cpu, T>,
    rows: &[usize],
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
                gx[row * width..][..width].copy_from_slice(gy);
            }
            buffers::give(gy);
            Ok(())
        });
    }
    Ok(out.put_tape(tape))
}
