//! Task streams for continual learning: from files to ragged batches.

pub mod batch;
pub mod chance;

pub use batch::{Batch, Encoded, Ragged};
