//! A GGUF file as a Hugging Face directory.

use std::collections::BTreeMap;
use std::path::Path;

use super::names::DROPPED;
use super::{Gguf, config, tokenizer};
use crate::ModelError;
use crate::files::atomic::write_atomic;
use crate::files::config::ModelConfig;
use crate::files::export::write_model;
use crate::files::save::Dtype;

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
    pub dropped_tensors: Vec<String>,
}

/// Writes a GGUF file as a Hugging Face directory that transformers loads: `config.json`,
/// `model.safetensors`, and those texts of a tokenizer that the file has. In `Dtype::F32` values are
/// exactly those of the file.
pub fn import_gguf(file: &Path, dir: &Path, dtype: Dtype) -> Result<Imported, ModelError> {
    let gguf = Gguf::open(file)?;
    let (config, weights) = (gguf.config()?, gguf.weights()?);
    write_model(dir, &config, &weights, dtype)?;
    let mut texts = Vec::new();
    for name in tokenizer::TEXTS {
        if let Some(text) = gguf.text_file(name)? {
            write_atomic(&dir.join(name), &text)?;
            texts.push(name);
        }
    }
    let arch = gguf.architecture()?;
    let known = |key: &str| {
        let key = key
            .strip_prefix(arch)
            .and_then(|rest| rest.strip_prefix('.'))
            .map_or_else(|| key.to_owned(), |field| format!("ARCH.{field}"));
        config::KEYS.contains(&key.as_str()) || tokenizer::KEYS.contains(&key.as_str())
    };
    let mut stored = BTreeMap::new();
    for place in gguf.header.tensors.values() {
        *stored.entry(place.dtype.name).or_default() += 1;
    }
    let dropped = DROPPED
        .iter()
        .filter(|name| gguf.header.tensors.contains_key(**name));
    let metadata = gguf.header.metadata.keys();
    Ok(Imported {
        n_values: weights.n_values(),
        n_tokens: gguf.n_tokens()?,
        stored,
        texts,
        dropped_keys: metadata.filter(|key| !known(key)).cloned().collect(),
        dropped_tensors: dropped.map(|name| (*name).to_owned()).collect(),
        config,
    })
}
