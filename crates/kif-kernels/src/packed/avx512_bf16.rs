//! The strip of `avx512` over BF16 pairs: one instruction multiplies and sums two depths.

use super::avx512::{AHEAD, MAX_ROWS, ROWS, UNROLL, by_extents, each_row, masks, store};
use super::bf16::PairStrip;
use super::int8::Bytes;
use super::strip::LANES;
use std::arch::x86_64::*;

/// # Safety
/// As [`multiply_strip`](super::multiply::multiply_strip), on a processor with AVX-512 BF16.
pub(super) unsafe fn strip(n_rows: usize, s: PairStrip) {
    let masks = masks(s.width);
    let vectors = s.width.div_ceil(16);
    for i in (0..n_rows).step_by(ROWS[vectors]) {
        let rows = (n_rows - i).min(ROWS[vectors]);
        // SAFETY: the rows i .. i + rows lie in A and C, by the caller's promise.
        unsafe {
            let s = PairStrip {
                a: s.a.add(i * s.a_row),
                c: s.c.add(i * s.c_row),
                ..s
            };
            by_extents!(rows, vectors, pair_tile, (s, masks))
        }
    }
}

#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn pair_tile<const M: usize, const V: usize>(s: PairStrip, masks: [__mmask16; 4]) {
    let mut sums = [[_mm512_setzero_ps(); V]; M];
    let mut a: [*const u32; MAX_ROWS.div_ceil(3)] =
        std::array::from_fn(|i| s.a.wrapping_add(3 * i * s.a_row));
    let mut b = s.b;
    macro_rules! pair {
        ($k:expr) => {
            // SAFETY: as in `tile`.
            unsafe {
                let mut line = [pairs_of(_mm512_setzero_si512()); V];
                for v in 0..V {
                    line[v] = pairs_of(_mm512_load_si512(b.add(16 * v).cast()));
                    if V == 4 {
                        let ahead = b.wrapping_add(AHEAD * s.b_row + 16 * v);
                        _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
                    }
                }
                each_row!(M, {
                    let x = *a[I / 3].add(I % 3 * s.a_row + $k) as i32;
                    let x = pairs_of(_mm512_set1_epi32(x));
                    for v in 0..V {
                        sums[I][v] = _mm512_dpbf16_ps(sums[I][v], x, line[v]);
                    }
                });
                b = b.wrapping_add(s.b_row);
            }
        };
    }
    for _ in 0..s.n_pairs / UNROLL {
        pair!(0);
        pair!(1);
        pair!(2);
        pair!(3);
        a = a.map(|a| a.wrapping_add(UNROLL));
    }
    for _ in 0..s.n_pairs % UNROLL {
        pair!(0);
        a = a.map(|a| a.wrapping_add(1));
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

/// Widens lines in 8 bits, `[depth][scales.len()]`, and rounds them to BF16 pairs of depths, an odd
/// last one paired with zero.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) fn widen_bytes(lines: &[Bytes], scales: &[f32], pairs: &mut [u32]) {
    let (scale_of, _) = scales.as_chunks::<LANES>();
    let n = scale_of.len();
    let (pairs, _) = pairs.as_chunks_mut::<LANES>();
    for (depths, pairs) in lines.chunks(2 * n).zip(pairs.chunks_exact_mut(n)) {
        let (even, odd) = depths.split_at(n);
        for (v, (words, scales)) in pairs.iter_mut().zip(scale_of).enumerate() {
            // SAFETY: a line and an array are whole vectors each.
            unsafe {
                let scales = _mm512_loadu_ps(scales.as_ptr());
                let mut sum = rounded(&even[v], scales);
                if let Some(odd) = odd.get(v) {
                    sum = _mm512_or_si512(sum, _mm512_slli_epi32::<16>(rounded(odd, scales)));
                }
                _mm512_storeu_si512(words.as_mut_ptr().cast(), sum);
            }
        }
    }
}

/// A line times scales, rounded to BF16, in the low halves.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn rounded(line: &Bytes, scales: __m512) -> __m512i {
    // SAFETY: a line is a whole vector, and 256 bits are 256 bits.
    unsafe {
        let whole = _mm512_cvtepi8_epi32(_mm_loadu_si128(line.0.as_ptr().cast()));
        let values = _mm512_mul_ps(_mm512_cvtepi32_ps(whole), scales);
        let halves = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(values));
        _mm512_cvtepu16_epi32(halves)
    }
}

/// Rounds a row to BF16.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) fn round_row(source: &[f32], out: &mut [u16]) {
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
        // The last few through the same instruction, so that a value rounds
        // alike wherever it stands.
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
