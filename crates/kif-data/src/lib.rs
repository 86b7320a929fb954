#![doc = include_str!("../README.md")]
//!
//! # What is where
//!
//! A [`Stream`] names tasks in the orders of a benchmark; [`load_task`] reads one of them from its
//! authors' layout into [`Row`]s, which have the same form whatever file they came from. A
//! [`Tokenizer`] turns rows into [`Encoded`] ids, and the sampling functions choose which rows
//! make the next [`Batch`], which stay in the memory of old tasks and which are cut off for
//! validation. Every choice is a function of a seed and of what it is for ([`chance`]), never of
//! what was drawn before.
//!
//! Readers treat files as hostile: a line, an array element and a file have a size limit,
//! nesting has a depth limit, and whatever is not a row is an error with file, line, column and
//! field.

pub mod batch;
pub mod chance;
pub mod corpus;
pub mod end_token;
pub mod error;
mod json;
pub mod layouts;
pub mod memory;
pub mod published;
mod raw_row;
pub mod sampling;
pub mod stream;
pub mod subset;
pub mod task;
pub mod template;
pub mod tokenizer;

pub use batch::{Batch, Encoded, Ragged};
pub use corpus::{CorpusItem, corpus_items, corpus_reader};
pub use end_token::{end_token, end_token_of};
pub use error::DataError;
pub use layouts::{
    Layout, MAX_PROBLEMS, Split, Survey, load_task, read_rows, split_file, survey, task_files,
};
pub use memory::{
    MemoryPolicy, cycled_batch, draw_memory, highest_loss, memory_batch, memory_rows, reservoir,
};
pub use sampling::{Cursor, epoch_order};
pub use stream::Stream;
pub use subset::{class_balanced_subset, validation_split};
pub use task::{Content, Row, Task, labels};
pub use template::{Prompt, Template};
pub use tokenizer::{Format, Limits, Tokenizer};
