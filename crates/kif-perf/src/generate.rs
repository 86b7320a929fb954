//! Greedy texts of a fixed length.

use std::time::Instant;

use crate::rows::FirstRows;
use anyhow::{Result, bail};
use kif_io::memory::peak_rss_mib;
use kif_model::{ModelConfig, Weights, from_parts};
use kif_protocol::Precision;
use kif_runner::evaluate::prompt_batches;
use serde_json::json;

/// Arguments of `kif-perf generate`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    first: FirstRows,
    /// Tokens of every text, end tokens among them
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
    let (first, path) = (&arguments.first, arguments.first.base.path()?);
    let encoded = first.codec()?.encode_rows(&first.read()?, first.limits())?;
    let prompts: Vec<Vec<u32>> = encoded.into_iter().map(|row| row.input_ids).collect();
    let config = without_end(ModelConfig::read(&path)?);
    let options = first.base.options(arguments.precision)?;
    let model = from_parts(&config, Weights::read(&path)?, &options)?;
    let loaded_mib = peak_rss_mib();
    let lengths: Vec<usize> = prompts.iter().map(Vec::len).collect();
    let mut texts = vec![Vec::new(); prompts.len()];
    let start = Instant::now();
    let all: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    for batch in prompt_batches(model.as_ref(), &all, arguments.batch_tokens, 64) {
        let of_batch: Vec<&[u32]> = batch.iter().map(|&row| all[row]).collect();
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

/// The model with an end token that no vocabulary has: its texts go on past its own.
fn without_end(mut config: ModelConfig) -> ModelConfig {
    match &mut config {
        ModelConfig::T5(config) => config.eos_token_id = u32::MAX,
        ModelConfig::Decoder(config) => config.eos_token_id = vec![u32::MAX],
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;
    use kif_model::{LoraConfig, ModelOptions, Trainable, random_weights};

    #[test]
    fn a_text_goes_on_past_the_models_end_token() {
        let shape = kif_runner::perf::Shape::Tiny.config();
        let mut config = ModelConfig::T5(shape);
        let options = ModelOptions::cpu(Trainable::Adapter(LoraConfig::default()));
        let text = |config: &ModelConfig| {
            let model = from_parts(config, random_weights(config, 1), &options).unwrap();
            model.generate(&[&[3, 4, 5]], 4).unwrap().remove(0)
        };
        let whole = text(&without_end(config.clone()));
        assert_eq!(whole.len(), 4);
        if let ModelConfig::T5(config) = &mut config {
            config.eos_token_id = whole[0];
        }
        assert!(text(&config).is_empty());
        assert_eq!(text(&without_end(config)), whole);
    }
}
