//! BF16 values: rounding, pairs, and a panel widened where no instruction multiplies pairs.

use super::strip::LANES;
use crate::cpu::versions;
use half::bf16;

/// Two depths of 16 columns of a panel: in each word the even depth's value in the low half, the
/// odd one's in the high.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(super) struct PairLine(pub(super) [u32; LANES]);

/// The words of some lines.
pub(super) fn words_of(lines: &[PairLine]) -> &[u32] {
    // SAFETY: `PairLine` is `repr(C)` around 16 words whose size is a multiple of its alignment:
    // there is no padding.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len() * LANES) }
}

/// `C[.., width] (+)= A B` over pairs of depths; the fields as in [`Strip`](super::strip::Strip).
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct PairStrip {
    pub(super) n_pairs: usize,
    /// Pair (i, k) of A is at `a + i * a_row + k`.
    pub(super) a: *const u32,
    pub(super) a_row: usize,
    pub(super) b: *const u32,
    pub(super) b_row: usize,
    pub(super) c: *mut f32,
    pub(super) c_row: usize,
    pub(super) width: usize,
    pub(super) accumulate: bool,
}

/// Rounds a panel `[depth][line_width]` to pairs, to nearest and ties to even; an odd last depth
/// is paired with zero.
pub(super) fn narrow(floats: &[f32], line_width: usize, pairs: &mut [PairLine]) {
    let bits = |x: f32| u32::from(bf16::from_f32(x).to_bits());
    let lines = pairs.chunks_exact_mut(line_width / LANES);
    for (line, pair) in lines.zip(floats.chunks(2 * line_width)) {
        let (even, odd) = pair.split_at(line_width);
        for (j, word) in line.iter_mut().flat_map(|line| &mut line.0).enumerate() {
            *word = bits(even[j]) | odd.get(j).map_or(0, |&x| bits(x)) << 16;
        }
    }
}

versions! {
    /// Widens the first depths of some lines into a panel `[depth][line_width]` of floats.
    pub(super) fn widen(pairs: &[PairLine], line_width: usize, floats: &mut [f32]) {
        let lines = pairs.chunks_exact(line_width / LANES);
        for (line, pair) in lines.zip(floats.chunks_mut(2 * line_width)) {
            let (even, odd) = pair.split_at_mut(line_width);
            for (words, even) in line.iter().zip(even.chunks_exact_mut(LANES)) {
                for (x, word) in even.iter_mut().zip(&words.0) {
                    *x = f32::from_bits(word << 16);
                }
            }
            for (words, odd) in line.iter().zip(odd.chunks_exact_mut(LANES)) {
                for (x, word) in odd.iter_mut().zip(&words.0) {
                    *x = f32::from_bits(word & 0xffff_0000);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::InstructionSet;

    #[test]
    fn three_depths_become_two_lines_and_come_back_rounded() {
        const WIDTH: usize = 2 * LANES;
        let mut floats = [0.0; 3 * WIDTH];
        (floats[0], floats[WIDTH], floats[2 * WIDTH + 31]) = (1.5, -2.0, 1.0 + 1.0 / 1024.0);
        let mut lines = [PairLine([7; LANES]); 4];
        narrow(&floats, WIDTH, &mut lines);
        assert_eq!(lines[0].0[0], 0xc000_3fc0);
        for set in InstructionSet::ALL
            .into_iter()
            .filter(|&set| set <= crate::instruction_set())
        {
            let mut wide = [9.0; 3 * WIDTH];
            widen(set, &lines, WIDTH, &mut wide);
            assert_eq!(
                (wide[0], wide[WIDTH], wide[2 * WIDTH + 31]),
                (1.5, -2.0, 1.0)
            );
        }
    }
}
