//! How fast a device multiplies matrices: what the speed of a whole model is held against.

use std::time::{Duration, Instant};

use crate::{DeviceKind, ModelError, ModelOptions, Precision, Trainable};

/// Operations per second (two for each multiplication and its addition) of a product of two `n` x `n` matrices as the
/// fused engine computes products with frozen weights of this precision: the best of the calls in half a second.
pub fn matrix_rate(device: DeviceKind, precision: Precision, n: usize) -> Result<f64, ModelError> {
    let options = ModelOptions {
        device,
        precision,
        ..ModelOptions::cpu(Trainable::All)
    };
    options.check()?;
    match device {
        DeviceKind::Cpu => of_cpu(precision, n),
        DeviceKind::Cuda => of_gpu(precision, n),
    }
}

/// The most bytes that tensors on the GPU have held at one time since the last call, or since the program began; without
/// what the driver and cuBLAS keep for themselves.
pub fn gpu_peak_memory() -> Result<u64, ModelError> {
    peak_of_gpu()
}

fn of_cpu(precision: Precision, n: usize) -> Result<f64, ModelError> {
    let weight = kif_kernels::PackedWeight::pack(&operand(n, 1), n, n, precision.on_cpu());
    let (x, mut y) = (operand(n, 2), vec![0.0; n * n]);
    best_rate(n, || {
        weight.forward(n, &x, &mut y, false);
        Ok(())
    })
}

#[cfg(feature = "cuda")]
fn of_gpu(precision: Precision, n: usize) -> Result<f64, ModelError> {
    crate::engine::cuda::CudaEngine::matrix_rate(precision, n)
}

#[cfg(feature = "cuda")]
fn peak_of_gpu() -> Result<u64, ModelError> {
    crate::engine::cuda::CudaEngine::peak_memory()
}

#[cfg(not(feature = "cuda"))]
fn of_gpu(_precision: Precision, _n: usize) -> Result<f64, ModelError> {
    Err(ModelError::NoCuda)
}

#[cfg(not(feature = "cuda"))]
fn peak_of_gpu() -> Result<u64, ModelError> {
    Err(ModelError::NoCuda)
}

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
    fn the_cpu_has_a_rate_and_no_f16() {
        for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
            let rate = matrix_rate(DeviceKind::Cpu, precision, 64).unwrap();
            assert!(rate.is_finite() && rate > 1e6, "{precision:?}: {rate}");
        }
        assert!(matrix_rate(DeviceKind::Cpu, Precision::F16, 64).is_err());
    }

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
