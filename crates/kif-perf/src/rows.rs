//! Rows of text as the ids that a model reads, for work that both we and a peer do.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use kif_data::{Limits, read_rows};
use kif_runner::codec::{Codec, TemplateSetting};
use serde_json::json;

/// Arguments of `kif-perf rows`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A base in Hugging Face layout, with its tokenizer
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Rows of text, the first `--limit` of them
    #[arg(long, value_name = "FILE")]
    rows: PathBuf,
    /// Rows that are written
    #[arg(long, value_name = "N", default_value_t = 1000)]
    limit: usize,
    /// Longest input in tokens
    #[arg(long, value_name = "N", default_value_t = 512)]
    max_input: usize,
    /// Where they go: lines of `{"id", "input_ids", "target_ids"}`
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut rows = read_rows(&arguments.rows)?;
    rows.truncate(arguments.limit);
    let codec = Codec::of_model(&arguments.model, &TemplateSetting::Plain)?;
    let limits = Limits {
        max_input: arguments.max_input,
        max_target: usize::MAX,
    };
    let mut text = String::new();
    for (row, encoded) in rows.iter().zip(codec.encode_rows(&rows, limits)?) {
        let line = json!({
            "id": row.id,
            "input_ids": encoded.input_ids,
            "target_ids": encoded.target_ids,
        });
        text += &format!("{line}\n");
    }
    fs::write(&arguments.out, text).with_context(|| format!("writing {}", arguments.out.display()))
}
