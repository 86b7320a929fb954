//! Sums and multiples on the tape.

use dfdx::prelude::*;

use super::{Fused, buffers, take_gradient, view};
use crate::ModelError;
use crate::engine::Act;

pub(super) fn add<T: Tape<f32, Cpu>>(
    engine: &Fused,
    residual: Act<Cpu, T>,
    x: Act<Cpu, T>,
) -> Result<Act<Cpu, T>, ModelError> {
    let (residual, residual_tape) = residual.split_tape();
    let (x, x_tape) = x.split_tape();
    let mut tape = residual_tape.merge(x_tape);
    let (n_rows, width) = *x.shape();
    let mut y = buffers::take(n_rows * width);
    for ((y, residual), x) in y.iter_mut().zip(view(&residual)).zip(view(&x)) {
        *y = residual + x;
    }
    let out = engine.tensor(y, n_rows, width)?;
    if T::OWNS_TAPE {
        let (residual_ghost, x_ghost, out_ghost) = (residual.ghost(), x.ghost(), out.ghost());
        tape.add_backward_op(move |gradients| {
            let gy = take_gradient!(gradients, out_ghost);
            let mut gx = buffers::take(gy.len());
            gx.copy_from_slice(&gy);
            // Neither has a later consumer: gradients are moved, not added.
            buffers::replace(gradients.get_or_alloc_mut(&x_ghost)?, gx);
            buffers::replace(gradients.get_or_alloc_mut(&residual_ghost)?, gy);
            Ok(())
        });
    }
    Ok(out.put_tape(tape))
}

pub(super) fn scale<T: Tape<f32, Cpu>>(
    engine: &Fused,
    x: Act<Cpu, T>,
    factor: f32,
) -> Result<Act<Cpu, T>, ModelError> {
    let (x, mut tape) = x.split_tape();
    let (n_rows, width) = *x.shape();
    let mut y = buffers::take(n_rows * width);
    for (y, x) in y.iter_mut().zip(view(&x)) {
        *y = factor * x;
    }
    let out = engine.tensor(y, n_rows, width)?;
    if T::OWNS_TAPE {
        let (x_ghost, out_ghost) = (x.ghost(), out.ghost());
        tape.add_backward_op(move |gradients| {
            let mut gy = take_gradient!(gradients, out_ghost);
            gy.iter_mut().for_each(|g| *g *= factor);
            buffers::replace(gradients.get_or_alloc_mut(&x_ghost)?, gy);
            Ok(())
        });
    }
    Ok(out.put_tape(tape))
}
