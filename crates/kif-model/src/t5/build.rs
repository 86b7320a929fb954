//! A T5 from named tensors.

use super::{AttentionLayer, Block, FeedForward, Stack, T5};
use crate::engine::{Engine, Role};
use crate::files::{
    FeedForward as FeedForwardKind, T5Config, Weights, t5_optional_tensors, t5_tensors,
};
use crate::model::{Builder, Model, Param, Sizes};
use crate::{ModelError, ModelOptions};

impl<E: Engine> T5<E> {
    /// Prepares all weights for `engine`.
    pub(crate) fn build(
        engine: E,
        config: &T5Config,
        weights: Weights,
        options: &ModelOptions,
    ) -> Result<Model<E, Self>, ModelError> {
        weights.expect(&t5_tensors(config), &t5_optional_tensors(config))?;
        let mut builder = Builder::new(engine, weights, options)?;
        let table = [config.vocab_size, config.d_model];
        let shared = "shared.weight";
        let own = "encoder.embed_tokens.weight";
        let texts = if builder.differs(own, shared)? {
            own
        } else {
            shared
        };
        let prompts = builder.prompts(texts, table)?;
        // Untied, or stored and different from the embedding.
        let has_own_head =
            !config.tie_word_embeddings || builder.differs("lm_head.weight", shared)?;
        let encoder_embedding = own_embedding(&mut builder, config, "encoder")?;
        let decoder_embedding = own_embedding(&mut builder, config, "decoder")?;
        let shared_role = if has_own_head {
            Role::Table
        } else {
            Role::TableAndHead
        };
        let embedding = builder.param("shared", table, shared_role)?;
        let encoder = stack(&mut builder, config, "encoder", encoder_embedding)?;
        let decoder = stack(&mut builder, config, "decoder", decoder_embedding)?;
        let head = if has_own_head {
            Some(builder.param("lm_head", table, Role::Head)?)
        } else {
            None
        };
        builder.check_targets(targets(config))?;
        let logit_scale = if config.scales_logits() {
            (config.d_model as f32).powf(-0.5)
        } else {
            1.0
        };
        let sizes = Sizes {
            vocab_size: config.vocab_size,
            width: config.d_model,
            epsilon: config.layer_norm_epsilon,
            embedding_scale: 1.0,
            logit_scale,
            end_ids: vec![config.eos_token_id],
        };
        let network = Self {
            config: config.clone(),
            encoder,
            decoder,
        };
        Ok(Model::new(
            builder.core(sizes, embedding, head, prompts)?,
            network,
        ))
    }
}

/// Modules that an adapter can sit on.
fn targets(config: &T5Config) -> &'static [&'static str] {
    match config.feed_forward {
        FeedForwardKind::Relu => &["q", "k", "v", "o", "wo", "wi"],
        FeedForwardKind::GatedGelu => &["q", "k", "v", "o", "wo", "wi_0", "wi_1"],
    }
}

/// The embedding of one stack, where it is stored and not the shared one.
fn own_embedding<E: Engine>(
    builder: &mut Builder<'_, E>,
    config: &T5Config,
    stack: &str,
) -> Result<Option<Param<E>>, ModelError> {
    let module = format!("{stack}.embed_tokens");
    if !builder.differs(&format!("{module}.weight"), "shared.weight")? {
        return Ok(None);
    }
    let table = [config.vocab_size, config.d_model];
    Ok(Some(builder.param(&module, table, Role::Table)?))
}

fn attention<E: Engine>(
    builder: &mut Builder<'_, E>,
    config: &T5Config,
    layer: &str,
    kind: &str,
) -> Result<AttentionLayer<E>, ModelError> {
    let (inner, width) = (config.inner_dim(), config.d_model);
    let module = format!("{layer}.{kind}");
    Ok(AttentionLayer {
        norm: builder.norm(&format!("{layer}.layer_norm"), width)?,
        q: builder.linear(&module, "q", inner, width)?,
        k: builder.linear(&module, "k", inner, width)?,
        v: builder.linear(&module, "v", inner, width)?,
        o: builder.linear(&module, "o", width, inner)?,
    })
}

fn feed_forward<E: Engine>(
    builder: &mut Builder<'_, E>,
    config: &T5Config,
    layer: &str,
) -> Result<FeedForward<E>, ModelError> {
    let (inner, width) = (config.d_ff, config.d_model);
    let module = format!("{layer}.DenseReluDense");
    let norm = builder.norm(&format!("{layer}.layer_norm"), width)?;
    let (wi, up) = match config.feed_forward {
        FeedForwardKind::Relu => (builder.linear(&module, "wi", inner, width)?, None),
        FeedForwardKind::GatedGelu => (
            builder.linear(&module, "wi_0", inner, width)?,
            Some(builder.linear(&module, "wi_1", inner, width)?),
        ),
    };
    Ok(FeedForward {
        norm,
        wi,
        up,
        wo: builder.linear(&module, "wo", width, inner)?,
    })
}

fn stack<E: Engine>(
    builder: &mut Builder<'_, E>,
    config: &T5Config,
    stack: &str,
    embedding: Option<Param<E>>,
) -> Result<Stack<E>, ModelError> {
    let is_decoder = stack == "decoder";
    let n_layers = if is_decoder {
        config.num_decoder_layers
    } else {
        config.num_layers
    };
    let position_bias = builder.param(
        &format!("{stack}.block.0.layer.0.SelfAttention.relative_attention_bias"),
        [config.relative_attention_num_buckets, config.num_heads],
        Role::Elements,
    )?;
    let mut blocks = Vec::with_capacity(n_layers);
    for i in 0..n_layers {
        let layer = |n: usize| format!("{stack}.block.{i}.layer.{n}");
        let own = attention(builder, config, &layer(0), "SelfAttention")?;
        let cross = if is_decoder {
            Some(attention(builder, config, &layer(1), "EncDecAttention")?)
        } else {
            None
        };
        let last = layer(if is_decoder { 2 } else { 1 });
        blocks.push(Block {
            attention: own,
            cross,
            feed_forward: feed_forward(builder, config, &last)?,
        });
    }
    let final_norm = builder.norm(&format!("{stack}.final_layer_norm"), config.d_model)?;
    Ok(Stack {
        embedding,
        position_bias,
        blocks,
        final_norm,
    })
}
