//! The strip in AVX-512: up to 14 rows of two (or, for narrow panels, one) vectors of sums in registers.

use super::strip::Strip;
use std::arch::x86_64::*;

/// Rows whose sums fit the 32 registers beside two vectors of B and a broadcast of A.
const ROWS: usize = 14;

/// Calls `$f::<rows, vectors>` for a number of rows known at run time.
macro_rules! by_rows {
    ($rows:expr, $f:ident, $vectors:literal, $($arg:expr),*) => {
        match $rows {
            1 => $f::<1, $vectors>($($arg),*),
            2 => $f::<2, $vectors>($($arg),*),
            3 => $f::<3, $vectors>($($arg),*),
            4 => $f::<4, $vectors>($($arg),*),
            5 => $f::<5, $vectors>($($arg),*),
            6 => $f::<6, $vectors>($($arg),*),
            7 => $f::<7, $vectors>($($arg),*),
            8 => $f::<8, $vectors>($($arg),*),
            9 => $f::<9, $vectors>($($arg),*),
            10 => $f::<10, $vectors>($($arg),*),
            11 => $f::<11, $vectors>($($arg),*),
            12 => $f::<12, $vectors>($($arg),*),
            13 => $f::<13, $vectors>($($arg),*),
            _ => $f::<14, $vectors>($($arg),*),
        }
    };
}

/// Writes the body out for each row `I` below `$rows`: a loop this long would not always be unrolled, and its sums would
/// then live in memory.
macro_rules! each_row {
    ($rows:expr, $body:expr) => {
        each_row!(@ $rows, $body, 0 1 2 3 4 5 6 7 8 9 10 11 12 13)
    };
    (@ $rows:expr, $body:expr, $($row:literal)*) => {
        $(if $row < $rows {
            const I: usize = $row;
            $body
        })*
    };
}

/// # Safety
/// As [`multiply_strip`](super::multiply_strip), on a processor with AVX-512 F.
pub(super) unsafe fn strip(n_rows: usize, s: Strip) {
    let masks = masks(s.width);
    for i in (0..n_rows).step_by(ROWS) {
        let rows = (n_rows - i).min(ROWS);
        // SAFETY: the rows i .. i + rows lie in A and C, by the caller's promise.
        unsafe {
            let s = s.at_row(i);
            if s.width > 16 {
                by_rows!(rows, tile, 2, s, masks)
            } else {
                by_rows!(rows, tile, 1, s, masks)
            }
        }
    }
}

/// Which lanes of the two vectors of a row of C exist.
fn masks(width: usize) -> [__mmask16; 2] {
    let bits = if width >= 32 {
        u32::MAX
    } else {
        (1 << width) - 1
    };
    [bits as u16, (bits >> 16) as u16]
}

#[target_feature(enable = "avx512f")]
unsafe fn tile<const M: usize, const V: usize>(s: Strip, masks: [__mmask16; 2]) {
    let mut sums = [[_mm512_setzero_ps(); V]; M];
    // Three rows to a pointer: their addresses are then one addition each at most, and none waits for another.
    let mut a: [*const f32; ROWS.div_ceil(3)] =
        std::array::from_fn(|i| s.a.wrapping_add(3 * i * s.a_row));
    let mut b = s.b;
    for _ in 0..s.depth {
        // SAFETY: `a` and `b` stand at a depth below `s.depth`; A has M rows and B whole lines.
        unsafe {
            let mut line = [_mm512_setzero_ps(); V];
            for v in 0..V {
                line[v] = _mm512_load_ps(b.add(16 * v));
            }
            each_row!(M, {
                let x = _mm512_set1_ps(*a[I / 3].add(I % 3 * s.a_row));
                for v in 0..V {
                    sums[I][v] = _mm512_fmadd_ps(x, line[v], sums[I][v]);
                }
            });
            a = a.map(|a| a.wrapping_add(s.a_col));
            b = b.add(32);
        }
    }
    // SAFETY: C has M rows of `s.width` columns, and the masks leave the rest alone.
    unsafe { store(sums, s.c, s.c_row, masks, s.accumulate) }
}

/// Writes or adds the sums of a tile; each lane outside the masks is neither read nor written.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store<const M: usize, const V: usize>(
    sums: [[__m512; V]; M],
    c: *mut f32,
    c_row: usize,
    masks: [__mmask16; 2],
    accumulate: bool,
) {
    for (i, sums) in sums.into_iter().enumerate() {
        for (v, sum) in sums.into_iter().enumerate() {
            // SAFETY: the caller's promise about C and the masks.
            unsafe {
                let at = c.add(i * c_row + 16 * v);
                let sum = if accumulate {
                    _mm512_add_ps(_mm512_maskz_loadu_ps(masks[v], at), sum)
                } else {
                    sum
                };
                _mm512_mask_storeu_ps(at, masks[v], sum);
            }
        }
    }
}

pub(super) mod pairs {
    //! The same over BF16 pairs: one instruction multiplies and sums two depths.

    use super::*;
    use crate::packed::bf16::PairStrip;

    /// # Safety
    /// As [`multiply_strip`](crate::packed::multiply_strip), on a processor with AVX-512 BF16.
    pub(in crate::packed) unsafe fn strip(n_rows: usize, s: PairStrip) {
        let masks = masks(s.width);
        for i in (0..n_rows).step_by(ROWS) {
            let rows = (n_rows - i).min(ROWS);
            // SAFETY: the rows i .. i + rows lie in A and C, by the caller's promise.
            unsafe {
                let s = PairStrip {
                    a: s.a.add(i * s.a_row),
                    c: s.c.add(i * s.c_row),
                    ..s
                };
                if s.width > 16 {
                    by_rows!(rows, pair_tile, 2, s, masks)
                } else {
                    by_rows!(rows, pair_tile, 1, s, masks)
                }
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn pair_tile<const M: usize, const V: usize>(s: PairStrip, masks: [__mmask16; 2]) {
        let mut sums = [[_mm512_setzero_ps(); V]; M];
        let mut a: [*const u32; ROWS.div_ceil(3)] =
            std::array::from_fn(|i| s.a.wrapping_add(3 * i * s.a_row));
        let mut b = s.b;
        for _ in 0..s.n_pairs {
            // SAFETY: as in `tile`.
            unsafe {
                let mut line = [pairs_of(_mm512_setzero_si512()); V];
                for v in 0..V {
                    line[v] = pairs_of(_mm512_load_si512(b.add(16 * v).cast()));
                }
                each_row!(M, {
                    let x = pairs_of(_mm512_set1_epi32(*a[I / 3].add(I % 3 * s.a_row) as i32));
                    for v in 0..V {
                        sums[I][v] = _mm512_dpbf16_ps(sums[I][v], x, line[v]);
                    }
                });
                a = a.map(|a| a.wrapping_add(1));
                b = b.add(32);
            }
        }
        // SAFETY: C has M rows of `s.width` columns, and the masks leave the rest alone.
        unsafe { store(sums, s.c, s.c_row, masks, s.accumulate) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn pairs_of(bits: __m512i) -> __m512bh {
        // SAFETY: 512 bits hold 32 BF16 values, and any bits are valid ones.
        unsafe { std::mem::transmute(bits) }
    }

    /// Rounds a row to BF16.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(in crate::packed) fn round_row(source: &[f32], out: &mut [u16]) {
        let (chunks, rest) = source.as_chunks::<16>();
        let (out_chunks, out_rest) = out.as_chunks_mut::<16>();
        for (x, y) in chunks.iter().zip(out_chunks) {
            // SAFETY: both arrays are whole vectors, and 256 bits are 256 bits.
            unsafe {
                let rounded = _mm512_cvtneps_pbh(_mm512_loadu_ps(x.as_ptr()));
                _mm256_storeu_si256(
                    y.as_mut_ptr().cast(),
                    std::mem::transmute::<__m256bh, __m256i>(rounded),
                );
            }
        }
        if !rest.is_empty() {
            // The last few through the same instruction, so that a value rounds alike wherever it stands.
            let mut last = [0f32; 16];
            last[..rest.len()].copy_from_slice(rest);
            // SAFETY: as above.
            let rounded = unsafe {
                std::mem::transmute::<__m256bh, [u16; 16]>(_mm512_cvtneps_pbh(_mm512_loadu_ps(
                    last.as_ptr(),
                )))
            };
            out_rest[..rest.len()].copy_from_slice(&rounded[..rest.len()]);
        }
    }
}
