//! Rows of text as the ids that a model reads, for work that both we and a peer do.

use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use crate::base::Base;
use anyhow::{Context, Result};
use kif_data::layouts::superni;
use kif_data::{Limits, Row};
use kif_runner::codec::Codec;
use serde_json::{Deserializer, Value, json};

/// The first rows of a file, and the model that reads them.
#[derive(Debug, clap::Args)]
pub(crate) struct FirstRows {
    #[command(flatten)]
    pub(crate) base: Base,
    /// Rows, the first `--limit` of them: a JSON array, JSON Lines, or a task of SuperNI
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
        self.base.codec()
    }

    /// Where they are cut.
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            max_input: self.max_input,
            max_target: usize::MAX,
        }
    }
}

/// All rows of a file: a JSON array, JSON Lines, or a task of SuperNI.
pub(crate) fn read_rows(path: &Path) -> Result<Vec<Row>> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let first = Deserializer::from_reader(BufReader::new(file))
        .into_iter::<Value>()
        .next();
    // What is wrong with a file is said by who reads its rows.
    let is_task = matches!(first, Some(Ok(value)) if value.get("Instances").is_some());
    Ok(match is_task {
        true => superni::read_rows(path)?,
        false => kif_data::read_rows(path)?,
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_by_what_it_holds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("train.json");
        for text in [
            r#"[{"id": "a", "input": "x", "output": "y"}]"#,
            r#"{"id": "a", "input": "x", "output": "y"}"#,
            r#"{"Definition": "Say it.", "Instances": [{"id": "a", "input": "x", "output": ["y"]}]}"#,
        ] {
            fs::write(&path, text).unwrap();
            assert_eq!(read_rows(&path).unwrap()[0].id, "a", "{text}");
        }
        fs::write(&path, "").unwrap();
        assert!(read_rows(&path).is_err());
    }
}
