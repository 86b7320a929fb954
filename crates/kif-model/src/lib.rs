#![doc = include_str!("../README.md")]
//!
//! # What is where
//!
//! The rest of the workspace sees a [`LanguageModel`]: P trainable parameters in one flat vector,
//! losses, gradients, generated ids. Inside, an architecture (`t5`, `decoder`) is written once over
//! a small set of operations (`engine`), and three engines carry them out: `fused` with our own CPU
//! kernels, `cuda` with our own GPU kernels, `stock` with dfdx's operations on any device. What
//! does not depend on the architecture is in `model`.

mod best_rate;
mod decoder;
mod device_facts;
mod engine;
mod error;
mod fact;
mod files;
mod language_model;
mod layout;
mod load;
mod lora;
mod matrix_rate;
mod model;
mod options;
mod prompts;
mod routing;
mod t5;

pub use device_facts::device_facts;
pub use error::{Mismatch, ModelError};
pub use fact::Fact;
pub use files::*;
pub use language_model::{
    BatchLoss, Capability, Distributions, Dropout, Insights, LanguageModel, Prompted, RowRouted,
    Sampling, SlotRouted, required,
};
pub use layout::{LORA_A, LORA_B, ParamGroup, ParamLayout, ParamSpec};
pub use load::{from_parts, load};
pub use lora::{LORA_TARGETS, LoraConfig, MAX_RANK};
pub use matrix_rate::{gpu_peak_memory, matrix_rate};
pub use options::{DeviceKind, DropoutOf, EngineKind, ModelOptions, Precision, Trainable};
pub use prompts::{MAX_PROMPT_ROWS, PromptConfig, PromptSelection, closest_keys, cosine};
pub use routing::{Router, Routing};
