//! The gradients of attention from its saved probabilities.

use super::head::{Block, Head};
use super::{AttentionShape, assert_disjoint};
use crate::cpu::{InstructionSet, instruction_set, versions};
use crate::lanes::dot;
use crate::packed::{DEPTH_BLOCK, PanelProduct, panels_len, panels_of};
use crate::parallel::{SendPtr, for_each_task, with_scratch};

/// The gradients of [`attention`](super::attention), given the probabilities that it saved.
///
/// Rows of `gq`, `gk` and `gv` that a span covers are overwritten, others left alone; key spans
/// must not overlap. `gbias[n_heads, n_distances]` is added to, sequence after sequence.
pub fn attention_backward(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    shape: AttentionShape,
    probs: &[f32],
    gy: &[f32],
    gq: &mut [f32],
    gk: &mut [f32],
    gv: &mut [f32],
    gbias: Option<&mut [f32]>,
) {
    shape.check(q.len(), k.len());
    assert_disjoint(shape.keys, "key");
    assert_eq!(
        (gy.len(), gq.len()),
        (q.len(), q.len()),
        "gradients and queries"
    );
    assert_eq!(
        (v.len(), gk.len(), gv.len()),
        (k.len(), k.len(), k.len()),
        "values, gradients and keys"
    );
    let offsets = shape.probs_offsets();
    assert_eq!(probs.len(), offsets[shape.queries.len()], "probabilities");
    let set = instruction_set();
    // Heads that share keys are one task: it alone writes their gradients.
    let n_tasks = shape.queries.len() * shape.n_kv_heads;
    let n_distances = if gbias.is_some() {
        shape.n_distances()
    } else {
        0
    };
    let mut gbias_parts = vec![0f32; shape.queries.len() * shape.n_heads * n_distances];
    let gradients = Gradients {
        gq: SendPtr::new(gq),
        gk: SendPtr::new(gk),
        gv: SendPtr::new(gv),
        gbias: SendPtr::new(&mut gbias_parts),
        n_distances,
    };
    for_each_task(n_tasks, 2 * shape.work(), |task| {
        let (s, kv_head) = (task / shape.n_kv_heads, task % shape.n_kv_heads);
        let size = shape.queries[s].len * shape.keys[s].len;
        let shape = &shape;
        for head in kv_head * shape.group()..(kv_head + 1) * shape.group() {
            let saved = shape
                .is_saved(s)
                .then(|| &probs[offsets[s] + head * size..][..size]);
            // SAFETY: the spans were checked; queries, keys and heads are disjoint, so this task
            // alone writes its rows and columns, and every head has a bias part of its own.
            unsafe {
                one_head(
                    set,
                    [q, k, v, gy],
                    Head { shape, s, head },
                    saved,
                    &gradients,
                )
            }
        }
    });
    if let Some(gbias) = gbias {
        assert_eq!(
            gbias.len(),
            shape.n_heads * n_distances,
            "gradient of the bias"
        );
        for sequence in gbias_parts.chunks_exact(gbias.len().max(1)) {
            for (g, part) in gbias.iter_mut().zip(sequence) {
                *g += part;
            }
        }
    }
}

/// Where the tasks write.
struct Gradients {
    gq: SendPtr<f32>,
    gk: SendPtr<f32>,
    gv: SendPtr<f32>,
    /// `[sequence, n_heads, n_distances]`, zero; without distances none is wanted.
    gbias: SendPtr<f32>,
    n_distances: usize,
}

/// Queries whose gradients are worked on at once: as many as a product sums in one go, so that the
/// gradients of keys and values have the bits of one product over all queries.
const QUERIES: usize = DEPTH_BLOCK;

/// # Safety
/// The head's shape fits the tensors, and its rows and columns in `to` are this call's alone.
unsafe fn one_head(
    set: InstructionSet,
    [q, k, v, gy]: [&[f32]; 4],
    head: Head,
    saved: Option<&[f32]>,
    to: &Gradients,
) {
    let (shape, dim) = (head.shape, head.shape.head_dim);
    let (n_queries, n_keys) = (head.queries().len, head.keys().len);
    let n_rows = QUERIES.min(n_queries);
    let n_block = n_rows * n_keys;
    let sizes = [
        head.panels_of_keys(),
        head.panels_of_keys_transposed(),
        if saved.is_some() {
            0
        } else {
            head.panels_of_keys_transposed()
        },
        panels_len(n_rows, dim),
        n_block,
        if saved.is_some() { 0 } else { n_block },
        n_keys * dim,
        n_keys * dim,
    ];
    with_scratch(sizes.iter().sum(), |scratch| {
        let [keys, values, keys_transposed, rows, gscores, probs, gk, gv] = parts(scratch, sizes);
        head.pack_keys(k, keys);
        head.pack_keys_transposed(v, values);
        if saved.is_none() {
            head.pack_keys_transposed(k, keys_transposed);
        }
        gk.fill(0.0);
        gv.fill(0.0);
        for block in head.blocks(QUERIES) {
            let first = block.queries.start;
            let probs = match saved {
                Some(saved) => &saved[first * n_keys..],
                None => {
                    let (written, out) = (block.keys.clone(), probs.as_mut_ptr());
                    // SAFETY: scratch of the block's extents.
                    unsafe { head.probabilities(set, q, &block, keys_transposed, written, out) }
                    &*probs
                }
            };
            by_keys(set, head, &block, probs, gy, rows, gv);
            // gp = gy v^T, then gs = p (gp - <gp, p>)
            // SAFETY: scratch of the block's extents.
            unsafe { head.by_key(set, gy, &block, values, gscores.as_mut_ptr()) }
            let columns = block.keys.clone();
            for row in 0..block.queries.len() {
                let of_row = row * n_keys + columns.start..row * n_keys + columns.end;
                through_softmax(set, &probs[of_row.clone()], &mut gscores[of_row]);
            }
            if to.n_distances > 0 {
                let at = (head.s * shape.n_heads + head.head) * to.n_distances;
                // SAFETY: this head's part of the bias' gradient.
                let part = unsafe {
                    std::slice::from_raw_parts_mut(to.gbias.get().add(at), to.n_distances)
                };
                add_by_distance(head, &block, gscores, part);
            }
            if shape.scale != 1.0 {
                for row in gscores
                    .chunks_exact_mut(n_keys.max(1))
                    .take(block.queries.len())
                {
                    row[columns.clone()]
                        .iter_mut()
                        .for_each(|g| *g *= shape.scale);
                }
            }
            let gq = PanelProduct {
                n_rows: block.queries.len(),
                columns: 0..dim,
                depth: columns,
                a: (gscores.as_ptr(), n_keys, 1),
                panels: keys,
                depth_of_panel: n_keys,
                c: (
                    to.gq.get().wrapping_add(head.at_query(first)),
                    shape.width(),
                ),
                accumulate: false,
            };
            // SAFETY: the block's rows and the head's columns of the gradient of queries.
            unsafe { gq.multiply(set) }
            by_keys(set, head, &block, gscores, q, rows, gk);
        }
        // SAFETY: the rows of this sequence's keys and the columns of their head.
        unsafe {
            put(head, gk, to.gk);
            put(head, gv, to.gv);
        }
    });
}

/// Slices of the given lengths, one after another.
fn parts<const N: usize>(mut scratch: &mut [f32], sizes: [usize; N]) -> [&mut [f32]; N] {
    sizes.map(|size| {
        let (part, rest) = std::mem::take(&mut scratch).split_at_mut(size);
        scratch = rest;
        part
    })
}

/// Adds the block's part of `weights^T x` to `sums[keys, head_dim]`; `x` lies as the queries do.
fn by_keys(
    set: InstructionSet,
    head: Head,
    block: &Block,
    weights: &[f32],
    x: &[f32],
    panels: &mut [f32],
    sums: &mut [f32],
) {
    let (dim, n_keys, n) = (head.shape.head_dim, head.keys().len, block.queries.len());
    let panels = &mut panels[..panels_len(n, dim)];
    panels_of(
        &x[head.at_query(block.queries.start)..],
        n,
        dim,
        head.shape.width(),
        panels,
    );
    let first = block.keys.start;
    let product = PanelProduct {
        n_rows: block.keys.len(),
        columns: 0..dim,
        depth: 0..n,
        a: (weights[first..].as_ptr(), 1, n_keys),
        panels,
        depth_of_panel: n,
        c: (sums[first * dim..].as_mut_ptr(), dim),
        accumulate: true,
    };
    // SAFETY: the rows of the block's keys, and of its queries in `weights`.
    unsafe { product.multiply(set) }
}

/// Hands a head's sums over the queries to the gradient of its keys or values: the first head of
/// a group overwrites it, the others add to it.
///
/// # Safety
/// The rows of the head's keys and its columns in `gradient` are this call's alone.
unsafe fn put(head: Head, sums: &[f32], gradient: SendPtr<f32>) {
    let (dim, is_first) = (
        head.shape.head_dim,
        head.head.is_multiple_of(head.shape.group()),
    );
    for (row, sums) in sums.chunks_exact(dim).enumerate() {
        let at = head.at_keys() + row * head.shape.kv_width();
        // SAFETY: the caller's promise.
        let into = unsafe { std::slice::from_raw_parts_mut(gradient.get().add(at), dim) };
        if is_first {
            into.copy_from_slice(sums);
        } else {
            into.iter_mut().zip(sums).for_each(|(g, part)| *g += part);
        }
    }
}

versions! {
    /// Replaces the gradients of a row of probabilities by those of its scores.
    fn through_softmax(probs: &[f32], gradients: &mut [f32]) {
        let mean = dot::<FUSED>(probs, gradients);
        for (g, p) in gradients.iter_mut().zip(probs) {
            *g = p * (*g - mean);
        }
    }
}

/// Adds the score gradients of a block to the distances that they stand at.
fn add_by_distance(head: Head, block: &Block, gscores: &[f32], gbias: &mut [f32]) {
    let Some(bias) = &head.shape.bias else { return };
    for (row, i) in gscores
        .chunks_exact(head.keys().len.max(1))
        .zip(block.queries.clone())
    {
        let columns = head.shape.bias_columns(bias, head.s, i);
        let seen = block.keys.start..columns.len();
        for (g, x) in gbias[columns][seen.clone()].iter_mut().zip(&row[seen]) {
            *g += x;
        }
    }
}
