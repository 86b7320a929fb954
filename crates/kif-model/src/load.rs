//! From a directory or from parts to a model on a device.

use std::path::Path;

use crate::decoder::Decoder;
use crate::engine::Engine;
use crate::engine::fused::Fused;
use crate::engine::stock::Stock;
use crate::files::{ModelConfig, Weights};
use crate::t5::T5;
use crate::{DeviceKind, EngineKind, LanguageModel, ModelError, ModelOptions};

/// Loads a Hugging Face directory with a fresh adapter, or fresh prompts of which none is active:
/// either leaves the base's outputs as they are.
pub fn load(dir: &Path, options: &ModelOptions) -> Result<Box<dyn LanguageModel>, ModelError> {
    let config = ModelConfig::read(dir)?;
    from_parts(&config, Weights::read(dir)?, options)
}

/// A model of the given weights, which it consumes tensor by tensor.
pub fn from_parts(
    config: &ModelConfig,
    weights: Weights,
    options: &ModelOptions,
) -> Result<Box<dyn LanguageModel>, ModelError> {
    options.check()?;
    match (options.device, options.engine) {
        (DeviceKind::Cpu, EngineKind::Fused) => {
            let engine = Fused::new(options.precision.on_cpu());
            build(engine, config, weights, options)
        }
        (DeviceKind::Cpu, EngineKind::Stock) => {
            let engine = Stock::new(dfdx::prelude::Cpu::default());
            build(engine, config, weights, options)
        }
        (DeviceKind::Cuda, _) => cuda(config, weights, options),
    }
}

/// The architecture that the configuration names, on `engine`.
fn build<E: Engine + 'static>(
    engine: E,
    config: &ModelConfig,
    weights: Weights,
    options: &ModelOptions,
) -> Result<Box<dyn LanguageModel>, ModelError> {
    Ok(match config {
        ModelConfig::T5(config) => Box::new(T5::build(engine, config, weights, options)?),
        ModelConfig::Decoder(config) => Box::new(Decoder::build(engine, config, weights, options)?),
    })
}

#[cfg(feature = "cuda")]
fn cuda(
    config: &ModelConfig,
    weights: Weights,
    options: &ModelOptions,
) -> Result<Box<dyn LanguageModel>, ModelError> {
    use crate::engine::cuda::CudaEngine;
    match options.engine {
        EngineKind::Fused => build(
            CudaEngine::new(options.precision)?,
            config,
            weights,
            options,
        ),
        EngineKind::Stock => build(
            Stock::new(CudaEngine::stock_device()?),
            config,
            weights,
            options,
        ),
    }
}

#[cfg(not(feature = "cuda"))]
fn cuda(
    _config: &ModelConfig,
    _weights: Weights,
    _options: &ModelOptions,
) -> Result<Box<dyn LanguageModel>, ModelError> {
    Err(ModelError::NoCuda)
}
