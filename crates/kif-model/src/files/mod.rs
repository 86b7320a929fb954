//! Models and adapters on disk: Hugging Face directories, GGUF files, PEFT directories, and writing
//! that never leaves half a file.

mod atomic;
mod json;

mod gguf;
mod header;
mod shards;
mod stored;
mod values;
mod weights;

mod config;
mod config_read;
mod decoder_config;
mod decoder_names;
mod decoder_read;
mod family;
mod fields;
mod t5_config;
mod t5_names;

mod adapter;
mod adapter_config;
mod merge;
mod params;
mod prompts;
mod routed;

mod export;
mod import;
mod init;
mod save;
mod texts;

pub use adapter::{ADAPTER_CONFIG_FILE, ADAPTER_FILE, Adapter, PEFT_PREFIX};
pub use config::ModelConfig;
pub use decoder_config::{DecoderConfig, Llama3Scaling, Rope, Window};
pub use decoder_names::{decoder_optional_tensors, decoder_tensors};
pub use export::write_model;
pub use family::Family;
pub use gguf::is_gguf;
pub use import::{Imported, import_gguf};
pub use init::random_weights;
pub use merge::merge;
pub use params::{PROMPTS_CONFIG_FILE, ROUTING_CONFIG_FILE};
pub use prompts::{PROMPTS_FILE, StoredPrompts};
pub use routed::{ROUTED_ADAPTERS, ROUTING_FILE, StoredRouted};
pub use save::{Dtype, safetensors_header};
pub use shards::{INDEX_FILE, model_files};
pub use t5_config::{FeedForward, T5Config};
pub use t5_names::{t5_optional_tensors, t5_tensors};
pub use texts::model_text;
pub(crate) use values::Values;
pub use weights::{Tensor, WEIGHTS_FILE, Weights};
