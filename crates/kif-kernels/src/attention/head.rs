//! One head of one sequence: where its values lie, and the probabilities of some of its queries.

use super::{AttentionShape, Span};
use crate::cpu::{InstructionSet, versions};
use crate::exp::softmax;
use crate::packed::{DEPTH_BLOCK, PanelProduct, panels_len, panels_of, panels_of_transposed};
use std::ops::Range;

/// One head of one sequence.
#[derive(Clone, Copy)]
pub(super) struct Head<'a> {
    pub(super) shape: &'a AttentionShape<'a>,
    pub(super) s: usize,
    pub(super) head: usize,
}

/// Queries that are worked on together.
pub(super) struct Block {
    pub(super) queries: Range<usize>,
    /// All keys that one of them sees, from a multiple of [`DEPTH_BLOCK`] on.
    pub(super) keys: Range<usize>,
}

impl<'a> Head<'a> {
    pub(super) fn queries(self) -> Span {
        self.shape.queries[self.s]
    }

    pub(super) fn keys(self) -> Span {
        self.shape.keys[self.s]
    }

    /// Where query `i` lies in the queries.
    pub(super) fn at_query(self, i: usize) -> usize {
        (self.queries().start + i) * self.shape.width() + self.head * self.shape.head_dim
    }

    /// Where the first key lies in the keys.
    pub(super) fn at_keys(self) -> usize {
        let kv_head = self.head / self.shape.group();
        self.keys().start * self.shape.kv_width() + kv_head * self.shape.head_dim
    }

    /// All queries, `most` to a block.
    pub(super) fn blocks(self, most: usize) -> impl Iterator<Item = Block> + use<'a> {
        let n = self.queries().len;
        (0..n).step_by(most).map(move |first| {
            let end = (first + most).min(n);
            let first_key = self.shape.first_visible(self.s, first);
            Block {
                queries: first..end,
                keys: first_key / DEPTH_BLOCK * DEPTH_BLOCK..self.shape.n_visible(self.s, end - 1),
            }
        })
    }

    /// Floats of [`pack_keys`](Self::pack_keys).
    pub(super) fn panels_of_keys(self) -> usize {
        panels_len(self.keys().len, self.shape.head_dim)
    }

    /// Floats of [`pack_keys_transposed`](Self::pack_keys_transposed).
    pub(super) fn panels_of_keys_transposed(self) -> usize {
        panels_len(self.shape.head_dim, self.keys().len)
    }

    /// This head's rows of keys or values as panels.
    pub(super) fn pack_keys(self, values: &[f32], panels: &mut [f32]) {
        let (n, dim) = (self.keys().len, self.shape.head_dim);
        if n > 0 {
            panels_of(
                &values[self.at_keys()..],
                n,
                dim,
                self.shape.kv_width(),
                panels,
            );
        }
    }

    /// Their transpose, `[head_dim, keys]`.
    pub(super) fn pack_keys_transposed(self, values: &[f32], panels: &mut [f32]) {
        let (n, dim) = (self.keys().len, self.shape.head_dim);
        if n > 0 {
            let stride = self.shape.kv_width();
            panels_of_transposed(&values[self.at_keys()..], n, dim, stride, panels);
        }
    }

    /// The product of the block's rows of `x`, which lies as the queries do, with all of its keys'
    /// columns of `panels`, as packed by [`pack_keys_transposed`](Self::pack_keys_transposed).
    ///
    /// # Safety
    /// `out` has a row of all keys for each of the block's queries, and its columns of the block's
    /// keys are this call's alone; `x` holds the queries.
    pub(super) unsafe fn by_key(
        self,
        set: InstructionSet,
        x: &[f32],
        block: &Block,
        panels: &[f32],
        out: *mut f32,
    ) {
        let (dim, width) = (self.shape.head_dim, self.shape.width());
        let product = PanelProduct {
            n_rows: block.queries.len(),
            columns: block.keys.clone(),
            depth: 0..dim,
            a: (x[self.at_query(block.queries.start)..].as_ptr(), width, 1),
            panels,
            depth_of_panel: dim,
            c: (out, self.keys().len),
            accumulate: false,
        };
        // SAFETY: the caller's promise.
        unsafe { product.multiply(set) }
    }

    /// The block's rows of probabilities, given the keys as
    /// [`pack_keys_transposed`](Self::pack_keys_transposed) leaves them: the columns `written`,
    /// which hold all of the block's keys.
    ///
    /// # Safety
    /// As for [`by_key`](Self::by_key), with those columns.
    pub(super) unsafe fn probabilities(
        self,
        set: InstructionSet,
        q: &[f32],
        block: &Block,
        key_panels: &[f32],
        written: Range<usize>,
        out: *mut f32,
    ) {
        let n_keys = self.keys().len;
        // SAFETY: the caller's promise.
        unsafe {
            self.by_key(set, q, block, key_panels, out);
            for (row, i) in block.queries.clone().enumerate() {
                self.softmax_row(set, i, written.clone(), out.add(row * n_keys));
            }
        }
    }

    /// Turns the scores of query `i` with the keys that it sees into probabilities: 0 for the
    /// others that are `written`.
    ///
    /// # Safety
    /// `row` has room for all keys, is this call's alone, and holds those scores.
    unsafe fn softmax_row(
        self,
        set: InstructionSet,
        i: usize,
        written: Range<usize>,
        row: *mut f32,
    ) {
        let (shape, s) = (self.shape, self.s);
        let (first, n_visible) = (shape.first_visible(s, i), shape.n_visible(s, i));
        // SAFETY: all lie in the row, and what is made a slice was written by the product.
        let visible = unsafe {
            row.add(written.start).write_bytes(0, first - written.start);
            row.add(n_visible).write_bytes(0, written.end - n_visible);
            std::slice::from_raw_parts_mut(row.add(first), n_visible - first)
        };
        let bias = shape.bias.as_ref().map(|bias| {
            let n_distances = shape.n_distances();
            let of_head = &bias.by_distance[self.head * n_distances..][..n_distances];
            &of_head[shape.bias_columns(bias, s, i)][first..]
        });
        scale_and_add(set, visible, shape.scale, bias.unwrap_or(&[]));
        softmax(set, visible);
    }
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
