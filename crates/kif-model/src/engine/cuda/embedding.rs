//! Rows of an embedding table.

use dfdx::prelude::*;

use super::device::{Address, Format, Grid, Result, arguments, take_gradient};
use super::{CudaEngine, CudaWeight, Groups};
use crate::engine::Act;

/// `[ids, D]`; ids from the end of `table` on are rows of `more`. The gradient of what is trained
/// adds every row's gradient to the row of its id, in order.
pub(super) fn embed<T: Tape<f32, Cuda>>(
    engine: &CudaEngine,
    table: &CudaWeight,
    more: Option<&CudaWeight>,
    ids: &[u32],
) -> Result<Act<Cuda, T>> {
    let gpu = engine.gpu.clone();
    let (n_ids, width) = (table.spec.n_rows as u32, table.spec.n_cols);
    let out = gpu.tensor(ids.len(), width)?;
    let on_device = gpu.indices(ids)?;
    // A frozen table that is the output head, too, exists once, in f16 if products are.
    let kernel = match table.kept.format() {
        Format::F16 => "embed_half",
        Format::F32 => "embed",
    };
    let more_at = more.map_or(Address::NULL, CudaWeight::full);
    let y = Address::of_tensor(&out);
    gpu.launch(
        kernel,
        Grid::elements(ids.len() * width),
        arguments![
            ids.len(),
            width,
            n_ids,
            table.kept.address(),
            more_at,
            Address::of(&on_device),
            y
        ],
    )?;
    let mut tape = T::default();
    let leaves = [table.leaf(), more.and_then(CudaWeight::leaf)];
    if T::OWNS_TAPE && leaves.iter().any(Option::is_some) {
        let (out_ghost, ids) = (out.ghost(), ids.to_vec());
        tape.add_backward_op(move |gradients| {
            let mut gy = take_gradient!(gpu, gradients, out_ghost);
            for (leaf, range) in leaves.iter().zip([0..n_ids, n_ids..u32::MAX]) {
                let Some(leaf) = leaf else { continue };
                let mine = |id: &u32| range.contains(id).then(|| id - range.start);
                let groups = Groups::new(ids.iter().map(mine));
                let lists = groups.upload(&gpu)?;
                let into = Address::of_gradient(gradients.get_or_alloc_mut(leaf)?);
                let [ids, starts, places] = lists.each_ref().map(|list| Address::of(list));
                gpu.launch(
                    "embed_backward",
                    Grid::rows(groups.len(), width),
                    arguments![width, ids, starts, places, gy.address()?, into],
                )?;
            }
            Ok(())
        });
    }
    Ok(out.put_tape(tape))
}
