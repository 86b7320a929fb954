//! How fast a device multiplies matrices: what the speed of a whole model is held against.

use crate::best_rate::{best_rate, operand};
use crate::{DeviceKind, ModelError, ModelOptions, Precision, Trainable};

/// Operations per second (two for each multiplication and its addition) of a product of two `n` x
/// `n` matrices as the fused engine computes products with frozen weights of this precision: the
/// best of the calls in half a second.
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

/// The most bytes that tensors on the GPU have held at one time since the last call, or since the
/// program began; without what the driver and cuBLAS keep for themselves.
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
}
