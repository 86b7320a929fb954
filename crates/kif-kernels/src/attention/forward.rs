//! Scores, softmax and weighted sum, a block of queries at a time.

use super::AttentionShape;
use super::head::Head;
use crate::cpu::{InstructionSet, instruction_set};
use crate::packed::PanelProduct;
use crate::parallel::{SendPtr, for_each_task, with_scratch};

/// Queries whose scores are worked on at once, so that they stay in the cache.
const QUERIES: usize = 56;

/// `y = softmax(scale q k^T + bias) v` for every sequence and head.
///
/// `q` and `y` are `[query tokens, n_heads * head_dim]`, `k` and `v`
/// `[key tokens, n_kv_heads * head_dim]`. Rows of `y` that no query span covers are left alone; a
/// query that sees no key gets zeros. `probs` receives the probabilities that are saved, `[n_heads,
/// len_q, len_k]` of one sequence after another, for
/// [`attention_backward`](super::attention_backward).
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
    let saved = probs.map(|probs| {
        probs.clear();
        probs.reserve_exact(n_probs);
        (SendPtr::from_ptr(probs.as_mut_ptr()), probs)
    });
    for_each_task(shape.queries.len() * shape.n_heads, shape.work(), |task| {
        let (s, head) = (task / shape.n_heads, task % shape.n_heads);
        let size = shape.queries[s].len * shape.keys[s].len;
        let shape = &shape;
        // SAFETY: this head's part of the reserved memory; the spans were checked, queries are
        // disjoint and so are heads, so this task alone writes there and to its columns of `y`.
        unsafe {
            let probs = saved
                .as_ref()
                .filter(|_| shape.is_saved(s))
                .map(|(pointer, _)| pointer.get().add(offsets[s] + head * size));
            one_head(set, q, k, v, Head { shape, s, head }, y.get(), probs);
        }
    });
    if let Some((_, probs)) = saved {
        // SAFETY: the tasks wrote every probability that is saved, `n_probs` in all.
        unsafe { probs.set_len(n_probs) }
    }
}

/// # Safety
/// The head's shape fits the tensors; its rows and columns in `y`, and `probs[len_q, len_k]`, are
/// this call's alone.
unsafe fn one_head(
    set: InstructionSet,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    head: Head,
    y: *mut f32,
    probs: Option<*mut f32>,
) {
    let (n_queries, n_keys) = (head.queries().len, head.keys().len);
    let (n_k, n_v) = (head.panels_of_keys_transposed(), head.panels_of_keys());
    let n_scores = match probs {
        Some(_) => 0,
        None => QUERIES.min(n_queries) * n_keys,
    };
    with_scratch(n_k + n_v + n_scores, |scratch| {
        let (k_panels, rest) = scratch.split_at_mut(n_k);
        let (v_panels, scores) = rest.split_at_mut(n_v);
        head.pack_keys_transposed(k, k_panels);
        head.pack_keys(v, v_panels);
        for block in head.blocks(QUERIES) {
            // SAFETY: the block's rows of `probs`, or scratch of as many; its rows and
            // columns of `y`.
            unsafe {
                let at = probs.map(|probs| probs.add(block.queries.start * n_keys));
                let scores = at.unwrap_or(scores.as_mut_ptr());
                // All of what is saved is written.
                let written = match probs {
                    Some(_) => 0..n_keys,
                    None => block.keys.clone(),
                };
                head.probabilities(set, q, &block, k_panels, written, scores);
                let mix = PanelProduct {
                    n_rows: block.queries.len(),
                    columns: 0..head.shape.head_dim,
                    depth: block.keys.clone(),
                    a: (scores.cast_const(), n_keys, 1),
                    panels: v_panels,
                    depth_of_panel: n_keys,
                    c: (
                        y.add(head.at_query(block.queries.start)),
                        head.shape.width(),
                    ),
                    accumulate: false,
                };
                mix.multiply(set);
            }
        }
    });
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
            saved_keys: 2,
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
