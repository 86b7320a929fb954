//! Published shapes of T5 with random weights.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use kif_model::{Dtype, ModelConfig, random_weights, write_model};
use kif_runner::perf::Shape;

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
    let config = ModelConfig::T5(arguments.shape.config());
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
