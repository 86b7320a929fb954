//! Models and adapters on disk: Hugging Face directories, PEFT directories, and writing that never leaves half a file.

mod config;
mod header;
mod json;
mod t5_names;
mod weights;

pub use config::{FeedForward, ModelConfig, T5Config};
pub use t5_names::{t5_optional_tensors, t5_tensors};
pub use weights::{INDEX_FILE, Tensor, WEIGHTS_FILE, Weights, model_files};
