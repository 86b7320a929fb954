//! Strips by the best kernel at hand, and the product with panels that is made of them.

use super::portable;
use super::strip::{DEPTH_BLOCK, LANES, PANEL, Strip, panels_len};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
use crate::cpu::InstructionSet;
use std::ops::Range;

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

/// `C[.., columns] (+)= A[.., depth] B[depth, columns]`, with all of B as panels.
pub(crate) struct PanelProduct<'a> {
    pub(crate) n_rows: usize,
    /// Columns of B and C that are computed, from the first of a panel on.
    pub(crate) columns: Range<usize>,
    /// Columns of A and rows of B that are summed over, from a multiple of [`DEPTH_BLOCK`] on: the
    /// terms left out of a longer sum then change no bit if they are zero.
    pub(crate) depth: Range<usize>,
    /// Element (i, k) of A is at `a.0 + i * a.1 + k * a.2`.
    pub(crate) a: (*const f32, usize, usize),
    /// B, `[depth_of_panel, at least columns.end]`.
    pub(crate) panels: &'a [f32],
    pub(crate) depth_of_panel: usize,
    /// Element (i, j) of C is at `c.0 + i * c.1 + j`.
    pub(crate) c: (*mut f32, usize),
    /// Add to C instead of overwriting it.
    pub(crate) accumulate: bool,
}

impl PanelProduct<'_> {
    /// # Safety
    /// A is readable and C, for this call alone, writable over these extents; the
    /// processor offers `set`.
    pub(crate) unsafe fn multiply(&self, set: InstructionSet) {
        let Self {
            n_rows,
            columns,
            depth,
            a: (a, a_row, a_col),
            panels,
            depth_of_panel,
            c: (c, c_row),
            accumulate,
        } = self;
        if columns.is_empty() {
            return;
        }
        if depth.is_empty() {
            for i in 0..if *accumulate { 0 } else { *n_rows } {
                // SAFETY: these columns of row i of C.
                unsafe {
                    c.add(i * c_row + columns.start)
                        .write_bytes(0, columns.len())
                }
            }
            return;
        }
        assert!(
            depth.end <= *depth_of_panel
                && panels.len() >= panels_len(*depth_of_panel, columns.end)
        );
        assert!(
            panels.len().is_multiple_of(depth_of_panel * LANES),
            "panels of whole lines"
        );
        assert!(
            columns.start.is_multiple_of(PANEL) && depth.start.is_multiple_of(DEPTH_BLOCK),
            "a product from column {} and depth {} on",
            columns.start,
            depth.start
        );
        for from in depth.clone().step_by(DEPTH_BLOCK) {
            for (panel, lines) in panels
                .chunks(depth_of_panel * PANEL)
                .enumerate()
                .take(columns.end.div_ceil(PANEL))
                .skip(columns.start / PANEL)
            {
                let b_row = lines.len() / depth_of_panel;
                // SAFETY: depths and columns below the extents, by the caller's promise and
                // the assertions above.
                unsafe {
                    let strip = Strip {
                        depth: (depth.end - from).min(DEPTH_BLOCK),
                        a: a.add(from * a_col),
                        a_row: *a_row,
                        a_col: *a_col,
                        b: lines[from * b_row..].as_ptr(),
                        b_row,
                        c: c.add(panel * PANEL),
                        c_row: *c_row,
                        width: (columns.end - panel * PANEL).min(PANEL),
                        accumulate: *accumulate || from > depth.start,
                    };
                    multiply_strip(set, *n_rows, strip);
                }
            }
        }
    }
}
