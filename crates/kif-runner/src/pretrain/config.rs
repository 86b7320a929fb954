//! What a pretraining run is: sizes, corpus mixture, optimizer.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use kif_model::{FeedForward, ModelConfig, T5Config};
use serde::{Deserialize, Serialize};

use crate::error::{SettingError, check_setting};
use crate::failure::{BadInput, OrBadInput};

/// A pretraining run, as its RON file says it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PretrainConfig {
    /// Sizes of the model.
    pub model: Sizes,
    /// Where token ids come from.
    pub tokenizer: TokenizerSource,
    /// Where weights start.
    pub start: Start,
    /// What batches are made of.
    pub batches: Batches,
    /// How weights move.
    pub optimizer: Optimizer,
    /// Optimizer steps of the whole run. At least 1.
    pub steps: u64,
    /// Pairs, and as many passages, held out of training for the validation loss; at most a tenth of each is taken.
    pub validation_rows: usize,
    /// Steps between two validation losses. At least 1.
    pub validate_every: u64,
    /// Steps between two checkpoints. At least 1.
    pub checkpoint_every: u64,
    /// Names every random choice.
    pub seed: u64,
}

/// Sizes of a T5; the vocabulary is the tokenizer's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sizes {
    /// Width D of the residual stream.
    pub d_model: usize,
    /// Inner width of the feed-forward layers.
    pub d_ff: usize,
    /// Width of one attention head.
    pub d_kv: usize,
    /// Attention heads.
    pub n_heads: usize,
    /// Layers of the encoder.
    pub n_layers: usize,
    /// Layers of the decoder.
    pub n_decoder_layers: usize,
    /// Gated GELU as in T5 v1.1; otherwise ReLU as in v1.0.
    #[serde(default)]
    pub gated: bool,
    /// Whether the head is the embedding, as in v1.0.
    #[serde(default = "yes")]
    pub tied: bool,
}

/// Where token ids come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum TokenizerSource {
    /// Byte-pair merges learned from the corpus.
    Train {
        /// Most tokens, special ones, bytes and sentinels included; a small corpus may have fewer to give.
        vocab_size: usize,
        /// Sentinels `<extra_id_n>` at the end of the vocabulary (T5: 100). In 1..=100.
        n_sentinels: usize,
    },
    /// A `tokenizer.json`; a relative path starts from the folder of the configuration.
    File(PathBuf),
}

/// Where weights start.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Start {
    /// T5's own initialisation.
    Random,
    /// Embeddings from the corpus's co-occurrence counts, and a decoder that passes on what the encoder reads.
    CoOccurrence {
        /// Largest distance, in tokens, at which two tokens count as neighbours. At least 1.
        window: usize,
    },
}

/// What batches are made of.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Batches {
    /// Input and target tokens of a batch; the last row may go beyond. At least 1.
    pub batch_tokens: usize,
    /// Most tokens of an input, end token included. At least 8.
    pub max_input: usize,
    /// Most tokens of a pair's target, end token included. At least 2.
    pub max_target: usize,
    /// Share of rows that are corrupted passages, in 0..=1; a corpus of one kind has no choice.
    pub span_share: f64,
    /// Share of a passage's tokens that are taken out (T5: 0.15).
    #[serde(default = "noise_density")]
    pub noise_density: f64,
    /// Mean length of what is taken out in one place, in tokens (T5: 3).
    #[serde(default = "mean_span")]
    pub mean_span: f64,
}

/// How weights move: AdamW without decay, at rates relative to each tensor's root mean square.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Optimizer {
    /// Peak rate: the share of its own size that a tensor moves in one step.
    pub lr: f64,
    /// Steps of linear warm-up; then the rate falls linearly to 0.
    pub warmup_steps: u64,
    /// Decay of the first and second moment.
    #[serde(default = "betas")]
    pub betas: (f64, f64),
    /// Largest norm of the gradient.
    #[serde(default = "clip")]
    pub clip: f32,
}

fn yes() -> bool {
    true
}
fn noise_density() -> f64 {
    0.15
}
fn mean_span() -> f64 {
    3.0
}
fn betas() -> (f64, f64) {
    (0.9, 0.98)
}
fn clip() -> f32 {
    1.0
}

impl PretrainConfig {
    /// Reads and checks a RON file. A relative tokenizer path becomes one from the file's folder.
    pub fn load(path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).or_bad_input(|| format!("reading {}", path.display()))?;
        let mut config: Self = match ron::from_str(&text) {
            Ok(config) => config,
            Err(e) => {
                let (line, column) = (e.span.start.line, e.span.start.col);
                bail!(BadInput(format!(
                    "{}:{line}:{column}: {}",
                    path.display(),
                    e.code
                )));
            }
        };
        config
            .check()
            .or_bad_input(|| format!("configuration {}", path.display()))?;
        if let TokenizerSource::File(file) = &mut config.tokenizer {
            *file = path.parent().unwrap_or(Path::new("")).join(&*file);
        }
        Ok(config)
    }

    /// Whether every value is in its range; sizes are checked when the model is built.
    pub fn check(&self) -> Result<(), SettingError> {
        let (batches, optimizer) = (&self.batches, &self.optimizer);
        let share = |x: f64| (0.0..=1.0).contains(&x);
        let beta = |x: f64| (0.0..1.0).contains(&x);
        check_setting(self.steps > 0, "steps", self.steps, "at least 1")?;
        check_setting(
            self.validate_every > 0,
            "validate_every",
            self.validate_every,
            "at least 1",
        )?;
        check_setting(
            self.checkpoint_every > 0,
            "checkpoint_every",
            self.checkpoint_every,
            "at least 1",
        )?;
        check_setting(
            batches.batch_tokens > 0,
            "batch_tokens",
            batches.batch_tokens,
            "at least 1",
        )?;
        check_setting(
            batches.max_input >= 8,
            "max_input",
            batches.max_input,
            "at least 8",
        )?;
        check_setting(
            batches.max_target >= 2,
            "max_target",
            batches.max_target,
            "at least 2",
        )?;
        check_setting(
            share(batches.span_share),
            "span_share",
            batches.span_share,
            "a number in 0..=1",
        )?;
        let density = batches.noise_density;
        check_setting(
            density > 0.0 && density < 1.0,
            "noise_density",
            density,
            "a number in (0, 1)",
        )?;
        let span = batches.mean_span;
        check_setting(
            span.is_finite() && span >= 1.0,
            "mean_span",
            span,
            "a finite number, at least 1",
        )?;
        let lr = optimizer.lr;
        check_setting(
            lr.is_finite() && lr >= 0.0,
            "lr",
            lr,
            "a finite number, at least 0",
        )?;
        let betas = optimizer.betas;
        check_setting(
            beta(betas.0) && beta(betas.1),
            "betas",
            format!("{betas:?}"),
            "two in [0, 1)",
        )?;
        check_setting(
            optimizer.clip > 0.0,
            "clip",
            optimizer.clip,
            "a number above 0",
        )?;
        if let Start::CoOccurrence { window } = self.start {
            check_setting(
                (1..=64).contains(&window),
                "window",
                window,
                "a number in 1..=64",
            )?;
        }
        if let TokenizerSource::Train {
            vocab_size,
            n_sentinels,
        } = self.tokenizer
        {
            check_setting(
                (1..=100).contains(&n_sentinels),
                "n_sentinels",
                n_sentinels,
                "a number in 1..=100",
            )?;
            check_setting(
                (512..=65536).contains(&vocab_size),
                "vocab_size",
                vocab_size,
                "a number in 512..=65536",
            )?;
        }
        Ok(())
    }
}

impl Sizes {
    /// The model's configuration for a vocabulary.
    pub fn t5(
        &self,
        vocab_size: usize,
        pad_token_id: u32,
        eos_token_id: u32,
    ) -> Result<ModelConfig> {
        let config = T5Config {
            vocab_size,
            d_model: self.d_model,
            d_kv: self.d_kv,
            d_ff: self.d_ff,
            num_heads: self.n_heads,
            num_layers: self.n_layers,
            num_decoder_layers: self.n_decoder_layers,
            relative_attention_num_buckets: 32,
            relative_attention_max_distance: 128,
            layer_norm_epsilon: 1e-6,
            feed_forward: if self.gated {
                FeedForward::GatedGelu
            } else {
                FeedForward::Relu
            },
            tie_word_embeddings: self.tied,
            scale_decoder_outputs: Some(self.tied),
            pad_token_id,
            eos_token_id,
            decoder_start_token_id: pad_token_id,
            initializer_factor: 1.0,
            dropout_rate: 0.0,
        };
        config
            .validate(Path::new("the configuration's model"))
            .or_bad_input(|| "sizes of the model".into())?;
        Ok(ModelConfig::T5(config))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_file_says_where_and_what() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.ron");
        std::fs::write(&path, "(\n  steps: 3,\n  colour: 1,\n)").unwrap();
        let error = format!("{:#}", PretrainConfig::load(&path).unwrap_err());
        assert!(
            error.contains("p.ron:3:") && error.contains("colour"),
            "{error}"
        );
    }
}
