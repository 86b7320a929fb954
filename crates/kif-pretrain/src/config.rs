//! What a pretraining run is: sizes, corpus mixture, optimizer.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use kif_io::failure::{BadInput, OrBadInput};
use kif_io::ron::ron_options;
use kif_methods::{SettingError, check_setting};
use kif_model::{DecoderConfig, Family, FeedForward, ModelConfig, Rope, T5Config};
use serde::{Deserialize, Serialize};

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
    /// Pairs, and as many passages, held out of training for the validation loss; at most a tenth
    /// of each is taken.
    pub validation_rows: usize,
    /// Steps between two validation losses. At least 1.
    pub validate_every: u64,
    /// Steps between two checkpoints. At least 1.
    pub checkpoint_every: u64,
    /// Names every random choice.
    pub seed: u64,
}

/// Sizes of a model; the vocabulary is the tokenizer's. What only one kind of model has is refused
/// for the others.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sizes {
    /// Which model. Left out of what is written for a T5, as it is out of files from before there
    /// were others.
    #[serde(default, skip_serializing_if = "Architecture::is_t5")]
    pub architecture: Architecture,
    /// Width D of the residual stream.
    pub d_model: usize,
    /// Inner width of the feed-forward layers.
    pub d_ff: usize,
    /// Width of one attention head; even in a decoder-only model.
    pub d_kv: usize,
    /// Attention heads.
    pub n_heads: usize,
    /// Heads of keys and values in a decoder-only model, a divisor of `n_heads`; as many as these
    /// without a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_kv_heads: Option<usize>,
    /// Layers; those of the encoder in a T5.
    pub n_layers: usize,
    /// Layers of a T5's decoder; a decoder-only model has `n_layers` and none beside them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub n_decoder_layers: usize,
    /// Gated GELU as in T5 v1.1, instead of ReLU as in v1.0. Decoder-only models have gates of
    /// their own.
    #[serde(default)]
    pub gated: bool,
    /// Whether the head is the embedding, as in T5 v1.0.
    #[serde(default = "yes")]
    pub tied: bool,
    /// Base of the rotary angles of a decoder-only model; 10,000 without a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_theta: Option<f32>,
}

/// Models that can be pretrained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Architecture {
    /// Encoder-decoder: pairs and span corruption.
    #[default]
    T5,
    /// Decoder-only, without biases: pairs, and every token of a passage from those before it.
    Llama,
    /// The same with biases on q, k and v.
    Qwen2,
    /// The same with norms of every head of q and k.
    Qwen3,
}

impl Architecture {
    fn is_t5(&self) -> bool {
        *self == Self::T5
    }

    /// The family of decoder-only models that it is; none for a T5.
    pub fn family(self) -> Option<Family> {
        match self {
            Self::T5 => None,
            Self::Llama => Some(Family::Llama),
            Self::Qwen2 => Some(Family::Qwen2),
            Self::Qwen3 => Some(Family::Qwen3),
        }
    }
}

/// Where token ids come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum TokenizerSource {
    /// Byte-pair merges learned from the corpus.
    Train {
        /// Most tokens, special ones, bytes and sentinels included; a small corpus may have fewer
        /// to give.
        vocab_size: usize,
        /// Sentinels `<extra_id_n>` at the end of the vocabulary (T5: 100). In 1..=100 for a T5;
        /// others need none.
        #[serde(default)]
        n_sentinels: usize,
    },
    /// A `tokenizer.json`; a relative path starts from the folder of the configuration.
    File(PathBuf),
}

/// Where weights start.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Start {
    /// The architecture's own initialisation.
    Random,
    /// Embeddings from the corpus's co-occurrence counts, and upper layers that pass on what they
    /// read.
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
    /// Most tokens of an input or a passage, end token included. At least 8.
    pub max_input: usize,
    /// Most tokens of a pair's target, end token included. At least 2.
    pub max_target: usize,
    /// Share of rows that are passages, in 0..=1, corrupted for a T5 and whole for a decoder-only
    /// model; a corpus of one kind has no choice.
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
fn is_zero(n: &usize) -> bool {
    *n == 0
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
        let mut config: Self = match ron_options().from_str(&text) {
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
        config.model.write_out_defaults();
        if let TokenizerSource::File(file) = &mut config.tokenizer {
            *file = path.parent().unwrap_or(Path::new("")).join(&*file);
        }
        Ok(config)
    }

    /// Whether every value is in its range; sizes are checked when the model is built.
    pub fn check(&self) -> Result<(), SettingError> {
        self.model.check()?;
        for (name, count) in [
            ("steps", self.steps),
            ("validate_every", self.validate_every),
            ("checkpoint_every", self.checkpoint_every),
        ] {
            check_setting(count > 0, name, count, "at least 1")?;
        }
        self.batches.check()?;
        self.optimizer.check()?;
        if let Start::CoOccurrence { window } = self.start {
            let expected = "a number in 1..=64";
            check_setting((1..=64).contains(&window), "window", window, expected)?;
        }
        self.tokenizer.check(self.model.architecture)
    }
}

impl Batches {
    fn check(&self) -> Result<(), SettingError> {
        let (n, expected) = (self.batch_tokens, "at least 1");
        check_setting(n > 0, "batch_tokens", n, expected)?;
        let (n, expected) = (self.max_input, "at least 8");
        check_setting(n >= 8, "max_input", n, expected)?;
        let (n, expected) = (self.max_target, "at least 2");
        check_setting(n >= 2, "max_target", n, expected)?;
        let (share, expected) = (self.span_share, "a number in 0..=1");
        let holds = (0.0..=1.0).contains(&share);
        check_setting(holds, "span_share", share, expected)?;
        let (density, expected) = (self.noise_density, "a number in (0, 1)");
        let holds = density > 0.0 && density < 1.0;
        check_setting(holds, "noise_density", density, expected)?;
        let (span, expected) = (self.mean_span, "a finite number, at least 1");
        let holds = span.is_finite() && span >= 1.0;
        check_setting(holds, "mean_span", span, expected)
    }
}

impl Optimizer {
    fn check(&self) -> Result<(), SettingError> {
        let (lr, expected) = (self.lr, "a finite number, at least 0");
        check_setting(lr.is_finite() && lr >= 0.0, "lr", lr, expected)?;
        let beta = |x: f64| (0.0..1.0).contains(&x);
        let (betas, expected) = (self.betas, "two in [0, 1)");
        let holds = beta(betas.0) && beta(betas.1);
        check_setting(holds, "betas", format!("{betas:?}"), expected)?;
        let (clip, expected) = (self.clip, "a number above 0");
        check_setting(clip > 0.0, "clip", clip, expected)
    }
}

impl TokenizerSource {
    fn check(&self, architecture: Architecture) -> Result<(), SettingError> {
        let Self::Train {
            vocab_size: size,
            n_sentinels: n,
        } = *self
        else {
            return Ok(());
        };
        let (least, expected) = match architecture {
            Architecture::T5 => (1, "a number in 1..=100"),
            _ => (0, "a number in 0..=100"),
        };
        check_setting((least..=100).contains(&n), "n_sentinels", n, expected)?;
        let expected = "a number in 512..=65536";
        let holds = (512..=65536).contains(&size);
        check_setting(holds, "vocab_size", size, expected)
    }
}

impl Sizes {
    /// Whether nothing is said that this kind of model does not have.
    fn check(&self) -> Result<(), SettingError> {
        let is_t5 = self.architecture.is_t5();
        let of_decoders = "nothing: a T5 has none";
        if let Some(n) = self.n_kv_heads {
            check_setting(!is_t5, "n_kv_heads", n, of_decoders)?;
        }
        if let Some(theta) = self.rope_theta {
            check_setting(!is_t5, "rope_theta", theta, of_decoders)?;
        }
        let (n, expected) = (self.n_decoder_layers, "nothing: all layers are n_layers");
        check_setting(is_t5 || n == 0, "n_decoder_layers", n, expected)?;
        let expected = "false: the gates of a decoder-only model are its own";
        check_setting(is_t5 || !self.gated, "gated", self.gated, expected)
    }

    /// Puts in what was left out, so that records say it.
    fn write_out_defaults(&mut self) {
        if !self.architecture.is_t5() {
            self.n_kv_heads.get_or_insert(self.n_heads);
            self.rope_theta.get_or_insert(ROPE_THETA);
        }
    }

    /// The model's configuration for a vocabulary, in which `pad` starts a T5's decoder and `end`
    /// ends texts.
    pub fn model(&self, vocab_size: usize, pad: u32, end: u32) -> Result<ModelConfig> {
        let config = match self.architecture.family() {
            None => ModelConfig::T5(self.t5(vocab_size, pad, end)),
            Some(family) => ModelConfig::Decoder(self.decoder(family, vocab_size, end)),
        };
        config
            .validate(Path::new("the configuration's model"))
            .or_bad_input(|| "sizes of the model".into())?;
        Ok(config)
    }

    fn t5(&self, vocab_size: usize, pad_token_id: u32, eos_token_id: u32) -> T5Config {
        T5Config {
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
        }
    }

    fn decoder(&self, family: Family, vocab_size: usize, end: u32) -> DecoderConfig {
        DecoderConfig {
            family,
            vocab_size,
            hidden_size: self.d_model,
            intermediate_size: self.d_ff,
            num_hidden_layers: self.n_layers,
            num_attention_heads: self.n_heads,
            num_key_value_heads: self.n_kv_heads.unwrap_or(self.n_heads),
            head_dim: self.d_kv,
            max_position_embeddings: MAX_POSITIONS,
            rms_norm_eps: 1e-6,
            rope: Rope {
                theta: self.rope_theta.unwrap_or(ROPE_THETA),
                scaling: None,
            },
            window: None,
            query_pre_attn_scalar: None,
            tie_word_embeddings: self.tied,
            bos_token_id: None,
            eos_token_id: vec![end],
            initializer_range: (self.d_model as f32).sqrt().recip(),
        }
    }
}

/// The base of rotary angles that transformers takes where nothing is said.
const ROPE_THETA: f32 = 10_000.0;

/// What `config.json` says of a base's positions; nothing here reads it.
const MAX_POSITIONS: usize = 2048;

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
