//! Models that show what happens in their layers.

use kif_data::{Batch, Ragged};

use super::Capability;
use crate::ModelError;

/// A model that shows what its layers read and what its adapters make of it.
pub trait Insights {
    /// Mean absolute output of every row of every trained LoRA matrix over all tokens of the batch
    /// that it reads, without dropout: per parameter of the layout `[R]` for A (of `A x`) and
    /// `[out]` for B (of `B A x`, unscaled); nothing for other parameters.
    fn output_magnitudes(&self, batch: &Batch) -> Result<Vec<Vec<f32>>, ModelError>;

    /// Up to `at_most` of the vectors that every trained LoRA A reads in a pass over `batch`,
    /// spread evenly over all tokens, without dropout: per parameter of the layout `[n, in]` for A,
    /// nothing for other parameters.
    fn layer_inputs(&self, batch: &Batch, at_most: usize) -> Result<Vec<Vec<f32>>, ModelError>;

    /// Mean embedding of every text's tokens, `[B, D]`, without any prompt: what a pool of prompts
    /// and a router of rows are asked with.
    fn mean_embeddings(&self, texts: &Ragged) -> Result<Vec<f32>, ModelError>;
}

impl Capability for dyn Insights + '_ {
    const WANTED: &'static str = "insight into the layers of this model";
}
