//! Rows of an embedding table.

use dfdx::prelude::*;

use half::slice::HalfFloatSliceExt;

use super::{Fused, FusedWeight, Kept, buffers, take_gradient};
use crate::ModelError;
use crate::engine::Act;

/// `[ids, D]`; ids from the end of `table` on are rows of `more`. The gradient of what is trained
/// adds every row's gradient to the row of its id, in order.
pub(super) fn embed<T: Tape<f32, Cpu>>(
    engine: &Fused,
    table: &FusedWeight,
    more: Option<&FusedWeight>,
    ids: &[u32],
) -> Result<Act<Cpu, T>, ModelError> {
    let (n_ids, width) = (table.spec.n_rows as u32, table.spec.n_cols);
    let more = more.filter(|_| ids.iter().any(|&id| id >= n_ids));
    let mut rows = buffers::take(ids.len() * width);
    match more {
        None => look_up(table, ids, &mut rows),
        Some(more) => {
            // Any row of the table where a row of the other one comes.
            let own: Vec<u32> = ids
                .iter()
                .map(|&id| if id < n_ids { id } else { 0 })
                .collect();
            look_up(table, &own, &mut rows);
            for (row, &id) in rows.chunks_exact_mut(width).zip(ids) {
                if id >= n_ids {
                    look_up(more, &[id - n_ids], row);
                }
            }
        }
    }
    let out = engine.tensor(rows, ids.len(), width)?;
    let mut tape = T::default();
    let leaves = [table.leaf.clone(), more.and_then(|more| more.leaf.clone())];
    if T::OWNS_TAPE && leaves.iter().any(Option::is_some) {
        let (out_ghost, ids) = (out.ghost(), ids.to_vec());
        tape.add_backward_op(move |gradients| {
            let gy = take_gradient!(gradients, out_ghost);
            for (leaf, range) in leaves.iter().zip([0..n_ids, n_ids..u32::MAX]) {
                let Some(leaf) = leaf else { continue };
                let into = gradients.get_or_alloc_mut(leaf)?;
                for (&id, gy) in ids.iter().zip(gy.chunks_exact(width)) {
                    if range.contains(&id) {
                        let row = &mut into[(id - range.start) as usize * width..][..width];
                        row.iter_mut().zip(gy).for_each(|(row, g)| *row += g);
                    }
                }
            }
            Ok(())
        });
    }
    Ok(out.put_tape(tape))
}

/// Rows of one table, `[ids, D]`.
fn look_up(table: &FusedWeight, ids: &[u32], rows: &mut [f32]) {
    let width = table.spec.n_cols;
    let place = |id: u32| id as usize * width..(id as usize + 1) * width;
    let rows_of_ids = rows.chunks_exact_mut(width).zip(ids);
    match &table.kept {
        // A table that is the output head, too, exists once.
        Kept::Packed(packed) => packed.read_rows(ids, rows),
        Kept::Floats(values) => {
            rows_of_ids.for_each(|(row, &id)| row.copy_from_slice(&values[place(id)]));
        }
        Kept::Halves(values) => {
            rows_of_ids.for_each(|(row, &id)| values[place(id)].convert_to_f32_slice(row));
        }
    }
}
