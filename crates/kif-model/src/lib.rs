//! Transformer language models with LoRA, on dfdx tensors and tape.
//!
//! The rest of the workspace sees a [`LanguageModel`]: P trainable parameters in one flat vector,
//! losses, gradients, generated ids. Inside, an architecture (`t5`, `decoder`) is written once over
//! a small set of operations (`engine`), and three engines carry them out: `fused` with our own CPU
//! kernels, `cuda` with our own GPU kernels, `stock` with dfdx's operations on any device. What
//! does not depend on the architecture is in `model`.
//!
//! ```
//! use kif_data::{Batch, Encoded};
//! use kif_model::{
//!     LoraConfig, ModelConfig, ModelOptions, T5Config, Trainable, from_parts, random_weights,
//! };
//!
//! let config = ModelConfig::T5(T5Config {
//!     vocab_size: 40,
//!     d_model: 12,
//!     d_kv: 4,
//!     d_ff: 20,
//!     num_heads: 3,
//!     num_layers: 1,
//!     num_decoder_layers: 1,
//!     ..T5Config::default()
//! });
//! let options = ModelOptions::cpu(Trainable::Adapter(LoraConfig::default()));
//! let mut model = from_parts(&config, random_weights(&config, 1), &options)?;
//!
//! let row = Encoded { input_ids: vec![3, 4, 5], target_ids: vec![7, 1], cut: false };
//! let mut gradient = vec![0.0; model.layout().n_params()];
//! let loss = model.loss_and_grad(&Batch::from_rows([&row]), 0.5, None, &mut gradient)?;
//! assert_eq!(loss.n_tokens, 2);
//! assert!(loss.nll > 0.0 && gradient.iter().any(|g| *g != 0.0));
//!
//! // What only some models can is asked for: this one has an adapter and no soft prompts.
//! assert!(model.distributions().is_some() && model.prompted().is_none());
//! # Ok::<(), kif_model::ModelError>(())
//! ```

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
pub use options::{DeviceKind, EngineKind, ModelOptions, Precision, Trainable};
pub use prompts::{MAX_PROMPT_ROWS, PromptConfig, PromptSelection, closest_keys, cosine};
pub use routing::{Router, Routing};
