//! Rotary position embedding on the tape. The gradient is turned back.

use dfdx::prelude::*;

use super::{Fused, buffers, take_gradient, view};
use crate::ModelError;
use crate::engine::{Act, Angles};

pub(super) fn rotate<T: Tape<f32, Cpu>>(
    engine: &Fused,
    x: Act<Cpu, T>,
    angles: &Angles,
) -> Result<Act<Cpu, T>, ModelError> {
    let (x, mut tape) = x.split_tape();
    let (n_rows, width) = *x.shape();
    let mut y = buffers::take(n_rows * width);
    kif_kernels::rotate(view(&x), &angles.cos, &angles.sin, angles.half, &mut y);
    let out = engine.tensor(y, n_rows, width)?;
    if T::OWNS_TAPE {
        let (x_ghost, out_ghost, angles) = (x.ghost(), out.ghost(), angles.clone());
        tape.add_backward_op(move |gradients| {
            let gy = take_gradient!(gradients, out_ghost);
            let mut gx = buffers::take(gy.len());
            let back: Vec<f32> = angles.sin.iter().map(|sin| -sin).collect();
            kif_kernels::rotate(&gy, &angles.cos, &back, angles.half, &mut gx);
            buffers::give(gy);
            buffers::replace(gradients.get_or_alloc_mut(&x_ghost)?, gx);
            Ok(())
        });
    }
    Ok(out.put_tape(tape))
}
