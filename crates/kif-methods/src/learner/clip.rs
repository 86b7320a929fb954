//! The norm of the gradient, and its limit.

use rayon::prelude::*;

/// The Euclidean norm, summed in f64 in an order that does not depend on the number of threads.
pub(super) fn norm(values: &[f32]) -> f64 {
    let squares = |chunk: &[f32]| {
        chunk
            .iter()
            .map(|&x| f64::from(x) * f64::from(x))
            .sum::<f64>()
    };
    let sums: Vec<f64> = values.par_chunks(1 << 14).map(squares).collect();
    sums.iter().sum::<f64>().sqrt()
}

/// Multiplies by `limit / (norm + 1e-6)` where that is below 1 (`torch.nn.utils.clip_grad_norm_`).
pub(super) fn clip(grad: &mut [f32], norm: f64, limit: f32) {
    let factor = (f64::from(limit) / (norm + 1e-6)) as f32;
    if factor < 1.0 {
        grad.par_iter_mut().for_each(|g| *g *= factor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clipping_leaves_short_gradients_and_scales_long_ones() {
        let mut short = [0.3, 0.4];
        clip(&mut short, norm(&[0.3, 0.4]), 1.0);
        assert_eq!(short, [0.3, 0.4]);
        let mut long = [3.0, 4.0];
        clip(&mut long, norm(&[3.0, 4.0]), 1.0);
        let factor = (1.0 / (5.0 + 1e-6)) as f32;
        assert_eq!(long, [3.0 * factor, 4.0 * factor]);
    }
}
