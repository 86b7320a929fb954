//! BF16 values: rounding, pairs, and a panel widened where no instruction multiplies pairs.

use super::strip::PANEL;

/// Two depths of a panel's 32 columns, `[32][2]`.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(super) struct PairLine(pub(super) [u16; 2 * PANEL]);

/// The nearest BF16 value, ties to even.
pub(super) fn to_bf16(x: f32) -> u16 {
    half::bf16::from_f32(x).to_bits()
}

/// `C[.., width] (+)= A B` over pairs of depths; the fields as in [`Strip`](super::Strip).
#[derive(Clone, Copy)]
pub(super) struct PairStrip {
    pub(super) n_pairs: usize,
    /// Pair (i, k) of A is at `a + i * a_row + k`.
    pub(super) a: *const u32,
    pub(super) a_row: usize,
    pub(super) b: *const u16,
    pub(super) c: *mut f32,
    pub(super) c_row: usize,
    pub(super) width: usize,
    pub(super) accumulate: bool,
}

/// Widens the first `depth` depths of some lines into a panel `[depth][32]` of floats.
pub(super) fn widen(lines: &[PairLine], depth: usize, out: &mut [f32]) {
    let (out, _) = out.as_chunks_mut::<PANEL>();
    for (k, out) in out.iter_mut().enumerate().take(depth) {
        let line = &lines[k / 2].0;
        for (j, x) in out.iter_mut().enumerate() {
            *x = f32::from_bits(u32::from(line[2 * j + k % 2]) << 16);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_line_widens_to_its_two_depths() {
        let mut line = PairLine([0; 64]);
        line.0[0] = to_bf16(1.5);
        line.0[1] = to_bf16(-2.0);
        line.0[62] = to_bf16(3.0);
        let mut out = [9.0; 64];
        widen(&[line], 2, &mut out);
        assert_eq!((out[0], out[32], out[31], out[63]), (1.5, -2.0, 3.0, 0.0));
    }
}
