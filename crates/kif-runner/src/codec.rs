//! Between text and token ids: the tokenizer of a model, where it has one.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use kif_data::{Content, Encoded, Format, Limits, Row, Tokenizer, end_token_of};
use kif_io::failure::{BadInput, OrBadInput};
use kif_model::{ModelConfig, is_gguf, model_text};
use kif_protocol::TemplateSetting;

/// A tokenizer that only rows of text need, and how rows become ids for the model.
pub struct Codec {
    tokenizer: Option<Tokenizer>,
    path: PathBuf,
    format: Format,
    /// Ids that end a text.
    end_ids: Vec<u32>,
}

impl Codec {
    /// The `tokenizer.json` of a model directory, or the tokenizer of a GGUF file; without one,
    /// rows of ids still work. Targets for a decoder-only model end in the tokenizer's end token if
    /// that is one of the model's, else in the first of these.
    pub fn of_model(model: &Path, template: &TemplateSetting) -> Result<Self> {
        let in_one_file = is_gguf(model);
        let is_there = model.is_dir() || in_one_file && model.is_file();
        if !is_there {
            bail!(BadInput(format!(
                "model {}: there is no such folder or GGUF file",
                model.display()
            )));
        }
        let text = |name: &str| {
            model_text(model, name).or_bad_input(|| format!("reading model {}", model.display()))
        };
        let place = |name: &str| match in_one_file {
            true => model.to_owned(),
            false => model.join(name),
        };
        let path = place("tokenizer.json");
        let bytes = text("tokenizer.json")?;
        let tokenizer = bytes.map(|bytes| Tokenizer::from_bytes(&path, &bytes));
        let tokenizer = tokenizer.transpose()?;
        // What is wrong with a configuration is said where the model is loaded.
        let config = ModelConfig::read(model).ok();
        let end_ids = config
            .as_ref()
            .map_or(vec![1], |config| config.end_ids().to_vec());
        let end_id = match config {
            Some(config) if config.is_decoder_only() => {
                let named = match &tokenizer {
                    Some(tokenizer) => match text("tokenizer_config.json")? {
                        Some(bytes) => {
                            end_token_of(&place("tokenizer_config.json"), &bytes, tokenizer)?
                        }
                        None => None,
                    },
                    None => None,
                };
                let named = named.filter(|id| end_ids.contains(id));
                Some(named.unwrap_or(end_ids[0]))
            }
            _ => None,
        };
        Ok(Self {
            tokenizer,
            path,
            format: Format {
                template: template.template()?,
                end_id,
            },
            end_ids,
        })
    }

    /// The file that it was read from.
    pub fn path(&self) -> Option<&Path> {
        self.tokenizer.as_ref().map(|_| self.path.as_path())
    }

    /// Token ids of one row. Rows of ids are taken as given.
    pub fn encode_row(&self, row: &Row, limits: Limits) -> Result<Encoded> {
        match (&self.tokenizer, &row.content) {
            (Some(tokenizer), _) => Ok(tokenizer.encode_row_as(row, limits, &self.format)?),
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
        match (&self.tokenizer, self.format.end_id) {
            (Some(tokenizer), None) => Ok(tokenizer.encode(text)?),
            (Some(tokenizer), Some(end_id)) => Ok(tokenizer.encode_continuation(text, end_id)?),
            (None, _) => bail!(BadInput(format!(
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
                // Decoding leaves out the end token, but without a tokenizer nothing else does.
                let ids = match (&self.tokenizer, target_ids.split_last()) {
                    (None, Some((last, rest))) if self.end_ids.contains(last) => rest,
                    _ => target_ids,
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
