//! Published shapes of T5 with random weights.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use kif_model::{Dtype, ModelConfig, T5Config, random_weights, write_model};

/// A published size of T5 v1.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Shape {
    /// Width 512, 6 + 6 layers, 8 heads of 64, feed-forward 2048
    Small,
    /// Width 768, 12 + 12 layers, 12 heads of 64, feed-forward 3072
    Base,
    /// Width 1024, 24 + 24 layers, 16 heads of 64, feed-forward 4096
    Large,
}

impl Shape {
    pub(crate) fn config(self) -> ModelConfig {
        let (d_model, n_layers, num_heads, d_ff) = match self {
            Shape::Small => (512, 6, 8, 2048),
            Shape::Base => (768, 12, 12, 3072),
            Shape::Large => (1024, 24, 16, 4096),
        };
        ModelConfig::T5(T5Config {
            d_model,
            d_ff,
            num_layers: n_layers,
            num_decoder_layers: n_layers,
            num_heads,
            ..T5Config::default()
        })
    }
}

/// Arguments of `kif-perf base`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Its size
    #[arg(long, value_enum)]
    shape: Shape,
    /// Where it goes; bfloat16
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// A tokenizer.json to put beside it, for work on real rows; its ids must be below 32128
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let config = arguments.shape.config();
    write_model(
        &arguments.out,
        &config,
        &random_weights(&config, 1),
        Dtype::Bf16,
    )?;
    if let Some(tokenizer) = &arguments.tokenizer {
        fs::copy(tokenizer, arguments.out.join("tokenizer.json"))
            .with_context(|| format!("copying {}", tokenizer.display()))?;
    }
    Ok(())
}
