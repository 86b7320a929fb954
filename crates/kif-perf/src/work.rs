//! A model and the batches that it is measured on, the same for steps and rounds.

use std::path::PathBuf;

use crate::base::Base;
use crate::rows::read_rows;
use anyhow::Result;
use kif_data::{Batch, Encoded, Limits};
use kif_methods::{Learner, LearnerConfig, Schedule};
use kif_model::{DropoutOf, LanguageModel, ModelOptions, load};
use kif_protocol::Precision;
use kif_runner::codec::check_vocabulary;

/// What is trained, and on which rows.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Work {
    #[command(flatten)]
    base: Base,
    /// Rows in file order (a JSON array, JSON Lines, or a task of SuperNI); without, rows of equal
    /// length and arbitrary ids
    #[arg(long, value_name = "FILE")]
    rows: Option<PathBuf>,
    /// Longest input in tokens, of rows from a file
    #[arg(long, value_name = "N", default_value_t = 512)]
    max_input: usize,
    /// Input tokens of every row, without a file
    #[arg(long, value_name = "N", default_value_t = 128)]
    input_tokens: usize,
    /// Rows of a batch
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub(crate) batch_size: usize,
    /// Number format of the frozen weights
    #[arg(long, value_enum, default_value = "f32")]
    precision: Precision,
    /// Share of every LoRA A's input that is dropped
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    dropout: f32,
    /// Tokens that drop something of their own: of every row (row), or those that no other row has
    /// behind the same beginning (beginning), so that a decoder computes the others once
    #[arg(long, value_name = "row|beginning", default_value = "row", value_parser = dropout_of)]
    dropout_of: DropoutOf,
    /// Compute activations twice instead of keeping them
    #[arg(long)]
    recompute: bool,
}

fn dropout_of(name: &str) -> Result<DropoutOf, String> {
    match name {
        "row" => Ok(DropoutOf::Row),
        "beginning" => Ok(DropoutOf::Beginning),
        _ => Err("expected row or beginning".to_owned()),
    }
}

/// Target tokens of a row of arbitrary ids.
const TARGET_TOKENS: usize = 8;
/// A vocabulary that such ids fit in, and the peer's, too.
const SMALLEST_VOCABULARY: u32 = 8000;

impl Work {
    /// How the frozen weights are kept.
    pub(crate) fn precision(&self) -> Precision {
        self.precision
    }

    /// The same with frozen weights kept otherwise.
    pub(crate) fn in_precision(&self, precision: Precision) -> Self {
        Self {
            precision,
            ..self.clone()
        }
    }

    /// The base with a fresh adapter.
    pub(crate) fn model(&self) -> Result<Box<dyn LanguageModel>> {
        let options = ModelOptions {
            recompute: self.recompute,
            dropout_of: self.dropout_of,
            ..self.base.options(self.precision)?
        };
        Ok(load(&self.base.path()?, &options)?)
    }

    /// The model with an adapter that is not zero, in a learner.
    pub(crate) fn learner(&self) -> Result<Learner> {
        let mut model = self.model()?;
        // B of a fresh adapter is zero; a trained one is not.
        let params: Vec<f32> = (model.params().iter().enumerate())
            .map(|(i, p)| p + 1e-3 * (i % 7) as f32)
            .collect();
        model.set_params(&params)?;
        Ok(Learner::new(
            model,
            LearnerConfig {
                dropout: self.dropout,
                ..LearnerConfig::default()
            },
            Schedule::Constant { rate: 3e-4 },
        ))
    }

    /// At least the rows of one batch.
    pub(crate) fn encoded(&self, vocab_size: usize) -> Result<Vec<Encoded>> {
        let Some(rows) = &self.rows else {
            let ids = |row: u32, n: usize| {
                (0..n as u32)
                    .map(|i| (row * 7919 + i * 104_729) % (SMALLEST_VOCABULARY - 10) + 10)
                    .collect()
            };
            return Ok((0..self.batch_size as u32)
                .map(|row| Encoded {
                    input_ids: ids(row, self.input_tokens),
                    target_ids: ids(row, TARGET_TOKENS),
                    cut: false,
                })
                .collect());
        };
        let rows = read_rows(rows)?;
        let limits = Limits {
            max_input: self.max_input,
            max_target: usize::MAX,
        };
        let encoded = self.base.codec()?.encode_rows(&rows, limits)?;
        check_vocabulary(&rows, &encoded, vocab_size)?;
        Ok(encoded)
    }

    /// Batch `k` of the rows in order, from the start again after the last.
    pub(crate) fn batch(&self, encoded: &[Encoded], k: usize) -> Batch {
        Batch::from_rows(
            (0..self.batch_size).map(|i| &encoded[(k * self.batch_size + i) % encoded.len()]),
        )
    }
}
