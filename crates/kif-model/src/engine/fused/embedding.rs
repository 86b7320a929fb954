//! Rows of an embedding table.

use dfdx::prelude::*;

use super::{Fused, FusedWeight, buffers, take_gradient};
use crate::ModelError;
use crate::engine::Act;

/// `[ids, D]`; the gradient of a trainable table adds every row's gradient to the row of its id, in order.
pub(super) fn embed<T: Tape<f32, Cpu>>(
    engine: &Fused,
    table: &FusedWeight,
    ids: &[u32],
) -> Result<Act<Cpu, T>, ModelError> {
    let width = table.spec.n_cols;
    let mut rows = buffers::take(ids.len() * width);
    match &table.packed {
        // A table that is the output head, too, exists once.
        Some(packed) => packed.read_rows(ids, &mut rows),
        None => {
            for (row, &id) in rows.chunks_exact_mut(width).zip(ids) {
                row.copy_from_slice(&table.values()[id as usize * width..][..width]);
            }
        }
    }
    let out = engine.tensor(rows, ids.len(), width)?;
    let mut tape = T::default();
    if let (true, Some(leaf)) = (T::OWNS_TAPE, table.leaf.clone()) {
        let (out_ghost, ids) = (out.ghost(), ids.to_vec());
        tape.add_backward_op(move |gradients| {
            let gy = take_gradient!(gradients, out_ghost);
            let into = gradients.get_or_alloc_mut(&leaf)?;
            for (&id, gy) in ids.iter().zip(gy.chunks_exact(width)) {
                let row = &mut into[id as usize * width..][..width];
                row.iter_mut().zip(gy).for_each(|(row, g)| *row += g);
            }
            Ok(())
        });
    }
    Ok(out.put_tape(tape))
}
