//! Rows of text as the ids that a model reads, for work that both we and a peer do.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use kif_data::{Limits, Row, read_rows};
use kif_protocol::TemplateSetting;
use kif_runner::codec::Codec;
use serde_json::json;

/// The first rows of a file, and the model that reads them.
#[derive(Debug, clap::Args)]
pub(crate) struct FirstRows {
    /// A base in Hugging Face layout, with its tokenizer
    #[arg(long, value_name = "DIR")]
    pub(crate) model: PathBuf,
    /// Rows, the first `--limit` of them
    #[arg(long, value_name = "FILE")]
    rows: PathBuf,
    /// Rows that are taken
    #[arg(long, value_name = "N", default_value_t = 1000)]
    limit: usize,
    /// Longest input in tokens
    #[arg(long, value_name = "N", default_value_t = 512)]
    max_input: usize,
}

impl FirstRows {
    /// The rows as the file has them.
    pub(crate) fn read(&self) -> Result<Vec<Row>> {
        let mut rows = read_rows(&self.rows)?;
        rows.truncate(self.limit);
        Ok(rows)
    }

    /// What makes ids of them.
    pub(crate) fn codec(&self) -> Result<Codec> {
        Codec::of_model(&self.model, &TemplateSetting::Plain)
    }

    /// Where they are cut.
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            max_input: self.max_input,
            max_target: usize::MAX,
        }
    }
}

/// Arguments of `kif-perf rows`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    first: FirstRows,
    /// Where they go: lines of `{"id", "input_ids", "target_ids"}`
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub(crate) fn run(Arguments { first, out }: &Arguments) -> Result<()> {
    let rows = first.read()?;
    let encoded = first.codec()?.encode_rows(&rows, first.limits())?;
    let mut text = String::new();
    for (row, encoded) in rows.iter().zip(encoded) {
        let line = json!({
            "id": row.id,
            "input_ids": encoded.input_ids,
            "target_ids": encoded.target_ids,
        });
        text += &format!("{line}\n");
    }
    fs::write(out, text).with_context(|| format!("writing {}", out.display()))
}
