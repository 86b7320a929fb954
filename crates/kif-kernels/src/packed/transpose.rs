//! Panels of the transpose, read off the pack of a matrix when a product needs them.
//!
//! A pack of `B[depth, width]` has panels of 64 columns; the product with the transpose wants
//! panels of 64 depths, in which the columns follow each other. Turning a panel takes about as long
//! as multiplying a dozen rows by it, and spares a second pack.

use super::strip::LANES;
use crate::cpu::{InstructionSet, versions};

/// Side of the squares that are turned at once.
const SIDE: usize = LANES;

/// A part of a panel in the order of the pack: `[n_lines][row]` words, of which the first
/// `n_columns` are wanted.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    /// From the first wanted line on.
    pub(super) words: &'a [u32],
    /// Words between lines.
    pub(super) row: usize,
    /// Lines that are wanted.
    pub(super) n_lines: usize,
    /// Words of a line that are wanted.
    pub(super) n_columns: usize,
}

/// Turns a part of f32: line `j` of `out` receives column `j`, `[n_columns][out_row]`; what a line
/// has beyond `n_lines` becomes zero.
pub(super) fn turn(set: InstructionSet, part: Part, out: &mut [u32], out_row: usize) {
    each_square(set, part, |column, line, turned, n| {
        for (j, words) in turned.iter().enumerate().take(n) {
            out[(column + j) * out_row + line..][..SIDE].copy_from_slice(words);
        }
    });
}

/// Turns a part of BF16 pairs into f32: line `j` of `out` receives the two depths of
/// each word of column `j`.
pub(super) fn turn_and_widen(set: InstructionSet, part: Part, out: &mut [u32], out_row: usize) {
    each_square(set, part, |column, line, turned, n| {
        for (j, words) in turned.iter().enumerate().take(n) {
            let out = &mut out[(column + j) * out_row..][..out_row];
            let (depths, _) = out[2 * line..].as_chunks_mut::<2>();
            for (depth, word) in depths.iter_mut().zip(words) {
                *depth = [word << 16, word & 0xffff_0000];
            }
        }
    });
}

/// Turns a part of BF16 pairs into pairs of neighbouring columns, an odd last one paired with zero:
/// line `j` of `out` holds columns `2 j` and `2 j + 1`.
#[cfg(target_arch = "x86_64")]
pub(super) fn turn_pairs(set: InstructionSet, part: Part, out: &mut [u32], out_row: usize) {
    each_square(set, part, |column, line, turned, n| {
        for j in (0..n).step_by(2) {
            let (even, odd) = (&turned[j], turned.get(j + 1).filter(|_| j + 1 < n));
            let out = &mut out[(column + j) / 2 * out_row..][..out_row];
            let (depths, _) = out[2 * line..].as_chunks_mut::<2>();
            for (i, (depth, even)) in depths.iter_mut().zip(even).enumerate() {
                let odd = odd.map_or(0, |odd| odd[i]);
                *depth = [even & 0xffff | odd << 16, even >> 16 | odd & 0xffff_0000];
            }
        }
    });
}

/// Calls `f(column, line, turned, n)` for squares of the part: `turned[j]` holds 16 lines of column
/// `column + j`, for the `n` columns that are wanted. Lines beyond the last are zero.
fn each_square(
    set: InstructionSet,
    part: Part,
    mut f: impl FnMut(usize, usize, &[[u32; SIDE]; SIDE], usize),
) {
    for line in (0..part.n_lines).step_by(SIDE) {
        let n_lines = (part.n_lines - line).min(SIDE);
        for column in (0..part.n_columns).step_by(SIDE) {
            let mut square = [[0; SIDE]; SIDE];
            for (i, words) in square.iter_mut().enumerate().take(n_lines) {
                words.copy_from_slice(&part.words[(line + i) * part.row + column..][..SIDE]);
            }
            turn_square(set, &mut square);
            f(column, line, &square, (part.n_columns - column).min(SIDE));
        }
    }
}

/// The transpose of a square, in place.
fn turn_square(set: InstructionSet, square: &mut [[u32; SIDE]; SIDE]) {
    match set {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the processor offers the level, so it has AVX-512 F.
        set if set >= InstructionSet::Avx512 => unsafe { super::avx512::turn_square(square) },
        _ => turn_square_plainly(set, square),
    }
}

versions! {
    fn turn_square_plainly(square: &mut [[u32; SIDE]; SIDE]) {
        let source = *square;
        for (i, line) in source.iter().enumerate() {
            for (j, &word) in line.iter().enumerate() {
                square[j][i] = word;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_turns_alike() {
        let words: Vec<u32> = (0..40 * 48).collect();
        let part = Part {
            words: &words,
            row: 48,
            n_lines: 37,
            n_columns: 41,
        };
        for set in InstructionSet::ALL
            .into_iter()
            .filter(|&set| set <= crate::instruction_set())
        {
            let mut out = vec![9; 41 * 48];
            turn(set, part, &mut out, 48);
            for (j, line) in out.chunks_exact(48).enumerate() {
                for (i, &word) in line.iter().enumerate() {
                    let wanted = if i < 37 { (i * 48 + j) as u32 } else { 0 };
                    assert_eq!(word, wanted, "{set:?}: column {j}, line {i}");
                }
            }
        }
    }
}
