//! Products of matrices against the clock.

use std::time::{Duration, Instant};

use crate::ModelError;

/// `[n, n]` values in -1..1 without a pattern: processors draw less power on zeros, and run faster.
pub(crate) fn operand(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let values = (0..n * n).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    });
    values.collect()
}

/// The rate of the best call that computes one product, after one call to warm up.
pub(crate) fn best_rate(
    n: usize,
    mut product: impl FnMut() -> Result<(), ModelError>,
) -> Result<f64, ModelError> {
    const TIME: Duration = Duration::from_millis(500);
    product()?;
    let (start, mut best) = (Instant::now(), f64::INFINITY);
    while start.elapsed() < TIME {
        let call = Instant::now();
        product()?;
        best = best.min(call.elapsed().as_secs_f64());
    }
    Ok(2.0 * (n as f64).powi(3) / best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_two_operations_per_multiplication() {
        let rate = best_rate(100, || {
            std::thread::sleep(Duration::from_millis(20));
            Ok(())
        });
        // 2e6 operations in 20 ms or a little more.
        assert!((1e7..=1e8).contains(&rate.unwrap()));
    }
}
