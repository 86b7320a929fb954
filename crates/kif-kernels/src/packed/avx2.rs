//! The strip in AVX2 with FMA: tiles of up to 6 rows by 16 columns.

use super::strip::Strip;
use std::arch::x86_64::*;

/// Rows whose two vectors of sums fit the 16 registers beside two vectors of B
/// and a broadcast of A.
const ROWS: usize = 6;
/// Columns of a tile.
const COLS: usize = 16;

/// # Safety
/// As [`multiply_strip`](super::multiply::multiply_strip), on a processor with AVX2 and FMA.
pub(super) unsafe fn strip(n_rows: usize, s: Strip) {
    for j in (0..s.width).step_by(COLS) {
        for i in (0..n_rows).step_by(ROWS) {
            // SAFETY: rows and columns from (i, j) on lie in A, B and C, by the caller's promise.
            unsafe {
                let s = s.at_row(i);
                let s = Strip {
                    b: s.b.add(j),
                    c: s.c.add(j),
                    width: (s.width - j).min(COLS),
                    ..s
                };
                match n_rows - i {
                    1 => tile::<1>(s),
                    2 => tile::<2>(s),
                    3 => tile::<3>(s),
                    4 => tile::<4>(s),
                    5 => tile::<5>(s),
                    _ => tile::<ROWS>(s),
                }
            }
        }
    }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn tile<const M: usize>(s: Strip) {
    let mut sums = [[_mm256_setzero_ps(); 2]; M];
    let (mut a, mut b) = (s.a, s.b);
    for _ in 0..s.depth {
        // SAFETY: `a` and `b` stand at a depth below `s.depth`; A has M rows and B whole lines.
        unsafe {
            let line = [_mm256_load_ps(b), _mm256_load_ps(b.add(8))];
            for i in 0..M {
                let x = _mm256_broadcast_ss(&*a.add(i * s.a_row));
                sums[i][0] = _mm256_fmadd_ps(x, line[0], sums[i][0]);
                sums[i][1] = _mm256_fmadd_ps(x, line[1], sums[i][1]);
            }
            a = a.wrapping_add(s.a_col);
            b = b.wrapping_add(s.b_row);
        }
    }
    for (i, sums) in sums.into_iter().enumerate() {
        // SAFETY: row i of C has `s.width` columns, of which no others are touched.
        unsafe {
            let c = s.c.add(i * s.c_row);
            if s.width == COLS {
                for (v, sum) in sums.into_iter().enumerate() {
                    let at = c.add(8 * v);
                    let sum = if s.accumulate {
                        _mm256_add_ps(_mm256_loadu_ps(at), sum)
                    } else {
                        sum
                    };
                    _mm256_storeu_ps(at, sum);
                }
            } else {
                let mut row = [0f32; COLS];
                _mm256_storeu_ps(row.as_mut_ptr(), sums[0]);
                _mm256_storeu_ps(row.as_mut_ptr().add(8), sums[1]);
                for (j, sum) in row.into_iter().enumerate().take(s.width) {
                    let at = c.add(j);
                    at.write(if s.accumulate { *at + sum } else { sum });
                }
            }
        }
    }
}
