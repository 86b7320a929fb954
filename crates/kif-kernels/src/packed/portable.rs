//! The strip in plain Rust: one row at a time, 32 sums side by side.

use super::strip::{PANEL, Strip};

/// # Safety
/// As [`multiply_strip`](super::multiply_strip).
pub(super) unsafe fn strip(n_rows: usize, s: Strip) {
    // SAFETY: the panel holds `depth` whole lines.
    let panel = unsafe { std::slice::from_raw_parts(s.b, s.depth * PANEL) };
    let (lines, _) = panel.as_chunks::<PANEL>();
    for i in 0..n_rows {
        let mut sums = [0f32; PANEL];
        for (k, line) in lines.iter().enumerate() {
            // SAFETY: (i, k) lies in A.
            let a = unsafe { *s.a.add(i * s.a_row + k * s.a_col) };
            for j in 0..PANEL {
                sums[j] += a * line[j];
            }
        }
        for (j, &sum) in sums.iter().enumerate().take(s.width) {
            // SAFETY: (i, j) lies in C, which is this call's alone; it is read only when it holds a value.
            unsafe {
                let c = s.c.add(i * s.c_row + j);
                c.write(if s.accumulate { *c + sum } else { sum });
            }
        }
    }
}
