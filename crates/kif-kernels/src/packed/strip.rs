//! What a strip is: some rows times one panel over one depth block.

/// Columns of a panel.
pub(crate) const PANEL: usize = 64;
/// Floats of a cache line, of which a panel's lines take whole ones.
pub(crate) const LANES: usize = 16;
/// Depths that are summed in registers before the sum is added to the output.
///
/// Part of the result's bits: each output element is the sum, block after block,
/// of sums over a block.
pub(crate) const DEPTH_BLOCK: usize = 512;

/// `C[.., width] (+)= A B` for one panel of `B`.
#[derive(Clone, Copy)]
pub(crate) struct Strip {
    /// Depths to sum over, at most [`DEPTH_BLOCK`].
    pub(crate) depth: usize,
    /// Element (i, k) of A is at `a + i * a_row + k * a_col`.
    pub(crate) a: *const f32,
    pub(crate) a_row: usize,
    pub(crate) a_col: usize,
    /// The panel, `[depth][b_row]`, aligned to 64 bytes.
    pub(crate) b: *const f32,
    /// Floats between lines of the panel: [`line_width`] of its columns.
    pub(crate) b_row: usize,
    /// Element (i, j) of C is at `c + i * c_row + j`.
    pub(crate) c: *mut f32,
    pub(crate) c_row: usize,
    /// Columns of C, at most [`PANEL`].
    pub(crate) width: usize,
    /// Add to C instead of overwriting it.
    pub(crate) accumulate: bool,
}

/// Floats of one line of a panel with that many columns: whole cache lines, so that a
/// narrow panel stays small.
pub(crate) fn line_width(columns: usize) -> usize {
    columns.min(PANEL).next_multiple_of(LANES)
}

/// Floats of the panels of `B[depth, width]`.
pub(crate) fn panels_len(depth: usize, width: usize) -> usize {
    depth * width.next_multiple_of(LANES)
}

impl Strip {
    /// The same strip from row `i` on.
    ///
    /// # Safety
    /// A and C have more than `i` rows.
    pub(super) unsafe fn at_row(self, i: usize) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            Self {
                a: self.a.add(i * self.a_row),
                c: self.c.add(i * self.c_row),
                ..self
            }
        }
    }
}
