//! The gradients of attention from its saved probabilities.

use super::{AttentionShape, assert_disjoint};
use crate::cpu::{InstructionSet, instruction_set, versions};
use crate::lanes::dot;
use crate::packed::{multiply_panels, panels_len, panels_of, panels_of_transposed};
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
        for head in kv_head * shape.group()..(kv_head + 1) * shape.group() {
            let probs = &probs[offsets[s] + head * size..][..size];
            // SAFETY: the spans were checked; queries, keys and heads are disjoint, so this task
            // alone writes its rows and columns, and every head has a bias part of its own.
            unsafe { one_head(set, q, k, v, &shape, probs, gy, s, head, &gradients) }
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

/// The first head of a group overwrites the gradients of the shared keys and values,
/// the others add to them.
///
/// # Safety
/// `shape` fits the tensors, and the rows of sequence `s` and columns of `head` in `to`
/// are this call's alone.
unsafe fn one_head(
    set: InstructionSet,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    shape: &AttentionShape,
    probs: &[f32],
    gy: &[f32],
    s: usize,
    head: usize,
    to: &Gradients,
) {
    let (queries, keys, width, dim) = (
        shape.queries[s],
        shape.keys[s],
        shape.width(),
        shape.head_dim,
    );
    let (kv_width, kv_head) = (shape.kv_width(), head / shape.group());
    let is_first = head.is_multiple_of(shape.group());
    let (at_q, at_k) = (
        queries.start * width + head * dim,
        keys.start * kv_width + kv_head * dim,
    );
    let of_dim = |len: usize| panels_len(len, dim);
    let of_keys = panels_len(dim, keys.len);
    let n_panels = of_dim(queries.len).max(of_dim(keys.len)).max(of_keys);
    let n_shared = if is_first { 0 } else { keys.len * dim };
    with_scratch(n_panels + n_shared + queries.len * keys.len, |scratch| {
        let (panels, rest) = scratch.split_at_mut(n_panels);
        let (shared, gscores) = rest.split_at_mut(n_shared);
        let shared = SendPtr::new(shared);
        // Where a product with the keys' extents goes, and how it gets to the gradient from there.
        let kv_target = |gradient: SendPtr<f32>| {
            if is_first {
                (gradient.get().wrapping_add(at_k), kv_width)
            } else {
                (shared.get(), dim)
            }
        };
        let add_shared = |gradient: SendPtr<f32>| {
            for row in 0..keys.len * usize::from(!is_first) {
                // SAFETY: the rows of this sequence's keys and the columns of their head; the
                // scratch has as many.
                let (into, from) = unsafe {
                    let at = gradient.get().add(at_k + row * kv_width);
                    (
                        std::slice::from_raw_parts_mut(at, dim),
                        std::slice::from_raw_parts(shared.get().add(row * dim), dim),
                    )
                };
                into.iter_mut().zip(from).for_each(|(g, part)| *g += part);
            }
        };
        let by_query = (probs.as_ptr(), 1, keys.len);
        let (lq, lk) = (queries.len, keys.len);
        // SAFETY: the extents of this sequence's tensors, as checked by the caller.
        unsafe {
            // gv = p^T gy
            if lq > 0 {
                panels_of(&gy[at_q..], lq, dim, width, &mut panels[..of_dim(lq)]);
            }
            multiply_panels(
                set,
                (lk, dim),
                lq,
                by_query,
                &panels[..of_dim(lq)],
                lq,
                kv_target(to.gv),
            );
            add_shared(to.gv);
            if lq > 0 && lk > 0 {
                // gp = gy v^T, then gs = p (gp - <gp, p>)
                panels_of_transposed(&v[at_k..], lk, dim, kv_width, &mut panels[..of_keys]);
                let a = (gy[at_q..].as_ptr(), width, 1);
                multiply_panels(
                    set,
                    (lq, lk),
                    dim,
                    a,
                    &panels[..of_keys],
                    dim,
                    (gscores.as_mut_ptr(), lk),
                );
                through_softmax(set, probs, gscores, lk);
                if to.n_distances > 0 {
                    let part = to
                        .gbias
                        .get()
                        .add((s * shape.n_heads + head) * to.n_distances);
                    add_by_distance(
                        shape,
                        s,
                        gscores,
                        std::slice::from_raw_parts_mut(part, to.n_distances),
                    );
                }
                if shape.scale != 1.0 {
                    gscores.iter_mut().for_each(|g| *g *= shape.scale);
                }
            }
            // gq = gs k
            if lk > 0 {
                panels_of(&k[at_k..], lk, dim, kv_width, &mut panels[..of_dim(lk)]);
            }
            let a = (gscores.as_ptr(), lk, 1);
            multiply_panels(
                set,
                (lq, dim),
                lk,
                a,
                &panels[..of_dim(lk)],
                lk,
                (to.gq.get().wrapping_add(at_q), width),
            );
            // gk = gs^T q
            if lq > 0 {
                panels_of(&q[at_q..], lq, dim, width, &mut panels[..of_dim(lq)]);
            }
            let a = (gscores.as_ptr(), 1, lk);
            multiply_panels(
                set,
                (lk, dim),
                lq,
                a,
                &panels[..of_dim(lq)],
                lq,
                kv_target(to.gk),
            );
            add_shared(to.gk);
        }
    });
}

versions! {
    /// Replaces the gradients of the probabilities by those of the scores, row by row.
    fn through_softmax(probs: &[f32], gradients: &mut [f32], n_keys: usize) {
        for (p, g) in probs.chunks_exact(n_keys).zip(gradients.chunks_exact_mut(n_keys)) {
            let mean = dot::<FUSED>(p, g);
            for (g, p) in g.iter_mut().zip(p) {
                *g = p * (*g - mean);
            }
        }
    }
}

/// Adds the score gradients of one sequence and head to the distances that they stand at.
fn add_by_distance(shape: &AttentionShape, s: usize, gscores: &[f32], gbias: &mut [f32]) {
    let Some(bias) = &shape.bias else { return };
    for (i, row) in gscores.chunks_exact(shape.keys[s].len).enumerate() {
        for (g, x) in gbias[shape.bias_columns(bias, s, i)].iter_mut().zip(row) {
            *g += x;
        }
    }
}
