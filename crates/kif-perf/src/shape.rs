//! Published shapes with random weights.

use std::fs;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result};
use clap::ValueEnum;
use kif_model::{
    DecoderConfig, Dtype, Family, ModelConfig, Rope, T5Config, random_weights, write_model,
};
use kif_runner::perf;

use crate::random_files;

/// Arguments of `kif-perf base`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Its size: a T5 (small, base, large), qwen3-0.6b or llama2-7b
    #[arg(long, value_name = "NAME")]
    shape: Shape,
    /// Where it goes; bfloat16
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// A tokenizer.json to put beside it, for work on real rows; its ids must be below 32000
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
}

/// A size that somebody published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    T5(perf::Shape),
    /// Width 1024, 28 layers, 16 heads of 128 on 8 of keys, feed-forward 3072, vocabulary 151,936, tied.
    Qwen3,
    /// Width 4096, 32 layers, 32 heads of 128, feed-forward 11008, vocabulary 32,000, a head of its own.
    Llama2,
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "qwen3-0.6b" => Ok(Self::Qwen3),
            "llama2-7b" => Ok(Self::Llama2),
            name => perf::Shape::from_str(name, false).map(Self::T5),
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let out = &arguments.out;
    match arguments.shape {
        Shape::T5(shape) => write_t5(shape.config(), arguments)?,
        Shape::Qwen3 => random_files::write(out, &qwen3())?,
        Shape::Llama2 => random_files::write(out, &llama2())?,
    }
    if let Some(tokenizer) = &arguments.tokenizer {
        fs::copy(tokenizer, out.join("tokenizer.json"))
            .with_context(|| format!("copying {}", tokenizer.display()))?;
    }
    Ok(())
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
        tie_word_embeddings: true,
        bos_token_id: None,
        eos_token_id: vec![151_645],
        initializer_range: 0.02,
    }
}

/// Llama-2-7B.
fn llama2() -> DecoderConfig {
    DecoderConfig {
        family: Family::Llama,
        vocab_size: 32_000,
        hidden_size: 4096,
        intermediate_size: 11_008,
        num_hidden_layers: 32,
        num_attention_heads: 32,
        num_key_value_heads: 32,
        head_dim: 128,
        max_position_embeddings: 4096,
        rms_norm_eps: 1e-5,
        rope: Rope {
            theta: 1e4,
            scaling: None,
        },
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
        assert_eq!(n_params(qwen3()), 596_049_920);
        assert_eq!(n_params(llama2()), 6_738_415_616);
    }

    #[test]
    fn shapes_are_known_by_name() {
        assert_eq!("qwen3-0.6b".parse(), Ok(Shape::Qwen3));
        assert_eq!("small".parse(), Ok(Shape::T5(perf::Shape::Small)));
        assert!("8b".parse::<Shape>().is_err());
    }
}
