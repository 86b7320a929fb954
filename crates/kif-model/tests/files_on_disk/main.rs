//! Models and adapters on disk: against files that Python made, against broken and hostile files,
//! and against themselves.

mod adapter;
mod base;
mod decoder;
mod gguf;
mod gguf_file;
mod gguf_hostile;
mod golden;
mod hostile;
#[path = "../common/numbers.rs"]
mod numbers;
mod peft;
mod prompts;
mod properties;

use std::path::Path;

use kif_model::{Adapter, FeedForward, ModelConfig, ParamLayout, T5Config};
use numbers::{decoders, golden};
use serde_json::Value;

/// The layout that a model of q and v adapters has, from the adapter's own shapes.
fn layout_of(adapter: &Adapter) -> ParamLayout {
    let mut layout = ParamLayout::default();
    for (name, tensor) in &adapter.tensors {
        layout.push(name.clone(), tensor.shape.clone());
    }
    layout
}

/// A T5 of a few thousand weights.
fn tiny_config(gated: bool) -> T5Config {
    T5Config {
        vocab_size: 24,
        d_model: 8,
        d_kv: 4,
        d_ff: 12,
        num_heads: 2,
        num_layers: 1,
        num_decoder_layers: 2,
        relative_attention_num_buckets: 8,
        relative_attention_max_distance: 16,
        layer_norm_epsilon: 1e-6,
        feed_forward: if gated {
            FeedForward::GatedGelu
        } else {
            FeedForward::Relu
        },
        tie_word_embeddings: !gated,
        scale_decoder_outputs: None,
        pad_token_id: 0,
        eos_token_id: 1,
        decoder_start_token_id: 0,
        initializer_factor: 1.0,
        dropout_rate: 0.1,
    }
}

fn tiny(gated: bool) -> ModelConfig {
    ModelConfig::T5(tiny_config(gated))
}

/// The configuration of a T5.
fn t5(config: ModelConfig) -> T5Config {
    match config {
        ModelConfig::T5(config) => config,
        other => panic!("{other:?} is no T5"),
    }
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A safetensors file of this header, with `n_bytes` zero bytes of values.
fn write_raw(path: &Path, header: &str, n_bytes: usize) {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(bytes.len() + n_bytes, 0);
    std::fs::write(path, bytes).unwrap();
}

/// Names in a folder, sorted.
fn entries(dir: &Path) -> Vec<String> {
    let names = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}
