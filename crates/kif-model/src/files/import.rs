//! A GGUF file as a Hugging Face directory.

use std::collections::BTreeMap;
use std::path::Path;

use super::atomic::write_atomic;
use super::config::ModelConfig;
use super::export::write_model;
use super::gguf::{Gguf, Summary, TEXTS};
use super::save::Dtype;
use super::weights::Weights;
use crate::ModelError;

/// What became of a GGUF file.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The configuration of the model.
    pub config: ModelConfig,
    /// Number of weights.
    pub n_values: usize,
    /// Number of tokens; 0 without a tokenizer.
    pub n_tokens: usize,
    /// Number of tensors by the type that the file stores them in.
    pub stored: BTreeMap<&'static str, usize>,
    /// Texts beside the weights that were written.
    pub texts: Vec<&'static str>,
    /// Keys of the metadata that have no counterpart.
    pub dropped_keys: Vec<String>,
    /// Tensors that have no counterpart; the configuration says what they say.
    pub dropped_tensors: Vec<&'static str>,
}

/// Writes a GGUF file as a Hugging Face directory that transformers loads: `config.json`,
/// `model.safetensors`, and those texts of a tokenizer that the file has. In `Dtype::F32` values
/// are exactly those of the file.
pub fn import_gguf(file: &Path, dir: &Path, dtype: Dtype) -> Result<Imported, ModelError> {
    let gguf = Gguf::open(file)?;
    let (config, weights) = (gguf.config()?, Weights::of_gguf(&gguf)?);
    write_model(dir, &config, &weights, dtype)?;
    let mut texts = Vec::new();
    for name in TEXTS {
        if let Some(text) = gguf.text_file(name)? {
            write_atomic(&dir.join(name), &text)?;
            texts.push(name);
        }
    }
    let Summary {
        n_tokens,
        stored,
        dropped_keys,
        dropped_tensors,
    } = gguf.summary()?;
    Ok(Imported {
        n_values: weights.n_values(),
        config,
        n_tokens,
        stored,
        texts,
        dropped_keys,
        dropped_tensors,
    })
}
