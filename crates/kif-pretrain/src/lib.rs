//! `kif pretrain`: a small T5 or decoder-only model from text.
//!
//! Rows `{input, output}` are pairs to answer; plain text is learned by span corruption (a T5) or token by token (a
//! decoder-only model). Three things make a small budget enough: a start that reads content from the first step
//! ([`start`]), steps relative to each tensor's size ([`relative`]), and a corpus in which the content decides the answer,
//! which is the caller's to choose.
//!
//! Every batch is drawn from a stream named by its step, so a resumed run has the bits of an uninterrupted one.

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
