//! Weighted averaging of parameter vectors.

use crate::FusionError;

/// Writes the mean of `vectors`, each `[P]` with its weight, to `out`: `sum_i w_i x_i / sum_i w_i`.
///
/// Sums run over the vectors in the order given, in f64, and are rounded once; so every
/// element lies between the smallest and the largest that went in, and equal vectors give
/// themselves. Fails if a weight is negative or not finite, if all are 0, and if a vector's
/// length differs from `out`'s.
pub fn weighted_average(vectors: &[(&[f32], f64)], out: &mut [f32]) -> Result<(), FusionError> {
    for (index, (vector, weight)) in vectors.iter().enumerate() {
        if !(weight.is_finite() && *weight >= 0.0) {
            return Err(FusionError::Weight {
                index,
                weight: *weight,
            });
        }
        if vector.len() != out.len() {
            return Err(FusionError::Length {
                index,
                found: vector.len(),
                expected: out.len(),
            });
        }
    }
    let total: f64 = vectors.iter().map(|(_, weight)| weight).sum();
    if total == 0.0 {
        return Err(FusionError::NoWeight {
            n_vectors: vectors.len(),
        });
    }
    for (i, out) in out.iter_mut().enumerate() {
        let sum: f64 = vectors
            .iter()
            .map(|(vector, weight)| weight * f64::from(vector[i]))
            .sum();
        *out = (sum / total) as f32;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        let mut out = [0.0; 2];
        weighted_average(&[(&[1.0, 2.0], 1.0), (&[5.0, -2.0], 3.0)], &mut out).unwrap();
        assert_eq!(out, [4.0, -1.0]);
    }

    #[test]
    fn wrong_weights_and_lengths_are_refused() {
        let mut out = [0.0; 2];
        let mut refused =
            |vectors: &[(&[f32], f64)]| weighted_average(vectors, &mut out).unwrap_err();
        assert_eq!(refused(&[]), FusionError::NoWeight { n_vectors: 0 });
        assert_eq!(
            refused(&[(&[1.0, 2.0], -1.0)]),
            FusionError::Weight {
                index: 0,
                weight: -1.0
            }
        );
        let short = refused(&[(&[1.0, 2.0], 1.0), (&[1.0], 1.0)]);
        assert_eq!(
            short.to_string(),
            "parameter vector 1 has 1 entries, expected 2"
        );
    }
}
