//! Diagonal Fisher information: the mean of squared gradients.
//!
//! The diagonal of the empirical Fisher matrix is `F = E[g^2]` (EWC, Kirkpatrick et al. 2017). Per
//! pass: one [`Fisher`] for a pass over a task after training, finished at its end. Online:
//! [`add_squares`] at every step of the training, or one [`Fisher`] that lives through all steps,
//! read with [`mean`](Fisher::mean) whenever it is needed.

use rayon::prelude::*;

use crate::{
    ImportanceError,
    parallel::{CHUNK, MIN_PARALLEL},
};

/// `estimate += share * grads^2`, both `[P]`: the step of an online estimate that is kept in
/// f32 and saved as it is.
///
/// With `share` one over the steps of an epoch it is the estimate of TRACE's EWC.
pub fn add_squares(estimate: &mut [f32], grads: &[f32], share: f32) {
    assert_eq!(
        grads.len(),
        estimate.len(),
        "gradients given, parameters tracked"
    );
    let add = |estimate: &mut [f32], grads: &[f32]| {
        for (sum, g) in estimate.iter_mut().zip(grads) {
            *sum += share * g * g;
        }
    };
    if grads.len() < MIN_PARALLEL {
        add(estimate, grads);
    } else {
        let chunks = (estimate.par_chunks_mut(CHUNK), grads.par_chunks(CHUNK)).into_par_iter();
        chunks.for_each(|(estimate, grads)| add(estimate, grads));
    }
}

/// Weighted running mean of the squared gradients of P parameters.
///
/// Sums are f64: small gradients late in a long stream still count.
#[derive(Clone, Debug, PartialEq)]
pub struct Fisher {
    /// `[P]`: sum of weight times squared gradient.
    sums: Vec<f64>,
    total_weight: f64,
}

impl Fisher {
    /// No gradient seen yet, for `n_params` parameters.
    pub fn new(n_params: usize) -> Self {
        Self {
            sums: vec![0.0; n_params],
            total_weight: 0.0,
        }
    }

    /// Takes in `grads`, `[P]`, the gradient of a batch's mean loss, with a positive weight: 1 to
    /// count batches alike, the number of examples or tokens to count those alike.
    pub fn accumulate(&mut self, grads: &[f32], weight: f64) {
        assert_eq!(
            grads.len(),
            self.sums.len(),
            "gradients given, parameters tracked"
        );
        assert!(
            weight > 0.0 && weight.is_finite(),
            "weight {weight} of a gradient"
        );
        self.total_weight += weight;
        if grads.len() < MIN_PARALLEL {
            add_weighted(&mut self.sums, grads, weight);
        } else {
            let chunks = (self.sums.par_chunks_mut(CHUNK), grads.par_chunks(CHUNK)).into_par_iter();
            chunks.for_each(|(sums, grads)| add_weighted(sums, grads, weight));
        }
    }

    /// The mean so far, `[P]`: at least 0. Fails before the first gradient.
    pub fn mean(&self) -> Result<Vec<f32>, ImportanceError> {
        if self.total_weight == 0.0 {
            return Err(ImportanceError::NoGradients);
        }
        Ok(self
            .sums
            .iter()
            .map(|sum| (sum / self.total_weight) as f32)
            .collect())
    }

    /// The mean of a finished pass, `[P]`. Fails if there was no gradient.
    pub fn finish(self) -> Result<Vec<f32>, ImportanceError> {
        self.mean()
    }
}

fn add_weighted(sums: &mut [f64], grads: &[f32], weight: f64) {
    for (sum, g) in sums.iter_mut().zip(grads) {
        let g = f64::from(*g);
        *sum += weight * g * g;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn online_estimate_by_hand() {
        let mut estimate = [1.0, 0.0];
        add_squares(&mut estimate, &[2.0, -3.0], 0.25);
        assert_eq!(estimate, [2.0, 2.25]);
    }

    #[test]
    fn weighted_mean_by_hand() {
        let mut fisher = Fisher::new(2);
        assert_eq!(fisher.mean(), Err(ImportanceError::NoGradients));
        fisher.accumulate(&[1.0, -2.0], 3.0);
        assert_eq!(fisher.mean(), Ok(vec![1.0, 4.0]));
        fisher.accumulate(&[3.0, 0.0], 1.0);
        assert_eq!(fisher.finish(), Ok(vec![3.0, 3.0])); // (3*1 + 1*9) / 4, (3*4 + 0) / 4
    }
}
