//! Strips by the best kernel at hand, and the product with panels that is made of them.

use super::portable;
use super::strip::{DEPTH_BLOCK, LANES, PANEL, Strip, panels_len};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
use crate::cpu::InstructionSet;

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
