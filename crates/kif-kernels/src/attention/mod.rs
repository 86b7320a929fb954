//! Multi-head attention over ragged sequences, read where they lie in
//! `[tokens, heads * head_dim]` tensors.

mod backward;
mod forward;
mod head;
mod step;

use std::ops::Range;

pub use backward::attention_backward;
pub use forward::attention;
pub use step::{StepShape, attention_step};

/// Rows of a tensor that belong to one sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First row.
    pub start: usize,
    /// Number of rows.
    pub len: usize,
}

/// A learned addition to the scores that depends on distance alone.
#[derive(Clone, Copy, Debug)]
pub struct RelativeBias<'a> {
    /// `[n_heads, n_distances]`: the addition for each distance, key position minus query position.
    pub by_distance: &'a [f32],
    /// The distance of column 0. Query i has position `i + (len_k - len_q)`: the last query
    /// stands at the last key.
    pub min_distance: isize,
}

/// What attends to what. Sequence `s` is the query rows `queries[s]` looking at
/// the key rows `keys[s]`.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape<'a> {
    /// Query spans; they do not overlap.
    pub queries: &'a [Span],
    /// Key spans, one for each query span. They may lie anywhere (a cache with room to grow), and
    /// several queries may share one, except in the backward pass.
    pub keys: &'a [Span],
    /// Heads side by side in a row of queries.
    pub n_heads: usize,
    /// Heads side by side in a row of keys or values; a divisor of `n_heads`. Neighbours among the
    /// query heads share one (grouped queries).
    pub n_kv_heads: usize,
    /// Columns of a head.
    pub head_dim: usize,
    /// Factor on the scores (T5: 1).
    pub scale: f32,
    /// Query i sees the keys up to `i + (len_k - len_q)` only.
    pub causal: bool,
    /// Keys that a query sees at most: the last of those that it would see. All without a number.
    pub window: Option<usize>,
    /// Added to the scaled scores.
    pub bias: Option<RelativeBias<'a>>,
    /// The probabilities of a sequence of so many keys at most are saved for the backward pass.
    /// Those of a longer one are computed a second time, with the same bits, and memory grows with
    /// its length instead of the square.
    pub saved_keys: usize,
}

impl AttentionShape<'_> {
    /// Columns of queries and outputs.
    fn width(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Columns of keys and values.
    fn kv_width(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    /// Query heads that share one of the key heads.
    fn group(&self) -> usize {
        self.n_heads / self.n_kv_heads
    }

    /// Distances that the bias knows.
    fn n_distances(&self) -> usize {
        self.bias
            .map_or(0, |bias| bias.by_distance.len() / self.n_heads.max(1))
    }

    /// Whether the probabilities of sequence `s` are saved.
    fn is_saved(&self, s: usize) -> bool {
        self.keys[s].len <= self.saved_keys
    }

    /// Where each sequence's saved probabilities start, `[n_heads, len_q, len_k]` each, and
    /// where the last ends.
    fn probs_offsets(&self) -> Vec<usize> {
        let mut end = 0;
        let sizes = (0..self.queries.len()).map(|s| {
            let n_scores = self.queries[s].len * self.keys[s].len;
            self.n_heads * n_scores * usize::from(self.is_saved(s))
        });
        std::iter::once(0)
            .chain(sizes.map(|size| {
                end += size;
                end
            }))
            .collect()
    }

    /// Multiplications of the two products.
    fn work(&self) -> usize {
        let n_scores: usize = self
            .queries
            .iter()
            .zip(self.keys)
            .map(|(q, k)| q.len * k.len)
            .sum();
        n_scores * self.width() * 4
    }

    /// How many keys there are up to the last that query `i` of sequence `s` sees.
    fn n_visible(&self, s: usize, i: usize) -> usize {
        let (n_queries, n_keys) = (self.queries[s].len, self.keys[s].len);
        if self.causal {
            (i + 1 + n_keys).saturating_sub(n_queries)
        } else {
            n_keys
        }
    }

    /// The first of the keys that query `i` of sequence `s` sees.
    fn first_visible(&self, s: usize, i: usize) -> usize {
        let window = self.window.unwrap_or(usize::MAX);
        self.n_visible(s, i).saturating_sub(window)
    }

    /// The columns of the bias for the keys up to the last that query `i` of sequence `s` sees.
    fn bias_columns(&self, bias: &RelativeBias, s: usize, i: usize) -> Range<usize> {
        let position = i as isize + self.keys[s].len as isize - self.queries[s].len as isize;
        let (first, n_visible) = (-position - bias.min_distance, self.n_visible(s, i));
        let n_distances = self.n_distances();
        assert!(
            first >= 0 && first as usize + n_visible <= n_distances,
            "query at {position} and {n_visible} keys reach beyond the distances {} .. {}",
            bias.min_distance,
            bias.min_distance + n_distances as isize,
        );
        first as usize..first as usize + n_visible
    }

    fn check(&self, n_query_values: usize, n_key_values: usize) {
        assert_eq!(self.queries.len(), self.keys.len(), "query and key spans");
        assert!(
            self.n_heads > 0 && self.head_dim > 0,
            "{} heads of {}",
            self.n_heads,
            self.head_dim
        );
        assert!(
            self.n_kv_heads > 0 && self.n_heads.is_multiple_of(self.n_kv_heads),
            "{} heads share {} of keys",
            self.n_heads,
            self.n_kv_heads
        );
        if let Some(bias) = &self.bias {
            assert!(
                bias.by_distance.len().is_multiple_of(self.n_heads),
                "a bias for {} heads",
                self.n_heads
            );
        }
        for (spans, n_values, width) in [
            (self.queries, n_query_values, self.width()),
            (self.keys, n_key_values, self.kv_width()),
        ] {
            let end = spans
                .iter()
                .map(|span| span.start + span.len)
                .max()
                .unwrap_or(0);
            assert!(
                end * width <= n_values,
                "a span ends at row {end} of {n_values} / {width}"
            );
        }
        assert_disjoint(self.queries, "query");
    }
}

fn assert_disjoint(spans: &[Span], kind: &str) {
    let mut sorted: Vec<Span> = spans.iter().copied().filter(|span| span.len > 0).collect();
    sorted.sort_unstable_by_key(|span| span.start);
    for pair in sorted.windows(2) {
        assert!(
            pair[0].start + pair[0].len <= pair[1].start,
            "{kind} spans overlap: {:?} and {:?}",
            pair[0],
            pair[1]
        );
    }
}
