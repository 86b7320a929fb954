//! The strip in plain Rust: one row at a time, 16 sums side by side.

use super::strip::{LANES, Strip};

/// # Safety
/// As [`multiply_strip`](super::multiply::multiply_strip).
pub(super) unsafe fn strip(n_rows: usize, s: Strip) {
    for i in 0..n_rows {
        for j in (0..s.width).step_by(LANES) {
            let mut sums = [0f32; LANES];
            for k in 0..s.depth {
                // SAFETY: (i, k) lies in A, and the panel's lines are whole multiples of `LANES`.
                let (a, line) = unsafe {
                    let line = s.b.add(k * s.b_row + j).cast::<[f32; LANES]>();
                    (*s.a.add(i * s.a_row + k * s.a_col), &*line)
                };
                for (sum, b) in sums.iter_mut().zip(line) {
                    *sum += a * b;
                }
            }
            for (v, &sum) in sums.iter().enumerate().take(s.width - j) {
                // SAFETY: (i, j + v) lies in C, which is this call's alone; it is read only
                // when it holds a value.
                unsafe {
                    let c = s.c.add(i * s.c_row + j + v);
                    c.write(if s.accumulate { *c + sum } else { sum });
                }
            }
        }
    }
}
