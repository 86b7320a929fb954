//! What prompts look like to the model, as a setting.

use std::path::PathBuf;

use kif_data::{DataError, Template};
use serde::{Deserialize, Serialize};

/// What prompts look like to the model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TemplateSetting {
    /// As the task's files have them (published T5 runs).
    #[default]
    Plain,
    /// Alpaca's preamble, with instruction and input under headings (published LLaMA runs).
    Alpaca,
    /// A minijinja file with the fields `instruction`, `input` and `prompt`.
    File(PathBuf),
}

impl TemplateSetting {
    /// `alpaca`, `plain`, or a file.
    pub fn named(name: &str) -> Self {
        match name {
            "plain" => Self::Plain,
            "alpaca" => Self::Alpaca,
            path => Self::File(path.into()),
        }
    }

    /// What it names, read from its file where it is one.
    pub fn template(&self) -> Result<Template, DataError> {
        Ok(match self {
            Self::Plain => Template::Plain,
            Self::Alpaca => Template::Alpaca,
            Self::File(path) => Template::read(path)?,
        })
    }
}
