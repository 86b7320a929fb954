//! Attention of one new token of each text: to the keys of its prompt, which texts may
//! share, and to its own.

use super::{Span, assert_disjoint};
use crate::cpu::{instruction_set, versions};
use crate::exp::softmax;
use crate::lanes::{dot, four_dots, madd};
use crate::parallel::{SendPtr, for_each_task, with_scratch};

/// What the new token of each text sees: first the keys of its prompt, then its own.
#[derive(Clone, Copy, Debug)]
pub struct StepShape<'a> {
    /// Rows of the prompts' keys, for each text in pieces, one after the other; texts may share
    /// them.
    pub prompts: &'a [Vec<Span>],
    /// Rows of the texts' own keys, for each text.
    pub own: &'a [Span],
    /// Heads side by side in a query.
    pub n_heads: usize,
    /// Heads side by side in a key or value; a divisor of `n_heads`.
    pub n_kv_heads: usize,
    /// Columns of a head.
    pub head_dim: usize,
    /// Factor on the scores.
    pub scale: f32,
}

/// `y = softmax(scale q k^T) v` for every text and head, over the keys of the
/// prompt and the text's own.
///
/// `q` and `y` are `[texts, n_heads * head_dim]`; keys and values are
/// `[rows, n_kv_heads * head_dim]`, a pair of them for prompts and one for texts. Every text sees
/// at least one key. A text's result has the same bits in any company.
pub fn attention_step(
    q: &[f32],
    prompts: [&[f32]; 2],
    own: [&[f32]; 2],
    shape: StepShape,
    y: &mut [f32],
) {
    let (n_texts, dim) = (shape.prompts.len(), shape.head_dim);
    let (width, kv_width) = (shape.n_heads * dim, shape.n_kv_heads * dim);
    assert_eq!(shape.own.len(), n_texts, "spans of texts");
    assert_eq!(
        (q.len(), y.len()),
        (n_texts * width, n_texts * width),
        "queries and outputs of {n_texts} x {width}"
    );
    assert!(
        shape.n_kv_heads > 0 && shape.n_heads.is_multiple_of(shape.n_kv_heads),
        "{} heads share {} of keys",
        shape.n_heads,
        shape.n_kv_heads
    );
    let of_prompts = shape.prompts.iter().flatten();
    let end_of = |span: &Span| span.start + span.len;
    let ends = [
        of_prompts.map(end_of).max(),
        shape.own.iter().map(end_of).max(),
    ];
    for (end, [k, v]) in ends.into_iter().zip([prompts, own]) {
        let n_values = end.unwrap_or(0) * kv_width;
        assert!(
            k.len() >= n_values && v.len() >= n_values,
            "{n_values} values of spans in {} keys and {} values",
            k.len(),
            v.len()
        );
    }
    assert_disjoint(shape.own, "own");
    let set = instruction_set();
    // All that a text sees, in pieces of the keys and values that they lie in.
    let pieces = |text: usize| {
        let of_prompt = shape.prompts[text].iter().map(|span| (prompts, *span));
        of_prompt.chain([(own, shape.own[text])])
    };
    let n_keys = |text: usize| pieces(text).map(|(_, span)| span.len).sum::<usize>();
    let work = (0..n_texts).map(n_keys).sum::<usize>() * width * 4;
    let y = SendPtr::new(y);
    for_each_task(n_texts * shape.n_heads, work, |task| {
        let (text, head) = (task / shape.n_heads, task % shape.n_heads);
        let column = head / (shape.n_heads / shape.n_kv_heads) * dim;
        let at = text * width + head * dim;
        // SAFETY: the columns of this text and head, which no other task touches.
        let y = unsafe { std::slice::from_raw_parts_mut(y.get().add(at), dim) };
        let part = |values, span| columns(values, span, kv_width, column, dim);
        with_scratch(n_keys(text), |scores| {
            let q = &q[at..at + dim];
            let mut rest = &mut *scores;
            for ([keys, _], span) in pieces(text) {
                let (scores, after) = rest.split_at_mut(span.len);
                weigh(set, q, part(keys, span), kv_width, shape.scale, scores);
                rest = after;
            }
            softmax(set, scores);
            y.fill(0.0);
            let mut rest = &*scores;
            for ([_, values], span) in pieces(text) {
                let (probs, after) = rest.split_at(span.len);
                mix(set, probs, part(values, span), kv_width, y);
                rest = after;
            }
        });
    });
}

/// The rows of `span` from `column` on, up to `dim` columns of the last.
fn columns(values: &[f32], span: Span, width: usize, column: usize, dim: usize) -> &[f32] {
    if span.len == 0 {
        return &[];
    }
    let first = span.start * width + column;
    &values[first..first + (span.len - 1) * width + dim]
}

/// Columns of the output that are summed in registers.
const COLUMNS: usize = 64;

versions! {
    /// `scores = scale q k^T`, rows of `k` being `stride` apart.
    fn weigh(q: &[f32], k: &[f32], stride: usize, scale: f32, scores: &mut [f32]) {
        let row = |i: usize| &k[i * stride..][..q.len()];
        let (whole, rest) = scores.as_chunks_mut::<4>();
        let n_whole = whole.len() * 4;
        for (i, scores) in whole.iter_mut().enumerate() {
            let rows = [0, 1, 2, 3].map(|j| row(4 * i + j));
            *scores = four_dots::<FUSED>(q, rows).map(|score| scale * score);
        }
        for (j, score) in rest.iter_mut().enumerate() {
            *score = scale * dot::<FUSED>(q, row(n_whole + j));
        }
    }
}

versions! {
    /// `y += probs v`, rows of `v` being `stride` apart.
    fn mix(probs: &[f32], v: &[f32], stride: usize, y: &mut [f32]) {
        let (whole, rest) = y.as_chunks_mut::<COLUMNS>();
        let n_whole = whole.len() * COLUMNS;
        for (c, y) in whole.iter_mut().enumerate() {
            let mut sums = *y;
            for (i, p) in probs.iter().enumerate() {
                let v = &v[i * stride + c * COLUMNS..][..COLUMNS];
                for (sum, v) in sums.iter_mut().zip(v) {
                    *sum = madd::<FUSED>(*p, *v, *sum);
                }
            }
            *y = sums;
        }
        if rest.is_empty() {
            return;
        }
        for (i, p) in probs.iter().enumerate() {
            for (y, v) in rest.iter_mut().zip(&v[i * stride + n_whole..]) {
                *y = madd::<FUSED>(*p, *v, *y);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_keys_give_the_mean_of_the_values_of_prompt_and_text() {
        let shape = StepShape {
            prompts: &[
                vec![Span { start: 0, len: 2 }],
                vec![Span { start: 0, len: 1 }, Span { start: 1, len: 1 }],
            ],
            own: &[Span { start: 1, len: 1 }, Span { start: 0, len: 1 }],
            n_heads: 2,
            n_kv_heads: 1,
            head_dim: 1,
            scale: 1.0,
        };
        let mut y = [9.0; 4];
        let (prompts, own) = ([1.0, 2.0], [3.0, 9.0]);
        attention_step(
            &[0.0; 4],
            [&[5.0; 2], &prompts],
            [&[5.0; 2], &own],
            shape,
            &mut y,
        );
        assert_eq!(y, [4.0, 4.0, 2.0, 2.0]);
    }
}
