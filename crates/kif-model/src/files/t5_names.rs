//! The tensors of a T5, as Hugging Face names them.

use super::t5_config::{FeedForward, T5Config};

/// Name and shape of every tensor that a T5 must have.
///
/// Linear weights are `[out, in]`, the relative bias is `[buckets, H]`, embeddings are `[V, D]`.
/// `lm_head.weight` is among them iff the configuration says that the head is not tied.
pub fn t5_tensors(config: &T5Config) -> Vec<(String, Vec<usize>)> {
    let mut list = List {
        config,
        tensors: Vec::new(),
    };
    list.push("shared", &[config.vocab_size, config.d_model]);
    for stack in ["encoder", "decoder"] {
        let n_layers = if stack == "encoder" {
            config.num_layers
        } else {
            config.num_decoder_layers
        };
        for layer in 0..n_layers {
            let block = format!("{stack}.block.{layer}.layer");
            list.attention(&format!("{block}.0"), "SelfAttention");
            if layer == 0 {
                let bias = [config.relative_attention_num_buckets, config.num_heads];
                list.push(
                    &format!("{block}.0.SelfAttention.relative_attention_bias"),
                    &bias,
                );
            }
            if stack == "decoder" {
                list.attention(&format!("{block}.1"), "EncDecAttention");
            }
            list.feed_forward(&format!(
                "{block}.{}",
                if stack == "encoder" { 1 } else { 2 }
            ));
        }
        list.push(&format!("{stack}.final_layer_norm"), &[config.d_model]);
    }
    if !config.tie_word_embeddings {
        list.push("lm_head", &[config.vocab_size, config.d_model]);
    }
    list.tensors
}

/// Name and shape of tensors that a T5 file may have besides [`t5_tensors`].
///
/// `encoder.embed_tokens.weight`, `decoder.embed_tokens.weight` and `lm_head.weight` stand for
/// `shared.weight` in their place where they are stored; in published files the first two are
/// copies of it. The relative bias of the first cross-attention is a remnant in old files that no
/// implementation reads.
pub fn t5_optional_tensors(config: &T5Config) -> Vec<(String, Vec<usize>)> {
    let mut list = List {
        config,
        tensors: Vec::new(),
    };
    let embedding = [config.vocab_size, config.d_model];
    list.push("encoder.embed_tokens", &embedding);
    list.push("decoder.embed_tokens", &embedding);
    if config.tie_word_embeddings {
        list.push("lm_head", &embedding);
    }
    let bias = [config.relative_attention_num_buckets, config.num_heads];
    list.push(
        "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias",
        &bias,
    );
    list.tensors
}

struct List<'a> {
    config: &'a T5Config,
    tensors: Vec<(String, Vec<usize>)>,
}

impl List<'_> {
    fn push(&mut self, module: &str, shape: &[usize]) {
        self.tensors
            .push((format!("{module}.weight"), shape.to_vec()));
    }

    fn attention(&mut self, layer: &str, kind: &str) {
        let (inner, width) = (self.config.inner_dim(), self.config.d_model);
        for projection in ["q", "k", "v"] {
            self.push(&format!("{layer}.{kind}.{projection}"), &[inner, width]);
        }
        self.push(&format!("{layer}.{kind}.o"), &[width, inner]);
        self.push(&format!("{layer}.layer_norm"), &[width]);
    }

    fn feed_forward(&mut self, layer: &str) {
        let (inner, width) = (self.config.d_ff, self.config.d_model);
        let inputs: &[&str] = match self.config.feed_forward {
            FeedForward::Relu => &["wi"],
            FeedForward::GatedGelu => &["wi_0", "wi_1"],
        };
        for input in inputs {
            self.push(&format!("{layer}.DenseReluDense.{input}"), &[inner, width]);
        }
        self.push(&format!("{layer}.DenseReluDense.wo"), &[width, inner]);
        self.push(&format!("{layer}.layer_norm"), &[width]);
    }
}
