//! The configuration of a T5: sizes and choices, checked before anything is allocated from them.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::fields::bad;
use super::json::shortest;
use crate::ModelError;

/// The part between the two linear maps of a T5 feed-forward layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FeedForward {
    /// `wo relu(wi x)`.
    #[serde(rename = "relu")]
    Relu,
    /// `wo (gelu(wi_0 x) * wi_1 x)` with the tanh form of GELU.
    #[serde(rename = "gated-gelu")]
    GatedGelu,
}

/// Sizes and choices of a T5; field names are Hugging Face's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct T5Config {
    /// Number of token ids, V.
    pub vocab_size: usize,
    /// Width D of the residual stream.
    pub d_model: usize,
    /// Width of one attention head.
    pub d_kv: usize,
    /// Inner width of the feed-forward layers.
    pub d_ff: usize,
    /// Attention heads, H.
    pub num_heads: usize,
    /// Layers of the encoder.
    pub num_layers: usize,
    /// Layers of the decoder.
    pub num_decoder_layers: usize,
    /// Buckets of the relative position bias; even.
    #[serde(default = "default_buckets")]
    pub relative_attention_num_buckets: usize,
    /// Distance in positions from which on all share the last bucket.
    #[serde(default = "default_max_distance")]
    pub relative_attention_max_distance: usize,
    /// Added to the mean square in every norm.
    #[serde(default = "default_epsilon")]
    pub layer_norm_epsilon: f32,
    /// The feed-forward layers' nonlinearity (`feed_forward_proj`).
    #[serde(rename = "feed_forward_proj")]
    pub feed_forward: FeedForward,
    /// Whether the head is the embedding.
    #[serde(default = "default_true")]
    pub tie_word_embeddings: bool,
    /// Whether logits are scaled by `d_model^-0.5`, where the file says so itself.
    #[serde(default)]
    pub scale_decoder_outputs: Option<bool>,
    /// Padding id.
    #[serde(default)]
    pub pad_token_id: u32,
    /// Id that ends a text.
    #[serde(default = "default_eos")]
    pub eos_token_id: u32,
    /// Id that the decoder starts from.
    #[serde(default)]
    pub decoder_start_token_id: u32,
    /// Factor on the standard deviations of [`random_weights`](crate::random_weights).
    #[serde(default = "default_factor")]
    pub initializer_factor: f32,
    /// Dropout of the base in other programs; kept for files, unused here, where only LoRA inputs
    /// are dropped.
    #[serde(default = "default_dropout")]
    pub dropout_rate: f32,
}

pub(super) fn default_buckets() -> usize {
    32
}
pub(super) fn default_max_distance() -> usize {
    128
}
pub(super) fn default_epsilon() -> f32 {
    1e-6
}
fn default_true() -> bool {
    true
}
pub(super) fn default_eos() -> u32 {
    1
}
pub(super) fn default_factor() -> f32 {
    1.0
}
pub(super) fn default_dropout() -> f32 {
    0.1
}

impl Default for T5Config {
    /// T5-small v1.0, which is Hugging Face's default, too.
    fn default() -> Self {
        Self {
            vocab_size: 32128,
            d_model: 512,
            d_kv: 64,
            d_ff: 2048,
            num_heads: 8,
            num_layers: 6,
            num_decoder_layers: 6,
            relative_attention_num_buckets: default_buckets(),
            relative_attention_max_distance: default_max_distance(),
            layer_norm_epsilon: default_epsilon(),
            feed_forward: FeedForward::Relu,
            tie_word_embeddings: default_true(),
            scale_decoder_outputs: None,
            pad_token_id: 0,
            eos_token_id: default_eos(),
            decoder_start_token_id: 0,
            initializer_factor: default_factor(),
            dropout_rate: default_dropout(),
        }
    }
}

impl T5Config {
    pub(super) fn to_json(&self, dtype: &str) -> Value {
        let mut fields = json!(self);
        let gated = self.feed_forward == FeedForward::GatedGelu;
        let more = json!({
            "architectures": ["T5ForConditionalGeneration"],
            "model_type": "t5",
            "is_encoder_decoder": true,
            "is_gated_act": gated,
            "dense_act_fn": if gated { "gelu_new" } else { "relu" },
            // Spelled out: readers differ in what they derive it from.
            "scale_decoder_outputs": self.scales_logits(),
            "torch_dtype": dtype,
            "use_cache": true,
        });
        if let (Value::Object(fields), Value::Object(more)) = (&mut fields, more) {
            fields.extend(more);
            // As f64, an f32 has digits that nobody wrote.
            let numbers = [
                ("layer_norm_epsilon", self.layer_norm_epsilon),
                ("dropout_rate", self.dropout_rate),
                ("initializer_factor", self.initializer_factor),
            ];
            fields.extend(numbers.map(|(field, value)| (field.to_owned(), shortest(value))));
        }
        fields
    }

    /// Width of all heads together.
    pub fn inner_dim(&self) -> usize {
        self.num_heads * self.d_kv
    }

    /// Whether logits are scaled by `d_model^-0.5`: as the file says, else iff the head is tied.
    pub fn scales_logits(&self) -> bool {
        self.scale_decoder_outputs
            .unwrap_or(self.tie_word_embeddings)
    }

    /// Checks all bounds. Sizes have generous upper limits, so that a broken file cannot ask for
    /// absurd memory.
    pub fn validate(&self, path: &Path) -> Result<(), ModelError> {
        let sizes = [
            ("vocab_size", self.vocab_size, 1 << 24),
            ("d_model", self.d_model, 1 << 16),
            ("d_kv", self.d_kv, 1 << 12),
            ("d_ff", self.d_ff, 1 << 20),
            ("num_heads", self.num_heads, 1 << 10),
            ("num_layers", self.num_layers, 1 << 10),
            ("num_decoder_layers", self.num_decoder_layers, 1 << 10),
            (
                "relative_attention_num_buckets",
                self.relative_attention_num_buckets,
                1 << 12,
            ),
            (
                "relative_attention_max_distance",
                self.relative_attention_max_distance,
                1 << 20,
            ),
        ];
        for (field, value, limit) in sizes {
            if !(1..=limit).contains(&value) {
                return Err(bad(path, field, format!("{value} is outside 1..={limit}")));
            }
        }
        let buckets = self.relative_attention_num_buckets;
        if buckets == 0 || !buckets.is_multiple_of(4) {
            return Err(bad(
                path,
                "relative_attention_num_buckets",
                format!("{buckets} is not a multiple of 4"),
            ));
        }
        if self.relative_attention_max_distance <= buckets / 2 {
            let problem = format!(
                "{} is not above {}",
                self.relative_attention_max_distance,
                buckets / 2
            );
            return Err(bad(path, "relative_attention_max_distance", problem));
        }
        let ids = [
            ("pad_token_id", self.pad_token_id),
            ("eos_token_id", self.eos_token_id),
            ("decoder_start_token_id", self.decoder_start_token_id),
        ];
        for (field, id) in ids {
            if id as usize >= self.vocab_size {
                return Err(bad(
                    path,
                    field,
                    format!("{id} is outside the vocabulary of {}", self.vocab_size),
                ));
            }
        }
        let numbers = [
            (
                "layer_norm_epsilon",
                self.layer_norm_epsilon,
                f32::MIN_POSITIVE..=1.0,
            ),
            ("initializer_factor", self.initializer_factor, 0.0..=1e6),
            ("dropout_rate", self.dropout_rate, 0.0..=1.0),
        ];
        for (field, value, bounds) in numbers {
            if !bounds.contains(&value) {
                return Err(bad(path, field, format!("{value} is outside {bounds:?}")));
            }
        }
        Ok(())
    }
}
