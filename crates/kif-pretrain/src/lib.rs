#![doc = include_str!("../README.md")]
//!
//! # What is where
//!
//! Rows `{input, output}` are pairs to answer; plain text is learned by span [`corrupt`]ion (a T5)
//! or token by token (a decoder-only model). Three things make a small budget enough: a start that
//! reads content from the first step ([`start`]), steps relative to each tensor's size
//! ([`relative`]), and a corpus in which the content decides the answer, which is the caller's to
//! choose. [`config`] is the RON file, [`run`](run::run) carries it out, and [`export`] writes the
//! base with the record of how it was made.

pub mod checkpoint;
pub mod config;
pub mod corrupt;
pub mod examples;
pub mod export;
pub mod relative;
pub mod run;
pub mod shard;
pub mod start;
pub mod tokenizer;
pub mod trainer;

pub use config::PretrainConfig;
pub use run::{Inputs, run};
