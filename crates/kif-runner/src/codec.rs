//! Between text and token ids: the tokenizer of a model directory, where it has one.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use kif_data::{Content, Encoded, Limits, Row, Tokenizer};

use crate::failure::BadInput;

/// A tokenizer that only rows of text need.
pub struct Codec {
    tokenizer: Option<Tokenizer>,
    path: PathBuf,
}

impl Codec {
    /// The `tokenizer.json` of a model directory; without one, rows of ids still work.
    pub fn of_model(model: &Path) -> Result<Self> {
        if !model.is_dir() {
            bail!(BadInput(format!(
                "model {}: there is no such folder",
                model.display()
            )));
        }
        let path = model.join("tokenizer.json");
        let tokenizer = if path.exists() {
            Some(Tokenizer::from_file(&path)?)
        } else {
            None
        };
        Ok(Self { tokenizer, path })
    }

    /// The file that it was read from.
    pub fn path(&self) -> Option<&Path> {
        self.tokenizer.as_ref().map(|_| self.path.as_path())
    }

    /// Token ids of one row. Rows of ids are taken as given.
    pub fn encode_row(&self, row: &Row, limits: Limits) -> Result<Encoded> {
        match (&self.tokenizer, &row.content) {
            (Some(tokenizer), _) => Ok(tokenizer.encode_row(row, limits)?),
            (
                None,
                Content::Ids {
                    input_ids,
                    target_ids,
                },
            ) => Ok(Encoded {
                input_ids: input_ids.clone(),
                target_ids: target_ids.clone(),
                cut: false,
            }),
            (None, Content::Text { .. }) => {
                bail!(BadInput(format!(
                    "row {} is text, which needs the file {}",
                    row.id,
                    self.path.display()
                )))
            }
        }
    }

    /// Token ids of all rows.
    pub fn encode_rows(&self, rows: &[Row], limits: Limits) -> Result<Vec<Encoded>> {
        rows.iter()
            .map(|row| self.encode_row(row, limits))
            .collect()
    }

    /// Ids of a label, end token included.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        match &self.tokenizer {
            Some(tokenizer) => Ok(tokenizer.encode(text)?),
            None => bail!(BadInput(format!(
                "labels are text, which needs the file {}",
                self.path.display()
            ))),
        }
    }

    /// The text of token ids; without a tokenizer the ids themselves.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        match &self.tokenizer {
            Some(tokenizer) => Ok(tokenizer.decode(ids)?),
            None => Ok(ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")),
        }
    }

    /// What a prediction for `row` is compared with: its references, or the text of its target ids.
    pub fn references(&self, row: &Row) -> Result<Vec<String>> {
        match &row.content {
            Content::Text { references, .. } => Ok(references.clone()),
            Content::Ids { target_ids, .. } => {
                // Without a tokenizer nothing knows which id ends a text; a model's own end token is 1 in every T5.
                let ids = match &self.tokenizer {
                    Some(_) => target_ids.as_slice(),
                    None => target_ids.strip_suffix(&[1]).unwrap_or(target_ids),
                };
                Ok(vec![self.decode(ids)?])
            }
        }
    }
}

/// Names the first row with a token id that a model of `vocab_size` ids does not have.
pub fn check_vocabulary(rows: &[Row], encoded: &[Encoded], vocab_size: usize) -> Result<()> {
    for (row, encoded) in rows.iter().zip(encoded) {
        let mut ids = encoded.input_ids.iter().chain(&encoded.target_ids);
        if let Some(id) = ids.find(|&&id| id as usize >= vocab_size) {
            bail!(BadInput(format!(
                "row {}: token id {id} is outside the model's vocabulary of {vocab_size}",
                row.id
            )));
        }
    }
    Ok(())
}
