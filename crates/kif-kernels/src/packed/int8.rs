//! Values in 8 bits: each row of a weight has a scale, and a value is a whole number of
//! -127 ..= 127 times it.

use super::strip::LANES;
use crate::cpu::versions;

/// The largest whole number.
const LARGEST: f32 = 127.0;

/// One depth of 16 columns of a panel.
#[repr(C, align(16))]
#[derive(Clone, Copy)]
pub(super) struct Bytes(pub(super) [i8; LANES]);

/// Rounds a panel, `floats[depth][line_width]`, to whole numbers, to nearest and ties to even,
/// and sets the scales of its columns, `[line_width]`. `rows` holds the columns one after the
/// other, `[columns, depth]`.
///
/// A value is off by half of a scale at most: 1/254 of the largest of its row.
pub(super) fn narrow(rows: &[f32], floats: &[f32], scales: &mut [f32], lines: &mut [Bytes]) {
    let depth = floats.len() / scales.len();
    for (scale, row) in scales.iter_mut().zip(rows.chunks_exact(depth)) {
        *scale = row.iter().fold(0f32, |max, x| max.max(x.abs())) / LARGEST;
    }
    // Rows of zeros stay zeros.
    let divisors: Vec<f32> = scales
        .iter()
        .map(|&scale| if scale == 0.0 { f32::INFINITY } else { scale })
        .collect();
    for (i, (line, floats)) in lines.iter_mut().zip(floats.chunks_exact(LANES)).enumerate() {
        let divisors = &divisors[i * LANES % scales.len()..][..LANES];
        for (q, (x, divisor)) in line.0.iter_mut().zip(floats.iter().zip(divisors)) {
            *q = (x / divisor).round_ties_even() as i8;
        }
    }
}

versions! {
    /// Widens lines `[depth][scales.len()]` into floats of the same order.
    pub(super) fn widen(lines: &[Bytes], scales: &[f32], floats: &mut [f32]) {
        let rows = lines.chunks_exact(scales.len() / LANES);
        for (row, floats) in rows.zip(floats.chunks_exact_mut(scales.len())) {
            let scales = scales.chunks_exact(LANES);
            for ((bytes, scales), floats) in row.iter().zip(scales).zip(floats.chunks_exact_mut(LANES)) {
                for i in 0..LANES {
                    floats[i] = f32::from(bytes.0[i]) * scales[i];
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
    fn columns_have_their_own_scales_and_come_back_rounded() {
        // Two depths of a panel of 16 columns, of which three are there; the last is zero.
        let rows = [127.0, 2.5, -1.0, 0.25, 0.0, 0.0];
        let mut floats = [0.0; 2 * LANES];
        (floats[0], floats[LANES]) = (127.0, 2.5);
        (floats[1], floats[LANES + 1]) = (-1.0, 0.25);
        let (mut scales, mut lines) = ([0.0; LANES], [Bytes([1; LANES]); 2]);
        narrow(&rows, &floats, &mut scales, &mut lines);
        assert_eq!(&scales[..3], [1.0, 1.0 / 127.0, 0.0]);
        assert_eq!(
            (&lines[0].0[..3], &lines[1].0[..3]),
            (&[127, -127, 0][..], &[2, 32, 0][..])
        );
        for set in InstructionSet::ALL
            .into_iter()
            .filter(|&set| set <= crate::instruction_set())
        {
            let mut wide = [9.0; 2 * LANES];
            widen(set, &lines, &scales, &mut wide);
            assert_eq!(wide[..3], [127.0, -127.0 * (1.0 / 127.0), 0.0]);
            assert_eq!(wide[LANES..LANES + 3], [2.0, 32.0 / 127.0, 0.0]);
        }
    }
}
