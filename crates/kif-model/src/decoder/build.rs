//! A decoder-only model from named tensors.

use std::path::Path;

use super::{Decoder, Layer, angles};
use crate::engine::{Engine, Role};
use crate::files::{DecoderConfig, Rope, Weights, decoder_optional_tensors, decoder_tensors};
use crate::model::{Builder, Linear, Model, Sizes};
use crate::{ModelError, ModelOptions};

/// Modules that an adapter can sit on.
const TARGETS: [&str; 7] = [
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
];

impl<E: Engine> Decoder<E> {
    /// Prepares all weights for `engine`.
    pub(crate) fn build(
        engine: E,
        config: &DecoderConfig,
        weights: Weights,
        options: &ModelOptions,
    ) -> Result<Model<E, Self>, ModelError> {
        weights.expect(&decoder_tensors(config), &decoder_optional_tensors(config))?;
        let origin = weights.origin().to_owned();
        let family = config.family;
        let builder = Builder::new(engine, weights, options)?;
        let mut builder = builder.with_norm_offset(family.norm_offset());
        builder.check_targets(&TARGETS)?;
        let table = [config.vocab_size, config.hidden_size];
        let name = "model.embed_tokens.weight";
        if config.tie_word_embeddings && builder.differs("lm_head.weight", name)? {
            return Err(contradiction(&origin));
        }
        let prompts = builder.prompts(name, table)?;
        let role = if config.tie_word_embeddings {
            Role::TableAndHead
        } else {
            Role::Table
        };
        let embedding = builder.param("model.embed_tokens", table, role)?;
        let layers = (0..config.num_hidden_layers)
            .map(|i| layer(&mut builder, config, i))
            .collect::<Result<_, _>>()?;
        let final_norm = builder.norm("model.norm", config.hidden_size)?;
        let head = if config.tie_word_embeddings {
            None
        } else {
            Some(builder.param("lm_head", table, Role::Head)?)
        };
        let sizes = Sizes {
            vocab_size: config.vocab_size,
            width: config.hidden_size,
            epsilon: config.rms_norm_eps,
            embedding_scale: match family.scales_embeddings() {
                true => (config.hidden_size as f32).sqrt(),
                false => 1.0,
            },
            logit_scale: 1.0,
            end_ids: config.eos_token_id.clone(),
        };
        let network = Self {
            config: config.clone(),
            frequencies: angles::frequencies(config.rope, config.head_dim),
            window_frequencies: angles::frequencies(rope_of_windows(config), config.head_dim),
            layers,
            final_norm,
        };
        Ok(Model::new(
            builder.core(sizes, embedding, head, prompts)?,
            network,
        ))
    }
}

/// A tied head takes the embedding's place in other programs, whatever is stored: one of the two
/// statements is wrong.
fn contradiction(file: &Path) -> ModelError {
    let problem = "lm_head.weight is not model.embed_tokens.weight, as tie_word_embeddings says";
    ModelError::malformed(file, problem)
}

/// The rotary angles of layers that see only a window.
fn rope_of_windows(config: &DecoderConfig) -> Rope {
    match config.window.as_ref().and_then(|window| window.rope_theta) {
        Some(theta) => Rope {
            theta,
            scaling: None,
        },
        None => config.rope,
    }
}

fn layer<E: Engine>(
    builder: &mut Builder<'_, E>,
    config: &DecoderConfig,
    i: usize,
) -> Result<Layer<E>, ModelError> {
    let (width, inner, dim) = (
        config.hidden_size,
        config.intermediate_size,
        config.head_dim,
    );
    let heads = config.num_attention_heads * dim;
    let kv_heads = config.num_key_value_heads * dim;
    let module = |name: &str| format!("model.layers.{i}.{name}");
    let (attention, mlp) = (module("self_attn"), module("mlp"));
    type Make<'a, E> =
        fn(&mut Builder<'a, E>, &str, &str, usize, usize) -> Result<Linear<E>, ModelError>;
    let projection: Make<'_, E> = match config.family.has_biases() {
        true => Builder::linear_with_bias,
        false => Builder::linear,
    };
    let has_output_norms = config.family.has_output_norms();
    // Where blocks' outputs are normed, the name belongs to that of attention's.
    let feed_forward_norm = match has_output_norms {
        true => "pre_feedforward_layernorm",
        false => "post_attention_layernorm",
    };
    Ok(Layer {
        attention_norm: builder.norm(&module("input_layernorm"), width)?,
        q: projection(builder, &attention, "q_proj", heads, width)?,
        k: projection(builder, &attention, "k_proj", kv_heads, width)?,
        v: projection(builder, &attention, "v_proj", kv_heads, width)?,
        o: builder.linear(&attention, "o_proj", width, heads)?,
        head_norms: match config.family.has_head_norms() {
            true => Some([
                builder.norm(&format!("{attention}.q_norm"), dim)?,
                builder.norm(&format!("{attention}.k_norm"), dim)?,
            ]),
            false => None,
        },
        output_norms: match has_output_norms {
            true => Some([
                builder.norm(&module("post_attention_layernorm"), width)?,
                builder.norm(&module("post_feedforward_layernorm"), width)?,
            ]),
            false => None,
        },
        feed_forward_norm: builder.norm(&module(feed_forward_norm), width)?,
        gate: builder.linear(&mlp, "gate_proj", inner, width)?,
        up: builder.linear(&mlp, "up_proj", inner, width)?,
        down: builder.linear(&mlp, "down_proj", width, inner)?,
    })
}
