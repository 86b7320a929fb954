//! The configuration of a model, whatever its architecture.

use std::path::Path;

use super::decoder_config::DecoderConfig;
use super::decoder_names::{decoder_optional_tensors, decoder_tensors};
use super::t5_config::T5Config;
use super::t5_names::{t5_optional_tensors, t5_tensors};
use crate::{LoraConfig, ModelError};

/// The configuration of a model that can be built.
#[derive(Clone, Debug, PartialEq)]
pub enum ModelConfig {
    /// Encoder-decoder with relative position biases (T5, T5 v1.1, flan-T5).
    T5(T5Config),
    /// Decoder-only with rotary position embedding (Llama, Mistral, Qwen2, Qwen3, Gemma 3).
    Decoder(DecoderConfig),
}

impl ModelConfig {
    /// The text of a `config.json` with the keys that transformers reads; `dtype` is that of the
    /// weights beside it.
    pub fn to_json(&self, dtype: &str) -> String {
        let fields = match self {
            ModelConfig::T5(config) => config.to_json(dtype),
            ModelConfig::Decoder(config) => config.to_json(dtype),
        };
        format!("{fields:#}\n")
    }

    /// Number of token ids, V.
    pub fn vocab_size(&self) -> usize {
        match self {
            ModelConfig::T5(config) => config.vocab_size,
            ModelConfig::Decoder(config) => config.vocab_size,
        }
    }

    /// Ids that end a text. At least one.
    pub fn end_ids(&self) -> &[u32] {
        match self {
            ModelConfig::T5(config) => std::slice::from_ref(&config.eos_token_id),
            ModelConfig::Decoder(config) => &config.eos_token_id,
        }
    }

    /// Whether targets are read behind the prompt, by the same layers: prompts then have no end
    /// token.
    pub fn is_decoder_only(&self) -> bool {
        matches!(self, ModelConfig::Decoder(_))
    }

    /// The adapter with the modules that `q`, `k`, `v` and `o` are called by in this model.
    pub fn own_targets(&self, lora: LoraConfig) -> LoraConfig {
        let own = |target: String| match (self, target.as_str()) {
            (ModelConfig::Decoder(_), "q" | "k" | "v" | "o") => format!("{target}_proj"),
            _ => target,
        };
        LoraConfig {
            targets: lora.targets.into_iter().map(own).collect(),
            ..lora
        }
    }

    /// Name and shape of every tensor that the model must have.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        match self {
            ModelConfig::T5(config) => t5_tensors(config),
            ModelConfig::Decoder(config) => decoder_tensors(config),
        }
    }

    /// Name and shape of tensors that its file may have besides.
    pub fn optional_tensors(&self) -> Vec<(String, Vec<usize>)> {
        match self {
            ModelConfig::T5(config) => t5_optional_tensors(config),
            ModelConfig::Decoder(config) => decoder_optional_tensors(config),
        }
    }

    /// Checks all bounds; `path` is for messages.
    pub fn validate(&self, path: &Path) -> Result<(), ModelError> {
        match self {
            ModelConfig::T5(config) => config.validate(path),
            ModelConfig::Decoder(config) => config.validate(path),
        }
    }
}
