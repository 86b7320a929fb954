//! Greedy texts of a fixed length.

use std::time::Instant;

use crate::rows::FirstRows;
use anyhow::{Result, bail};
use kif_io::memory::peak_rss_mib;
use kif_model::{LoraConfig, ModelConfig, Trainable, load};
use kif_protocol::{Compute, Precision};
use kif_runner::evaluate::batches;
use kif_runner::run::model_options;
use serde_json::json;

/// Arguments of `kif-perf generate`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    first: FirstRows,
    /// Tokens of every text
    #[arg(long, value_name = "N", default_value_t = 16)]
    max_new_tokens: usize,
    /// Prompt tokens of a batch
    #[arg(long, value_name = "N", default_value_t = 4096)]
    batch_tokens: usize,
    /// Number format of the frozen weights
    #[arg(long, value_enum, default_value = "f32")]
    precision: Precision,
}

/// A text that ends early would be less work than the peer's: an error.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let prompts = prompts(&arguments.first)?;
    let compute = Compute {
        precision: arguments.precision,
        ..Compute::default()
    };
    let lora = ModelConfig::read(&arguments.first.model)?.own_targets(LoraConfig::default());
    let options = model_options(&compute, Trainable::Adapter(lora), 1);
    let model = load(&arguments.first.model, &options)?;
    let loaded_mib = peak_rss_mib();
    let lengths: Vec<usize> = prompts.iter().map(Vec::len).collect();
    let mut texts = vec![Vec::new(); prompts.len()];
    let start = Instant::now();
    for batch in batches(&lengths, arguments.batch_tokens, 64) {
        let of_batch: Vec<&[u32]> = batch.iter().map(|&row| prompts[row].as_slice()).collect();
        let written = model.generate(&of_batch, arguments.max_new_tokens)?;
        for (row, text) in batch.into_iter().zip(written) {
            texts[row] = text;
        }
    }
    let total_s = start.elapsed().as_secs_f64();
    if let Some(short) = texts.iter().find(|t| t.len() != arguments.max_new_tokens) {
        bail!("a text of {} tokens, expected them all", short.len());
    }
    let line = json!({
        "threads": rayon::current_num_threads(),
        "total_s": total_s,
        "rows": prompts.len(),
        "prompt_tokens": lengths.iter().sum::<usize>(),
        "texts": texts,
        "loaded_mib": loaded_mib,
        "peak_mib": peak_rss_mib(),
    });
    println!("{line}");
    Ok(())
}

fn prompts(first: &FirstRows) -> Result<Vec<Vec<u32>>> {
    let encoded = first.codec()?.encode_rows(&first.read()?, first.limits())?;
    Ok(encoded.into_iter().map(|row| row.input_ids).collect())
}
