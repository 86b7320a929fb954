//! One strip: some rows times one panel over one depth block, by the best kernel at hand.

use super::portable;
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
use crate::cpu::InstructionSet;

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

/// Computes `n_rows` rows of a strip.
///
/// # Safety
/// `strip` describes readable A and B and, for this call alone, writable C; the
/// processor offers `set`.
pub(crate) unsafe fn multiply_strip(set: InstructionSet, n_rows: usize, strip: Strip) {
    debug_assert!(strip.width <= PANEL && strip.depth <= DEPTH_BLOCK);
    // SAFETY: the caller's promise.
    unsafe {
        match set {
            InstructionSet::Portable => portable::strip(n_rows, strip),
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2 => avx2::strip(n_rows, strip),
            #[cfg(target_arch = "x86_64")]
            _ => avx512::strip(n_rows, strip),
            #[cfg(not(target_arch = "x86_64"))]
            _ => portable::strip(n_rows, strip),
        }
    }
}

/// `C[n_rows, width] = A[n_rows, depth] B`, A as in [`Strip`]. `panels` holds a B of
/// `depth_of_panel` rows and at least `width` columns, of which the first `depth`
/// and `width` are used.
///
/// # Safety
/// A is readable and C, for this call alone, writable over these extents; the
/// processor offers `set`.
pub(crate) unsafe fn multiply_panels(
    set: InstructionSet,
    (n_rows, width): (usize, usize),
    depth: usize,
    (a, a_row, a_col): (*const f32, usize, usize),
    panels: &[f32],
    depth_of_panel: usize,
    (c, c_row): (*mut f32, usize),
) {
    if depth == 0 {
        for i in 0..n_rows {
            // SAFETY: row i of C.
            unsafe { c.add(i * c_row).write_bytes(0, width) }
        }
        return;
    }
    assert!(depth <= depth_of_panel && panels.len() >= panels_len(depth_of_panel, width));
    assert!(
        panels.len().is_multiple_of(depth_of_panel * LANES),
        "panels of whole lines"
    );
    for from in (0..depth).step_by(DEPTH_BLOCK) {
        for (panel, lines) in panels
            .chunks(depth_of_panel * PANEL)
            .enumerate()
            .take(width.div_ceil(PANEL))
        {
            let b_row = lines.len() / depth_of_panel;
            // SAFETY: depths and columns below the extents, by the caller's promise and
            // the assertion above.
            unsafe {
                let strip = Strip {
                    depth: (depth - from).min(DEPTH_BLOCK),
                    a: a.add(from * a_col),
                    a_row,
                    a_col,
                    b: lines[from * b_row..].as_ptr(),
                    b_row,
                    c: c.add(panel * PANEL),
                    c_row,
                    width: (width - panel * PANEL).min(PANEL),
                    accumulate: from > 0,
                };
                multiply_strip(set, n_rows, strip);
            }
        }
    }
}
