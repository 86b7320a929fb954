//! BF16 values: rounding, pairs, and a panel widened where no instruction multiplies pairs.

use super::strip::PANEL;
use crate::cpu::versions;
use half::bf16;

/// Two depths of a panel's 32 columns: in each word the even depth's value in the low half, the odd one's in the high.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(super) struct PairLine(pub(super) [u32; PANEL]);

/// `C[.., width] (+)= A B` over pairs of depths; the fields as in [`Strip`](super::Strip).
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct PairStrip {
    pub(super) n_pairs: usize,
    /// Pair (i, k) of A is at `a + i * a_row + k`.
    pub(super) a: *const u32,
    pub(super) a_row: usize,
    pub(super) b: *const u32,
    pub(super) c: *mut f32,
    pub(super) c_row: usize,
    pub(super) width: usize,
    pub(super) accumulate: bool,
}

/// Rounds a panel `[depth][32]` to pairs, to nearest and ties to even; an odd last depth is paired with zero.
pub(super) fn narrow(floats: &[f32], lines: &mut [PairLine]) {
    let bits = |x: f32| u32::from(bf16::from_f32(x).to_bits());
    for (line, pair) in lines.iter_mut().zip(floats.chunks(2 * PANEL)) {
        let (even, odd) = pair.split_at(PANEL);
        for (j, word) in line.0.iter_mut().enumerate() {
            *word = bits(even[j]) | odd.get(j).map_or(0, |&x| bits(x)) << 16;
        }
    }
}

versions! {
    /// Widens the first depths of some lines into a panel `[depth][32]` of floats.
    pub(super) fn widen(lines: &[PairLine], floats: &mut [f32]) {
        for (line, pair) in lines.iter().zip(floats.chunks_mut(2 * PANEL)) {
            let (even, odd) = pair.split_at_mut(PANEL);
            for (x, word) in even.iter_mut().zip(&line.0) {
                *x = f32::from_bits(word << 16);
            }
            for (x, word) in odd.iter_mut().zip(&line.0) {
                *x = f32::from_bits(word & 0xffff_0000);
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
        let mut floats = [0.0; 3 * PANEL];
        (floats[0], floats[PANEL], floats[2 * PANEL + 31]) = (1.5, -2.0, 1.0 + 1.0 / 1024.0);
        let mut lines = [PairLine([7; PANEL]); 2];
        narrow(&floats, &mut lines);
        assert_eq!(lines[0].0[0], 0xc000_3fc0);
        for set in InstructionSet::ALL
            .into_iter()
            .filter(|&set| set <= crate::instruction_set())
        {
            let mut wide = [9.0; 3 * PANEL];
            widen(set, &lines, &mut wide);
            assert_eq!(
                (wide[0], wide[PANEL], wide[2 * PANEL + 31]),
                (1.5, -2.0, 1.0)
            );
        }
    }
}
