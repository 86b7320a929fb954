//! Transformer language models with LoRA, on dfdx tensors and tape.

mod language_model;

pub use language_model::{BatchLoss, Dropout, LanguageModel, ParamLayout, ParamSpec};

/// What can go wrong with a model.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {}
