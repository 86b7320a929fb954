//! The score that a given share of all scores stays below.
//!
//! As `torch.quantile` with linear interpolation: with scores sorted from position 0 to n - 1, the
//! quantile lies at `rank = q (n - 1)`, between two neighbours unless that is whole. Torch (2.15:
//! equal bits on 680 random cases) rounds `q` to the scores' type, f32, and takes the rank in f64,
//! as an f32 rank would lose its fraction and, beyond 2^24, its position; so do we, for any n.
//! Three differences: the neighbours are found by selection, in O(n), where torch sorts; more than
//! 2^24 scores are fine, where torch refuses; and NaN is an error, where torch returns it.

use crate::ImportanceError;

/// The `q`-quantile of `values`, in any order: exact order statistics, linear
/// interpolation between them.
///
/// Ties need no rule: equal values have the same quantile whichever of them is taken. O(n) time,
/// one copy of `values`. Fails on an empty slice, on `q` outside 0..=1 and on NaN.
pub fn quantile(values: &[f32], q: f64) -> Result<f32, ImportanceError> {
    if !(0.0..=1.0).contains(&q) {
        return Err(ImportanceError::Quantile { q });
    }
    if values.is_empty() {
        return Err(ImportanceError::NoScores);
    }
    if let Some(index) = values.iter().position(|v| v.is_nan()) {
        return Err(ImportanceError::NotANumber {
            index,
            n_scores: values.len(),
        });
    }
    let rank = f64::from(q as f32) * (values.len() - 1) as f64;
    let (low, high) = neighbours(&mut values.to_vec(), rank.floor() as usize);
    Ok(interpolate(low, high, rank.fract()))
}

/// The values at `position` and `position + 1` of the sorted slice (the same twice at its
/// end). Reorders the slice.
fn neighbours(values: &mut [f32], position: usize) -> (f32, f32) {
    let (_, low, above) = values.select_nth_unstable_by(position, f32::total_cmp);
    let high = above.iter().copied().min_by(f32::total_cmp);
    (*low, high.unwrap_or(*low))
}

fn interpolate(low: f32, high: f32, weight: f64) -> f32 {
    if weight == 0.0 || low == high || low.is_infinite() {
        return low; // also keeps infinity minus infinity out of the line below
    }
    (f64::from(low) + weight * (f64::from(high) - f64::from(low))) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_values_by_hand() {
        let values = [3.0, 1.0, 4.0, 2.0, 8.0];
        let cases = [
            (0.0, 1.0),
            (0.25, 2.0),
            (0.375, 2.5),
            (0.5, 3.0),
            (0.875, 6.0),
            (1.0, 8.0),
        ];
        for (q, expected) in cases {
            assert_eq!(quantile(&values, q), Ok(expected), "q {q}");
        }
        assert_eq!(quantile(&[7.0], 0.8), Ok(7.0));
        assert_eq!(quantile(&[f32::INFINITY, 1.0, 2.0], 0.5), Ok(2.0));
        assert_eq!(quantile(&[f32::INFINITY, 1.0], 0.5), Ok(f32::INFINITY));
    }

    #[test]
    fn what_cannot_be_ordered_is_refused() {
        assert_eq!(quantile(&[], 0.5), Err(ImportanceError::NoScores));
        let error = quantile(&[1.0, f32::NAN], 0.5).unwrap_err();
        assert_eq!(error.to_string(), "score 1 of 2 is not a number");
        for q in [-0.1, 1.1, f64::NAN] {
            assert!(matches!(
                quantile(&[1.0], q),
                Err(ImportanceError::Quantile { .. })
            ));
        }
    }

    #[test]
    fn more_than_two_to_the_24_values() {
        // A permutation of 0..n. Of these, only 2^24 + 1 is no f32: it becomes a second 2^24.
        let n = (1 << 24) + 3;
        let values: Vec<f32> = (0..n as u64)
            .map(|i| ((i * 7_368_787) % n as u64) as f32)
            .collect();
        let q = 0.75; // exact in f32
        let rank = q * (n - 1) as f64; // 12582913.5
        assert_eq!(
            quantile(&values, q),
            Ok((rank.floor() as f32).midpoint(rank.ceil() as f32))
        );
        assert_eq!(quantile(&values, 1.0), Ok((n - 1) as f32));
    }
}
