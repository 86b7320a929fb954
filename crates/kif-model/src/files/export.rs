//! A model as a Hugging Face directory.

use std::path::Path;

use super::atomic::{create_folder, write_atomic};
use super::config::ModelConfig;
use super::save::{Dtype, write_tensors};
use super::weights::{WEIGHTS_FILE, Weights};
use crate::ModelError;

/// Writes `config.json` and `model.safetensors` so that transformers loads them.
///
/// The tensors must be those that `config` asks for. The configuration is written last: a folder
/// that has it is complete.
pub fn write_model(
    dir: &Path,
    config: &ModelConfig,
    weights: &Weights,
    dtype: Dtype,
) -> Result<(), ModelError> {
    config.validate(Path::new("configuration"))?;
    weights.expect(&config.tensors(), &config.optional_tensors())?;
    create_folder(dir)?;
    let names = weights.names();
    let tensors: Vec<(&str, &[usize])> = names
        .filter_map(|name| Some((name, weights.shape(name)?)))
        .collect();
    write_tensors(&dir.join(WEIGHTS_FILE), &tensors, dtype, |name| {
        weights.get(name)
    })?;
    write_atomic(
        &dir.join("config.json"),
        config.to_json(dtype.torch_name()).as_bytes(),
    )
}
