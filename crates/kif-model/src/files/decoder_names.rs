//! The tensors of a decoder-only model, as Hugging Face names them.

use super::decoder_config::DecoderConfig;

/// Name and shape of every tensor that a decoder-only model must have. Linear weights are
/// `[out, in]`, embedding and head `[V, D]`; `lm_head.weight` is among them iff the configuration
/// says that the head is not tied.
pub fn decoder_tensors(config: &DecoderConfig) -> Vec<(String, Vec<usize>)> {
    let DecoderConfig {
        family,
        vocab_size,
        hidden_size: width,
        intermediate_size: inner,
        head_dim,
        ..
    } = *config;
    let heads = config.num_attention_heads * head_dim;
    let kv_heads = config.num_key_value_heads * head_dim;
    let mut tensors = vec![(
        "model.embed_tokens.weight".to_owned(),
        vec![vocab_size, width],
    )];
    for layer in 0..config.num_hidden_layers {
        let mut push = |name: &str, shape: &[usize]| {
            tensors.push((format!("model.layers.{layer}.{name}"), shape.to_vec()));
        };
        push("input_layernorm.weight", &[width]);
        for (name, n_out) in [("q", heads), ("k", kv_heads), ("v", kv_heads)] {
            push(&format!("self_attn.{name}_proj.weight"), &[n_out, width]);
            if family.has_biases() {
                push(&format!("self_attn.{name}_proj.bias"), &[n_out]);
            }
        }
        push("self_attn.o_proj.weight", &[width, heads]);
        if family.has_head_norms() {
            push("self_attn.q_norm.weight", &[head_dim]);
            push("self_attn.k_norm.weight", &[head_dim]);
        }
        push("post_attention_layernorm.weight", &[width]);
        if family.has_output_norms() {
            push("pre_feedforward_layernorm.weight", &[width]);
            push("post_feedforward_layernorm.weight", &[width]);
        }
        push("mlp.gate_proj.weight", &[inner, width]);
        push("mlp.up_proj.weight", &[inner, width]);
        push("mlp.down_proj.weight", &[width, inner]);
    }
    tensors.push(("model.norm.weight".to_owned(), vec![width]));
    if !config.tie_word_embeddings {
        tensors.push(("lm_head.weight".to_owned(), vec![vocab_size, width]));
    }
    tensors
}

/// Name and shape of tensors that the file may have besides [`decoder_tensors`]: a copy of the
/// embedding as head, and the frequencies that old files carry and no implementation reads.
pub fn decoder_optional_tensors(config: &DecoderConfig) -> Vec<(String, Vec<usize>)> {
    let frequencies = |layer| {
        let name = format!("model.layers.{layer}.self_attn.rotary_emb.inv_freq");
        (name, vec![config.head_dim / 2])
    };
    let mut tensors: Vec<_> = (0..config.num_hidden_layers).map(frequencies).collect();
    if config.tie_word_embeddings {
        let shape = vec![config.vocab_size, config.hidden_size];
        tensors.push(("lm_head.weight".to_owned(), shape));
    }
    tensors
}
