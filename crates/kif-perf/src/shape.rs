//! Published shapes with random weights.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result};
use clap::ValueEnum;
use kif_model::{
    DecoderConfig, Dtype, Family, ModelConfig, Rope, T5Config, model_text, random_weights,
    write_model,
};
use kif_runner::{hub, perf};

use crate::random_files;

/// Arguments of `kif-perf base`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Its size: a T5 (small, base, large), qwen3-0.6b, llama3-1b, llama2-7b or llama2-13b
    #[arg(long, value_name = "NAME")]
    shape: Shape,
    /// Where it goes; bfloat16
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The model whose tokenizer.json to put beside it, for work on real rows; its ids must be
    /// below 32000
    #[arg(long, value_name = "MODEL")]
    tokenizer_of: Option<PathBuf>,
}

/// A size that somebody published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    T5(perf::Shape),
    /// A place in [`DECODERS`].
    Decoder(usize),
}

/// A model's name and configuration.
type Decoder = (&'static str, fn() -> DecoderConfig);

/// Decoder-only models.
const DECODERS: [Decoder; 4] = [
    ("qwen3-0.6b", qwen3),
    ("llama3-1b", llama3),
    ("llama2-7b", || llama2([4096, 32, 32, 11_008])),
    ("llama2-13b", || llama2([5120, 40, 40, 13_824])),
];

impl FromStr for Shape {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match DECODERS.iter().position(|decoder| decoder.0 == name) {
            Some(place) => Ok(Self::Decoder(place)),
            None => perf::Shape::from_str(name, false).map(Self::T5),
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let out = &arguments.out;
    fs::create_dir_all(out).with_context(|| format!("creating {}", out.display()))?;
    // Before config.json, whose folder is taken as complete.
    if let Some(model) = &arguments.tokenizer_of {
        write_tokenizer(model, &out.join("tokenizer.json"))?;
    }
    match arguments.shape {
        Shape::T5(shape) => write_t5(shape.config(), arguments),
        Shape::Decoder(place) => random_files::write(out, &DECODERS[place].1()),
    }
}

fn write_tokenizer(model: &Path, out: &Path) -> Result<()> {
    let text = model_text(&hub::resolve(model)?, "tokenizer.json")?;
    let text = text.with_context(|| format!("{} has no tokenizer.json", model.display()))?;
    fs::write(out, text).with_context(|| format!("writing {}", out.display()))
}

fn write_t5(config: T5Config, arguments: &Arguments) -> Result<()> {
    let config = ModelConfig::T5(config);
    let weights = random_weights(&config, 1);
    Ok(write_model(&arguments.out, &config, &weights, Dtype::Bf16)?)
}

/// Qwen3-0.6B.
fn qwen3() -> DecoderConfig {
    DecoderConfig {
        family: Family::Qwen3,
        vocab_size: 151_936,
        hidden_size: 1024,
        intermediate_size: 3072,
        num_hidden_layers: 28,
        num_attention_heads: 16,
        num_key_value_heads: 8,
        head_dim: 128,
        max_position_embeddings: 40_960,
        rms_norm_eps: 1e-6,
        rope: Rope {
            theta: 1e6,
            scaling: None,
        },
        window: None,
        query_pre_attn_scalar: None,
        tie_word_embeddings: true,
        bos_token_id: None,
        eos_token_id: vec![151_645],
        initializer_range: 0.02,
    }
}

/// Llama-3.2-1B, of which all but the scaling of its angles matters here.
fn llama3() -> DecoderConfig {
    DecoderConfig {
        family: Family::Llama,
        vocab_size: 128_256,
        hidden_size: 2048,
        intermediate_size: 8192,
        num_hidden_layers: 16,
        num_attention_heads: 32,
        num_key_value_heads: 8,
        head_dim: 64,
        max_position_embeddings: 131_072,
        rms_norm_eps: 1e-5,
        rope: Rope {
            theta: 5e5,
            scaling: None,
        },
        window: None,
        query_pre_attn_scalar: None,
        tie_word_embeddings: true,
        bos_token_id: Some(128_000),
        eos_token_id: vec![128_001],
        initializer_range: 0.02,
    }
}

/// A Llama 2 of that width, so many layers and heads, and that width of its feed-forward blocks.
fn llama2([width, n_layers, n_heads, inner]: [usize; 4]) -> DecoderConfig {
    DecoderConfig {
        family: Family::Llama,
        vocab_size: 32_000,
        hidden_size: width,
        intermediate_size: inner,
        num_hidden_layers: n_layers,
        num_attention_heads: n_heads,
        num_key_value_heads: n_heads,
        head_dim: 128,
        max_position_embeddings: 4096,
        rms_norm_eps: 1e-5,
        rope: Rope {
            theta: 1e4,
            scaling: None,
        },
        window: None,
        query_pre_attn_scalar: None,
        tie_word_embeddings: false,
        bos_token_id: Some(1),
        eos_token_id: vec![2],
        initializer_range: 0.02,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn n_params(config: DecoderConfig) -> usize {
        let tensors = ModelConfig::Decoder(config).tensors();
        let sizes = tensors
            .iter()
            .map(|(_, shape)| shape.iter().product::<usize>());
        sizes.sum()
    }

    #[test]
    fn shapes_have_as_many_parameters_as_the_published_models() {
        let sizes = DECODERS.map(|(_, config)| n_params(config()));
        let published = [596_049_920, 1_235_814_400, 6_738_415_616, 13_015_864_320];
        assert_eq!(sizes, published);
    }

    #[test]
    fn shapes_are_known_by_name() {
        assert_eq!("qwen3-0.6b".parse(), Ok(Shape::Decoder(0)));
        assert_eq!("small".parse(), Ok(Shape::T5(perf::Shape::Small)));
        assert!("8b".parse::<Shape>().is_err());
    }
}
