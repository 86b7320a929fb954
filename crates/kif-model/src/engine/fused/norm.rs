//! Root-mean-square normalisation on the tape.

use std::sync::Arc;

use dfdx::prelude::*;

use super::{Fused, FusedWeight, buffers, take_gradient, view};
use crate::ModelError;
use crate::engine::Act;

/// Norms every `gain` of columns of a row: the whole row, or each of its heads.
pub(super) fn rms_norm<T: Tape<f32, Cpu>>(
    engine: &Fused,
    x: Act<Cpu, T>,
    gain: &FusedWeight,
    eps: f32,
) -> Result<Act<Cpu, T>, ModelError> {
    let (x, mut tape) = x.split_tape();
    let (n_rows, width) = *x.shape();
    let of_gain = gain.spec.n_cols;
    assert!(
        width.is_multiple_of(of_gain),
        "heads of {of_gain} in {width}"
    );
    let mut y = buffers::take(n_rows * width);
    let mut inv_rms = vec![0.0; n_rows * width / of_gain];
    kif_kernels::rms_norm(view(&x), gain.elements(), eps, &mut y, &mut inv_rms);
    let out = engine.tensor(y, n_rows, width)?;
    if T::OWNS_TAPE {
        let (x_ghost, out_ghost) = (x.ghost(), out.ghost());
        let (gain, leaf) = (Arc::clone(gain.elements()), gain.leaf.clone());
        tape.add_backward_op(move |gradients| {
            let gy = take_gradient!(gradients, out_ghost);
            let mut gain_gradient = leaf.as_ref().map(|_| vec![0.0; of_gain]);
            let gx = gradients.get_or_alloc_mut(&x_ghost)?;
            kif_kernels::rms_norm_backward(
                view(&x),
                &gain,
                &inv_rms,
                &gy,
                gx,
                gain_gradient.as_deref_mut(),
            );
            buffers::give(gy);
            if let (Some(leaf), Some(gain_gradient)) = (leaf, gain_gradient) {
                let into = gradients.get_or_alloc_mut(&leaf)?;
                into.iter_mut()
                    .zip(&gain_gradient)
                    .for_each(|(into, g)| *into += g);
            }
            Ok(())
        });
    }
    Ok(out.put_tape(tape))
}
