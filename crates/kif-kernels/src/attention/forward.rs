//! Scores, softmax and weighted sum, a block of queries at a time.

use super::AttentionShape;
use crate::cpu::{InstructionSet, instruction_set, versions};
use crate::exp::softmax;
use crate::packed::{multiply_panels, panels_len, panels_of, panels_of_transposed};
use crate::parallel::{SendPtr, for_each_task, with_scratch};

/// Queries whose scores are worked on at once, so that they stay in the cache.
const QUERIES: usize = 56;

/// `y = softmax(scale q k^T + bias) v` for every sequence and head.
///
/// `q` and `y` are `[query tokens, n_heads * head_dim]`, `k` and `v`
/// `[key tokens, n_kv_heads * head_dim]`. Rows of `y` that no query span covers are left alone; a
/// query that sees no key gets zeros. `probs` receives the probabilities, `[n_heads, len_q, len_k]`
/// of one sequence after another, for [`attention_backward`](super::attention_backward).
///
/// A query's result has the same bits alone, in a batch, and (causally) whether or not later
/// keys are already there.
pub fn attention(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    shape: AttentionShape,
    y: &mut [f32],
    probs: Option<&mut Vec<f32>>,
) {
    shape.check(q.len(), k.len());
    assert_eq!(
        (y.len(), v.len()),
        (q.len(), k.len()),
        "outputs and queries, values and keys"
    );
    let set = instruction_set();
    let offsets = shape.probs_offsets();
    let n_probs = offsets[shape.queries.len()];
    let y = SendPtr::new(y);
    let kept = probs.map(|probs| {
        probs.clear();
        probs.reserve_exact(n_probs);
        (SendPtr::from_ptr(probs.as_mut_ptr()), probs)
    });
    for_each_task(shape.queries.len() * shape.n_heads, shape.work(), |task| {
        let (s, head) = (task / shape.n_heads, task % shape.n_heads);
        let size = shape.queries[s].len * shape.keys[s].len;
        // SAFETY: this head's part of the reserved memory; the spans were checked, queries are
        // disjoint and so are heads, so this task alone writes there and to its columns of `y`.
        unsafe {
            let probs = kept
                .as_ref()
                .map(|(pointer, _)| pointer.get().add(offsets[s] + head * size));
            one_head(set, q, k, v, &shape, s, head, y.get(), probs);
        }
    });
    if let Some((_, probs)) = kept {
        // SAFETY: the tasks wrote every probability of every sequence and head, `n_probs` in all.
        unsafe { probs.set_len(n_probs) }
    }
}

/// # Safety
/// `shape` fits the tensors; the rows of sequence `s` and the columns of `head` in `y`, and
/// `probs[len_q, len_k]`, are this call's alone.
unsafe fn one_head(
    set: InstructionSet,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    shape: &AttentionShape,
    s: usize,
    head: usize,
    y: *mut f32,
    probs: Option<*mut f32>,
) {
    let (queries, keys, width, dim) = (
        shape.queries[s],
        shape.keys[s],
        shape.width(),
        shape.head_dim,
    );
    if queries.len == 0 {
        return;
    }
    let of_head = |row: usize| row * width + head * dim;
    let kv_width = shape.kv_width();
    let at_keys = keys.start * kv_width + head / shape.group() * dim;
    let (n_k, n_v) = (panels_len(dim, keys.len), panels_len(keys.len, dim));
    let n_scores = if probs.is_some() {
        0
    } else {
        QUERIES.min(queries.len) * keys.len
    };
    with_scratch(n_k + n_v + n_scores, |scratch| {
        let (k_panels, rest) = scratch.split_at_mut(n_k);
        let (v_panels, scores) = rest.split_at_mut(n_v);
        if keys.len > 0 {
            panels_of_transposed(&k[at_keys..], keys.len, dim, kv_width, k_panels);
            panels_of(&v[at_keys..], keys.len, dim, kv_width, v_panels);
        }
        for first in (0..queries.len).step_by(QUERIES) {
            let n_rows = (queries.len - first).min(QUERIES);
            let n_visible_to_block = shape.n_visible(s, first + n_rows - 1);
            // SAFETY: the block's rows of `probs`, or scratch of as many; its rows and
            // columns of `q` and `y`.
            unsafe {
                let scores = probs.map_or(scores.as_mut_ptr(), |probs| probs.add(first * keys.len));
                let row = of_head(queries.start + first);
                let a = (q.as_ptr().add(row), width, 1);
                multiply_panels(
                    set,
                    (n_rows, n_visible_to_block),
                    dim,
                    a,
                    k_panels,
                    dim,
                    (scores, keys.len),
                );
                for i in 0..n_rows {
                    softmax_row(set, shape, s, head, first + i, scores.add(i * keys.len));
                }
                let a = (scores.cast_const(), keys.len, 1);
                multiply_panels(
                    set,
                    (n_rows, dim),
                    n_visible_to_block,
                    a,
                    v_panels,
                    keys.len,
                    (y.add(row), width),
                );
            }
        }
    });
}

/// Turns the scores of query `i` with the keys up to the last that it sees into probabilities: 0
/// for the keys that it does not see.
///
/// # Safety
/// `row` has room for the keys of sequence `s`, is this call's alone, and holds those scores.
unsafe fn softmax_row(
    set: InstructionSet,
    shape: &AttentionShape,
    s: usize,
    head: usize,
    i: usize,
    row: *mut f32,
) {
    let (first, n_visible) = (shape.first_visible(s, i), shape.n_visible(s, i));
    // SAFETY: all lie in the row, and what is made a slice was written by the product.
    let visible = unsafe {
        row.write_bytes(0, first);
        row.add(n_visible)
            .write_bytes(0, shape.keys[s].len - n_visible);
        std::slice::from_raw_parts_mut(row.add(first), n_visible - first)
    };
    let bias = shape.bias.as_ref().map(|bias| {
        let of_head = &bias.by_distance[head * shape.n_distances()..][..shape.n_distances()];
        &of_head[shape.bias_columns(bias, s, i)][first..]
    });
    scale_and_add(set, visible, shape.scale, bias.unwrap_or(&[]));
    softmax(set, visible);
}

versions! {
    /// `scores = scale scores + bias`, an empty bias being none.
    fn scale_and_add(scores: &mut [f32], scale: f32, bias: &[f32]) {
        if scale != 1.0 {
            scores.iter_mut().for_each(|x| *x *= scale);
        }
        for (x, b) in scores.iter_mut().zip(bias) {
            *x += b;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::Span;

    #[test]
    fn equal_keys_give_the_mean_of_the_values() {
        let spans = [Span { start: 0, len: 2 }];
        let shape = AttentionShape {
            queries: &spans,
            keys: &spans,
            n_heads: 1,
            n_kv_heads: 1,
            head_dim: 1,
            scale: 1.0,
            causal: true,
            window: None,
            bias: None,
        };
        let (mut y, mut probs) = ([0.0; 2], Vec::new());
        attention(
            &[1.0, 1.0],
            &[2.0, 2.0],
            &[3.0, 5.0],
            shape,
            &mut y,
            Some(&mut probs),
        );
        assert_eq!(y, [3.0, 4.0]);
        assert_eq!(probs, [1.0, 0.0, 0.5, 0.5]);
    }
}
