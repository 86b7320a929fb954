//! The bias of a linear layer on the tape.

use dfdx::prelude::*;

use super::{Fused, FusedWeight, buffers, take_gradient, view};
use crate::ModelError;
use crate::engine::Act;

pub(super) fn add_bias<T: Tape<f32, Cpu>>(
    engine: &Fused,
    x: Act<Cpu, T>,
    bias: &FusedWeight,
) -> Result<Act<Cpu, T>, ModelError> {
    let (x, mut tape) = x.split_tape();
    let (n_rows, width) = *x.shape();
    assert_eq!(bias.spec.n_cols, width, "width of a bias");
    let mut y = buffers::take(n_rows * width);
    y.copy_from_slice(view(&x));
    for row in y.chunks_exact_mut(width) {
        row.iter_mut()
            .zip(bias.elements().iter())
            .for_each(|(y, b)| *y += b);
    }
    let out = engine.tensor(y, n_rows, width)?;
    if T::OWNS_TAPE {
        let (x_ghost, out_ghost, leaf) = (x.ghost(), out.ghost(), bias.leaf.clone());
        tape.add_backward_op(move |gradients| {
            let gy = take_gradient!(gradients, out_ghost);
            if let Some(leaf) = &leaf {
                let into = gradients.get_or_alloc_mut(leaf)?;
                for row in gy.chunks_exact(width) {
                    into.iter_mut().zip(row).for_each(|(into, g)| *into += g);
                }
            }
            buffers::replace(gradients.get_or_alloc_mut(&x_ghost)?, gy);
            Ok(())
        });
    }
    Ok(out.put_tape(tape))
}
