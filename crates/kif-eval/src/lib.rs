//! What scores mean: the accuracy matrix, transfer metrics, text metrics and statistics.
//!
//! One prediction is judged by [`exact_match`] and [`rouge_l`]; the mean over a test set is a cell
//! of the [`ScoreMatrix`]; the [`Metric`]s, each under the named convention of its source,
//! summarise a matrix; [`statistics`] summarises runs that differ in seed or order. Scores lie in
//! 0..=1 throughout. This crate sees no file and no model.

pub mod conventions;
mod error;
mod exact_match;
mod matrix;
mod porter;
mod rouge_l;
pub mod statistics;
pub mod transfer;

pub use error::EvalError;
pub use exact_match::exact_match;
pub use matrix::ScoreMatrix;
pub use rouge_l::{best_rouge_l, rouge_l};
pub use transfer::{Metric, References};
