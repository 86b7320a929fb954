//! The strip in AVX-512: a tile of up to 6 rows of four vectors of sums in registers, or of more
//! rows of fewer vectors where a panel is narrower.
//!
//! Wide tiles need the fewest instructions per multiplication: 1.5, where 14 rows of two vectors
//! need 1.8. On a core whose other hardware thread is busy that is what counts.

use super::strip::Strip;
use std::arch::x86_64::*;

/// Rows whose sums fit the 32 registers beside a line of B and a broadcast of A, by
/// the number of vectors.
pub(super) const ROWS: [usize; 5] = [0, MAX_ROWS, MAX_ROWS, 9, 6];
pub(super) const MAX_ROWS: usize = 14;
/// Depths of one turn of the loop over a contiguous A.
pub(super) const UNROLL: usize = 4;
/// Lines of B that are fetched into the first-level cache ahead of their use.
pub(super) const AHEAD: usize = 8;

/// Calls `$f::<rows, vectors, ..>` for numbers of rows and vectors known at run time; the rows
/// are those of [`ROWS`].
macro_rules! by_extents {
    ($rows:expr, $vectors:expr, $f:ident $(<$unit:literal>)?, $args:tt) => {
        match $vectors {
            1 => by_extents!(@ $rows, 1, $f ($($unit)?), $args, 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
            2 => by_extents!(@ $rows, 2, $f ($($unit)?), $args, 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
            3 => by_extents!(@ $rows, 3, $f ($($unit)?), $args, 1 2 3 4 5 6 7 8 9),
            _ => by_extents!(@ $rows, 4, $f ($($unit)?), $args, 1 2 3 4 5 6),
        }
    };
    (@ $rows:expr, $vectors:literal, $f:ident $unit:tt, $args:tt, $($n:literal)*) => {
        match $rows {
            $($n => by_extents!(= $f, $n, $vectors, $unit, $args),)*
            rows => unreachable!("{rows} rows of {} vectors", $vectors),
        }
    };
    (= $f:ident, $rows:literal, $vectors:literal, ($($unit:literal)?), ($($arg:expr),*)) => {
        $f::<$rows, $vectors $(, $unit)?>($($arg),*)
    };
}
pub(super) use by_extents;

/// Writes the body out for each row `I` below `$rows`: a loop this long would not always be
/// unrolled, and its sums would then live in memory.
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
pub(super) use each_row;

/// # Safety
/// As [`multiply_strip`](super::multiply::multiply_strip), on a processor with AVX-512 F.
pub(super) unsafe fn strip(n_rows: usize, s: Strip) {
    let masks = masks(s.width);
    let vectors = s.width.div_ceil(16);
    for i in (0..n_rows).step_by(ROWS[vectors]) {
        let rows = (n_rows - i).min(ROWS[vectors]);
        // SAFETY: the rows i .. i + rows lie in A and C, by the caller's promise.
        unsafe {
            let s = s.at_row(i);
            if s.a_col == 1 {
                by_extents!(rows, vectors, tile<true>, (s, masks))
            } else {
                by_extents!(rows, vectors, tile<false>, (s, masks))
            }
        }
    }
}

/// Which lanes of the vectors of a row of C exist.
pub(super) fn masks(width: usize) -> [__mmask16; 4] {
    std::array::from_fn(|v| {
        let lanes = width.saturating_sub(16 * v).min(16);
        ((1u32 << lanes) - 1) as u16
    })
}

/// `UNIT`: the depths of A are next to each other.
#[target_feature(enable = "avx512f")]
unsafe fn tile<const M: usize, const V: usize, const UNIT: bool>(s: Strip, masks: [__mmask16; 4]) {
    let mut sums = [[_mm512_setzero_ps(); V]; M];
    let a_col = if UNIT { 1 } else { s.a_col };
    // Three rows to a pointer: their addresses are then one addition each at most, and
    // none waits for another.
    let mut a: [*const f32; MAX_ROWS.div_ceil(3)] =
        std::array::from_fn(|i| s.a.wrapping_add(3 * i * s.a_row));
    let mut b = s.b;
    macro_rules! depth {
        ($k:expr) => {
            // SAFETY: `a` and `b` stand at a depth below `s.depth`; A has M rows and B whole lines.
            // Fetching ahead touches nothing, wherever it points.
            unsafe {
                let mut line = [_mm512_setzero_ps(); V];
                for v in 0..V {
                    line[v] = _mm512_load_ps(b.add(16 * v));
                    if V == 4 {
                        let ahead = b.wrapping_add(AHEAD * s.b_row + 16 * v);
                        _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
                    }
                }
                each_row!(M, {
                    let x = _mm512_set1_ps(*a[I / 3].add(I % 3 * s.a_row + $k * a_col));
                    for v in 0..V {
                        sums[I][v] = _mm512_fmadd_ps(x, line[v], sums[I][v]);
                    }
                });
                b = b.wrapping_add(s.b_row);
            }
        };
    }
    let turns = if UNIT { s.depth / UNROLL } else { 0 };
    for _ in 0..turns {
        depth!(0);
        depth!(1);
        depth!(2);
        depth!(3);
        a = a.map(|a| a.wrapping_add(UNROLL));
    }
    for _ in turns * UNROLL..s.depth {
        depth!(0);
        a = a.map(|a| a.wrapping_add(a_col));
    }
    // SAFETY: C has M rows of `s.width` columns, and the masks leave the rest alone.
    unsafe { store(sums, s.c, s.c_row, masks, s.accumulate) }
}

/// Writes or adds the sums of a tile; each lane outside the masks is neither read nor written.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn store<const M: usize, const V: usize>(
    sums: [[__m512; V]; M],
    c: *mut f32,
    c_row: usize,
    masks: [__mmask16; 4],
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

/// The transpose of a square of words, in place.
#[target_feature(enable = "avx512f")]
pub(super) fn turn_square(square: &mut [[u32; 16]; 16]) {
    // SAFETY: each line is a whole vector.
    let lines = square.map(|line| unsafe { _mm512_loadu_si512(line.as_ptr().cast()) });
    // Of 4 lines 4 g .. and of every 4 columns c, 4 + c, .. the words, lane by lane.
    let mut fours = [_mm512_setzero_si512(); 16];
    for g in (0..16).step_by(4) {
        let low = |i: usize| _mm512_unpacklo_epi32(lines[g + i], lines[g + i + 1]);
        let high = |i: usize| _mm512_unpackhi_epi32(lines[g + i], lines[g + i + 1]);
        fours[g] = _mm512_unpacklo_epi64(low(0), low(2));
        fours[g + 1] = _mm512_unpackhi_epi64(low(0), low(2));
        fours[g + 2] = _mm512_unpacklo_epi64(high(0), high(2));
        fours[g + 3] = _mm512_unpackhi_epi64(high(0), high(2));
    }
    for c in 0..4 {
        // The even and the odd lanes of two fours.
        let even = |g: usize| _mm512_shuffle_i32x4::<0x88>(fours[g + c], fours[g + 4 + c]);
        let odd = |g: usize| _mm512_shuffle_i32x4::<0xdd>(fours[g + c], fours[g + 4 + c]);
        let columns = [
            _mm512_shuffle_i32x4::<0x88>(even(0), even(8)),
            _mm512_shuffle_i32x4::<0x88>(odd(0), odd(8)),
            _mm512_shuffle_i32x4::<0xdd>(even(0), even(8)),
            _mm512_shuffle_i32x4::<0xdd>(odd(0), odd(8)),
        ];
        for (lane, column) in columns.into_iter().enumerate() {
            let line = square[4 * lane + c].as_mut_ptr();
            // SAFETY: the line is a whole vector.
            unsafe { _mm512_storeu_si512(line.cast(), column) }
        }
    }
}
