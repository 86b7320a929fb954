#![doc = include_str!("../README.md")]
//!
//! # What is where
//!
//! One prediction is judged by [`exact_match`] and [`rouge_l`]; the mean over a test set is a cell
//! of the [`ScoreMatrix`]; the [`Metric`]s, each under the named convention of its source,
//! summarise a matrix, and [`conventions`] says which of them other projects print; [`statistics`]
//! summarises runs that differ in seed or order.

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
