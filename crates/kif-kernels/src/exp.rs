//! A branch-free exponential that the compiler can vectorise, and the softmax made of it.

use crate::cpu::versions;
use crate::lanes::{self, LANES, madd};

/// `e^x` to about one unit in the last place; arguments are clamped to
/// `-87.3..=88.3`, not-a-number stays.
///
/// Cody-Waite reduction by ln 2 in two parts and the degree-5 polynomial of Cephes' `expf`.
#[inline(always)]
pub(crate) fn exp<const FUSED: bool>(x: f32) -> f32 {
    // 1.5 * 2^23: adding it leaves the nearest integer in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    let x = if x < -87.3 { -87.3 } else { x };
    let x = if x > 88.3 { 88.3 } else { x };
    let shifted = madd::<FUSED>(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = madd::<FUSED>(n, -0.693_359_4, x);
    let r = madd::<FUSED>(n, 2.121_944_4e-4, r);
    let p = madd::<FUSED>(1.987_569_2e-4, r, 1.398_2e-3);
    let p = madd::<FUSED>(p, r, 8.333_452e-3);
    let p = madd::<FUSED>(p, r, 4.166_579_6e-2);
    let p = madd::<FUSED>(p, r, 1.666_666_5e-1);
    let p = madd::<FUSED>(p, r, 0.5);
    let y = madd::<FUSED>(p * r, r, r) + 1.0;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    power * y
}

/// Replaces a row by `exp(x - max)`; gives the maximum and the sum of what it wrote.
#[inline(always)]
pub(crate) fn exp_shifted<const FUSED: bool>(row: &mut [f32]) -> (f32, f32) {
    let max = lanes::max(row);
    let mut sums = [0f32; LANES];
    let (chunks, rest) = row.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            let e = exp::<FUSED>(chunk[i] - max);
            chunk[i] = e;
            sums[i] += e;
        }
    }
    for (x, sum) in rest.iter_mut().zip(&mut sums) {
        *x = exp::<FUSED>(*x - max);
        *sum += *x;
    }
    (max, lanes::sum(sums))
}

versions! {
    /// Replaces a row by its softmax; gives `ln sum exp(row)`.
    pub(crate) fn softmax(row: &mut [f32]) -> f32 {
        let (max, sum) = exp_shifted::<FUSED>(row);
        let inverse = 1.0 / sum;
        for x in row.iter_mut() {
            *x *= inverse;
        }
        max + sum.ln()
    }
}

versions! {
    /// `ln sum exp(row)`, the row left as it is.
    pub(crate) fn log_sum_exp(row: &[f32]) -> f32 {
        let max = lanes::max(row);
        let mut sums = [0f32; LANES];
        let (chunks, rest) = row.as_chunks::<LANES>();
        for chunk in chunks {
            for i in 0..LANES {
                sums[i] += exp::<FUSED>(chunk[i] - max);
            }
        }
        for (x, sum) in rest.iter().zip(&mut sums) {
            *sum += exp::<FUSED>(*x - max);
        }
        max + lanes::sum(sums).ln()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::InstructionSet;

    #[test]
    fn the_exponential_is_close_to_the_exact_one() {
        for i in -87_000..=88_000 {
            let x = i as f32 * 1e-3;
            let exact = f64::from(x).exp();
            for e in [exp::<true>(x), exp::<false>(x)] {
                let error = (f64::from(e) - exact).abs() / exact;
                assert!(error < 3e-7, "exp({x}) = {e}, exactly {exact}");
            }
        }
        assert_eq!(exp::<true>(0.0), 1.0);
        assert!(exp::<true>(f32::NAN).is_nan());
        assert!(exp::<true>(1e9).is_finite());
    }

    #[test]
    fn softmax_of_equal_scores_is_uniform() {
        for set in InstructionSet::ALL
            .into_iter()
            .filter(|&s| s <= crate::instruction_set())
        {
            let mut row = [3.0f32; 20];
            assert!((softmax(set, &mut row) - (3.0 + 20f32.ln())).abs() < 1e-6);
            assert!(row.iter().all(|x| (x - 0.05).abs() < 1e-7));
        }
    }

    #[test]
    fn not_a_number_spreads_over_its_row() {
        let mut row = [0.0, f32::NAN, 1.0];
        assert!(softmax(InstructionSet::Portable, &mut row).is_nan());
        assert!(row.iter().all(|x| x.is_nan()));
    }
}
