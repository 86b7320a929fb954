//! Where the rows of a weight come from when it is packed.

use std::ops::Range;

/// Rows of a matrix, in memory or made when they are asked for: a weight can be packed off a file
/// without a copy of all of it.
pub trait Rows: Sync {
    /// The rows of `range`, one after the other, where they lie or made in `scratch`.
    fn rows<'a>(&'a self, range: Range<usize>, scratch: &'a mut Vec<f32>) -> &'a [f32];
}

/// A row-major matrix in memory.
#[derive(Clone, Copy)]
pub(super) struct RowMajor<'a> {
    /// `[rows, width]`.
    pub(super) values: &'a [f32],
    /// Values of a row.
    pub(super) width: usize,
}

impl Rows for RowMajor<'_> {
    fn rows<'a>(&'a self, range: Range<usize>, _: &'a mut Vec<f32>) -> &'a [f32] {
        &self.values[range.start * self.width..range.end * self.width]
    }
}
