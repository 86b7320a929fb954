//! A decoder-only model from named tensors.

use std::path::Path;

use super::{Decoder, Layer, angles};
use crate::engine::{Engine, Role};
use crate::files::{DecoderConfig, Family, Weights, decoder_optional_tensors, decoder_tensors};
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
        let mut builder = Builder::new(engine, weights, options)?;
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
            logit_scale: 1.0,
            end_ids: config.eos_token_id.clone(),
        };
        let network = Self {
            config: config.clone(),
            frequencies: angles::frequencies(config.rope, config.head_dim),
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
    let projection: Make<'_, E> = match config.family {
        Family::Qwen2 => Builder::linear_with_bias,
        Family::Llama | Family::Qwen3 => Builder::linear,
    };
    Ok(Layer {
        attention_norm: builder.norm(&module("input_layernorm"), width)?,
        q: projection(builder, &attention, "q_proj", heads, width)?,
        k: projection(builder, &attention, "k_proj", kv_heads, width)?,
        v: projection(builder, &attention, "v_proj", kv_heads, width)?,
        o: builder.linear(&attention, "o_proj", width, heads)?,
        head_norms: match config.family {
            Family::Qwen3 => Some([
                builder.norm(&format!("{attention}.q_norm"), dim)?,
                builder.norm(&format!("{attention}.k_norm"), dim)?,
            ]),
            Family::Llama | Family::Qwen2 => None,
        },
        feed_forward_norm: builder.norm(&module("post_attention_layernorm"), width)?,
        gate: builder.linear(&mlp, "gate_proj", inner, width)?,
        up: builder.linear(&mlp, "up_proj", inner, width)?,
        down: builder.linear(&mlp, "down_proj", width, inner)?,
    })
}
