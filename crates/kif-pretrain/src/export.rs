//! The finished base as a Hugging Face directory, with the record of how it was made.

use std::path::Path;

use anyhow::{Context, Result};
use kif_io::atomic;
use kif_io::failure::OrBadInput;
use kif_model::{Dtype, ModelConfig, ParamLayout, Weights, write_model};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::config::PretrainConfig;
use super::trainer::Validation;

/// A file of the corpus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CorpusFile {
    /// Its name, without its folder.
    pub name: String,
    /// Hash of its bytes as they lie on disk.
    pub blake3: String,
}

/// How a base was made: `pretrain.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The configuration, every default written out.
    pub config: PretrainConfig,
    /// The corpus, in the order given.
    pub corpus: Vec<CorpusFile>,
    /// Hash of everything that decides the result.
    pub identity: String,
    /// Number of weights.
    pub n_weights: usize,
    /// Number of tokens.
    pub vocab_size: usize,
    /// Training pairs.
    pub n_pairs: usize,
    /// Training passages.
    pub n_passages: usize,
    /// Passages too short to use.
    pub n_short_passages: usize,
    /// Tokens of all pairs and passages.
    pub n_tokens: usize,
    /// Share of held-out pairs that are answered exactly, greedily; none without pairs.
    pub exact_share: Option<f64>,
    /// Losses on held-out rows, as seen by the process that finished the run.
    pub validations: Vec<Validation>,
    /// Program and version.
    pub program: String,
    /// Commit that the program was built from, where it was told.
    pub commit: Option<String>,
    /// Threads; they do not change the result.
    pub threads: usize,
    /// Wall time of the process that finished the run, in seconds.
    pub wall_s: f64,
}

impl Record {
    /// The record of a finished base; none where there is no such file.
    pub fn read(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join("pretrain.json");
        let reading = || format!("reading {}", path.display());
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .or_bad_input(reading)
                .map(Some),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).with_context(reading),
        }
    }
}

/// Writes `config.json`, `model.safetensors` in bf16, `tokenizer_config.json` and, last,
/// `pretrain.json`: a directory with a record is complete. `tokenizer.json` is there already, in
/// which the token that ends texts is called `end`.
pub fn export(
    dir: &Path,
    config: &ModelConfig,
    end: &str,
    layout: &ParamLayout,
    params: &[f32],
    record: &Record,
) -> Result<()> {
    let mut weights = Weights::new();
    for spec in layout.specs() {
        weights.insert(
            spec.name.as_str(),
            spec.shape.clone(),
            params[spec.range.clone()].to_vec(),
        );
    }
    write_model(dir, config, &weights, Dtype::Bf16)
        .with_context(|| format!("writing model {}", dir.display()))?;
    // What transformers needs to choose a reader for tokenizer.json.
    let tokenizer = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": end,
        "pad_token": "<pad>",
        "unk_token": "<unk>",
    });
    atomic::write_json(&dir.join("tokenizer_config.json"), &tokenizer)?;
    atomic::write_json(&dir.join("pretrain.json"), record)
}
