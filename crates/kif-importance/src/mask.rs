//! Which parameters are important: those whose score is strictly above a quantile.
//!
//! Ties: a parameter whose score equals the threshold is not selected, so equal scores are selected
//! together or not at all, whatever their positions. Without ties at the threshold,
//! `n - 1 - floor(q (n - 1))` of n are selected; with ties there, fewer; if all scores are equal,
//! none.

use std::ops::Range;

use crate::{ImportanceError, quantile};

/// Selected parameters, `[P]` in layout order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mask(Vec<bool>);

impl Mask {
    /// `[P]`: true where the parameter is selected.
    pub fn as_slice(&self) -> &[bool] {
        &self.0
    }

    /// Number of selected parameters.
    pub fn n_selected(&self) -> usize {
        self.0.iter().filter(|selected| **selected).count()
    }
}

impl From<Vec<bool>> for Mask {
    fn from(selected: Vec<bool>) -> Self {
        Self(selected)
    }
}

impl AsRef<[bool]> for Mask {
    fn as_ref(&self) -> &[bool] {
        &self.0
    }
}

/// Over which scores a quantile is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All parameters share one threshold (paper and released code).
    Global,
    /// Each tensor has its own: the ranges of all tensors, which tile 0..P in order.
    PerTensor(Vec<Range<usize>>),
}

/// Selects the scores strictly above `threshold`.
pub fn mask_above(scores: &[f32], threshold: f32) -> Mask {
    Mask(scores.iter().map(|score| *score > threshold).collect())
}

/// Selects the scores, `[P]`, strictly above their `q`-quantile ([`quantile`]). Fails
/// as [`quantile`] does.
pub fn mask_above_quantile(scores: &[f32], q: f64, scope: &Scope) -> Result<Mask, ImportanceError> {
    match scope {
        Scope::Global => Ok(mask_above(scores, quantile(scores, q)?)),
        Scope::PerTensor(ranges) => {
            let mut selected = Vec::with_capacity(scores.len());
            for range in ranges {
                assert_eq!(
                    range.start,
                    selected.len(),
                    "a tensor starts where the one before it ends"
                );
                let tensor = &scores[range.clone()];
                // The quantile counts positions from the tensor's start, and the user from
                // the first parameter.
                let threshold =
                    quantile(tensor, q).map_err(|e| in_all(e, range.start, scores.len()))?;
                selected.extend(tensor.iter().map(|score| *score > threshold));
            }
            assert_eq!(
                selected.len(),
                scores.len(),
                "the last tensor ends with the last score"
            );
            Ok(Mask(selected))
        }
    }
}

fn in_all(error: ImportanceError, start: usize, n_scores: usize) -> ImportanceError {
    match error {
        ImportanceError::NotANumber { index, .. } => ImportanceError::NotANumber {
            index: start + index,
            n_scores,
        },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_by_hand() {
        let scores = [1.0, 2.0, 3.0, 10.0, 30.0, 20.0];
        let global = mask_above_quantile(&scores, 0.5, &Scope::Global).unwrap(); // threshold 6.5
        assert_eq!(global.as_slice(), [false, false, false, true, true, true]);
        let scope = Scope::PerTensor(vec![0..3, 3..6]);
        let per_tensor = mask_above_quantile(&scores, 0.5, &scope).unwrap(); // thresholds 2 and 20
        assert_eq!(
            per_tensor.as_slice(),
            [false, false, true, false, true, false]
        );
        assert_eq!(per_tensor.n_selected(), 2);
    }

    #[test]
    fn ties_at_the_threshold_are_not_selected() {
        let tied = mask_above_quantile(&[5.0, 5.0, 5.0, 1.0], 0.5, &Scope::Global).unwrap();
        assert_eq!(tied.n_selected(), 0);
        // The threshold is 3.
        let below = mask_above_quantile(&[5.0, 5.0, 1.0, 1.0], 0.5, &Scope::Global).unwrap();
        assert_eq!(below.as_slice(), [true, true, false, false]);
    }

    #[test]
    fn a_nan_is_found_by_its_position_among_all_scores() {
        let scope = Scope::PerTensor(vec![0..1, 1..3]);
        let error = mask_above_quantile(&[1.0, 2.0, f32::NAN], 0.5, &scope).unwrap_err();
        assert_eq!(
            error,
            ImportanceError::NotANumber {
                index: 2,
                n_scores: 3
            }
        );
    }
}
