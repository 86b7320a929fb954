//! Two methods in the same cells: is one better than the other?

use super::{EvalError, sample_std, t_quantile};

/// Most differences whose signs are flipped in all ways: two halves of 2^20 sums.
const MAX_PAIRS: usize = 40;

/// Two-sided p-value of the sign-flip test (Fisher's randomisation test for pairs): the share
/// of all `2^n` ways to choose the signs of the differences whose sum is at least as far from
/// zero as the sum found.
///
/// Exact where a difference and its opposite are equally likely if the methods are equal; the
/// smallest value of n differences is `2 / 2^n` (nine cells: 0.0039). Fails on no difference, on
/// more than 40, and on one that is not finite.
pub fn sign_flip_p(differences: &[f64]) -> Result<f64, EvalError> {
    let n_values = differences.len();
    if n_values == 0 {
        return Err(EvalError::TooFewValues { n_values });
    }
    if n_values > MAX_PAIRS || differences.iter().any(|d| !d.is_finite()) {
        return Err(EvalError::Differences { n_values });
    }
    let size: f64 = differences.iter().map(|d| d.abs()).sum();
    // Sums of the same numbers in another order are equal but for rounding.
    let found = differences.iter().sum::<f64>().abs() - 1e-12 * size;
    let (left, right) = differences.split_at(n_values / 2);
    let left = signed_sums(left);
    let mut right = signed_sums(right);
    right.sort_unstable_by(f64::total_cmp);
    let as_far: usize = left
        .iter()
        .map(|a| {
            let below = right.partition_point(|b| a + b <= -found);
            let not_above = right.partition_point(|b| a + b < found);
            below + right.len() - not_above.max(below)
        })
        .sum();
    Ok(as_far as f64 / (left.len() * right.len()) as f64)
}

/// The sums of all ways to sign the values.
fn signed_sums(values: &[f64]) -> Vec<f64> {
    let mut sums = vec![0.0];
    for value in values {
        sums = sums
            .iter()
            .flat_map(|sum| [sum - value, sum + value])
            .collect();
    }
    sums
}

/// p-values adjusted for there being several (Holm 1979, *A simple sequentially rejective
/// multiple test procedure*): the i-th smallest of m times `m - i + 1`, at least the one before,
/// at most 1; in the given order.
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&a, &b| p_values[a].total_cmp(&p_values[b]));
    let (mut adjusted, mut last) = (vec![1.0; p_values.len()], 0.0f64);
    for (rank, i) in order.into_iter().enumerate() {
        last = last
            .max(p_values[i] * (p_values.len() - rank) as f64)
            .min(1.0);
        adjusted[i] = last;
    }
    adjusted
}

/// The smallest true mean difference that a two-sided t test at level `alpha` would have found with
/// probability `power` from these differences: `(t(1 - alpha/2) + t(power)) s / sqrt(n)` with n - 1
/// degrees of freedom, the usual approximation to the noncentral t. `None` of fewer than two.
pub fn detectable_difference(differences: &[f64], alpha: f64, power: f64) -> Option<f64> {
    let std = sample_std(differences)?;
    let n = differences.len() as f64;
    let freedom = n - 1.0;
    Some((t_quantile(1.0 - alpha / 2.0, freedom) + t_quantile(power, freedom)) * std / n.sqrt())
}

#[cfg(test)]
mod tests {
    use super::super::simulated::Normals;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nine_cells_reach_a_quarter_of_a_percent_and_a_half() {
        let p = sign_flip_p(&[1.0; 9]).unwrap();
        assert_eq!(p, 2.0 / 512.0);
        assert_eq!(sign_flip_p(&[-0.3]).unwrap(), 1.0);
        assert_eq!(sign_flip_p(&[0.0; 5]).unwrap(), 1.0);
    }

    #[test]
    fn three_differences_by_hand() {
        // Sums 6, 4, 2, 0 and their opposites; 4 or more: 6 and 4.
        assert_eq!(sign_flip_p(&[-1.0, 2.0, 3.0]).unwrap(), 4.0 / 8.0);
    }

    #[test]
    fn impossible_differences_are_refused() {
        assert!(sign_flip_p(&[]).is_err());
        assert!(sign_flip_p(&[f64::NAN]).is_err());
        assert!(sign_flip_p(&[1.0; 41]).is_err());
        assert_eq!(detectable_difference(&[0.1], 0.05, 0.8), None);
    }

    #[test]
    fn holm_by_hand() {
        let adjusted = holm(&[0.01, 0.04, 0.03, 0.005]);
        let expected = [0.03, 0.06, 0.06, 0.02];
        for (a, e) in adjusted.iter().zip(expected) {
            assert!((a - e).abs() < 1e-12, "{adjusted:?}");
        }
        assert_eq!(holm(&[0.9, 0.8]), [1.0, 1.0]);
    }

    #[test]
    fn equal_methods_are_told_apart_as_rarely_as_the_level_says() {
        let (mut normals, n_studies) = (Normals::new(2), 3000);
        let found = (0..n_studies)
            .filter(|_| {
                let differences: Vec<f64> = (0..9).map(|_| normals.draw()).collect();
                sign_flip_p(&differences).unwrap() <= 0.05
            })
            .count();
        let share = found as f64 / f64::from(n_studies);
        assert!((0.035..=0.06).contains(&share), "{share}");
    }

    #[test]
    fn a_detectable_difference_is_detected_as_often_as_it_says() {
        let (mut normals, n_studies) = (Normals::new(3), 2000);
        // Of nine differences of deviation 1: (2.306 + 0.889) / 3.
        let truth = (t_quantile(0.975, 8.0) + t_quantile(0.8, 8.0)) / 3.0;
        let found = (0..n_studies)
            .filter(|_| {
                let differences: Vec<f64> = (0..9).map(|_| truth + normals.draw()).collect();
                super::super::t_interval(&differences, 0.95).unwrap().low() > 0.0
            })
            .count();
        let share = found as f64 / f64::from(n_studies);
        assert!((0.75..=0.87).contains(&share), "{share}");
    }

    proptest! {
        #[test]
        fn a_p_value_is_that_of_counting_one_by_one(
            differences in prop::collection::vec((-20i32..=20).prop_map(f64::from), 1..10),
        ) {
            let found = differences.iter().sum::<f64>().abs();
            let n = differences.len();
            let as_far = (0..1u32 << n).filter(|signs| {
                let signed = differences.iter().enumerate();
                let sum: f64 = signed.map(|(i, d)| if signs >> i & 1 == 1 { -d } else { *d }).sum();
                sum.abs() >= found
            });
            let expected = as_far.count() as f64 / f64::from(1u32 << n);
            prop_assert_eq!(sign_flip_p(&differences).unwrap(), expected);
        }

        #[test]
        fn holm_never_lowers_and_keeps_the_order(p in prop::collection::vec(0.0f64..=1.0, 0..10)) {
            let adjusted = holm(&p);
            for (i, a) in adjusted.iter().enumerate() {
                prop_assert!(*a >= p[i] && *a <= 1.0);
                for (j, b) in adjusted.iter().enumerate() {
                    prop_assert!(p[i] > p[j] || a <= b);
                }
            }
        }
    }
}
