//! The configuration of a decoder-only model.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::family::{Family, LAYER_TYPES};
use super::fields::bad;
use super::json::shortest;
use crate::ModelError;

/// Rotary position embedding.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rope {
    /// Base of the angles: pair i of a head of `dim` turns by `position / theta^(2 i / dim)`.
    pub theta: f32,
    /// How slow pairs are slowed down further, for texts longer than those of pretraining.
    pub scaling: Option<Llama3Scaling>,
}

/// Rope type `llama3`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Llama3Scaling {
    /// Divisor of the frequencies whose waves are longer than `original / low_freq_factor`.
    pub factor: f32,
    /// See `factor`.
    pub low_freq_factor: f32,
    /// Waves shorter than `original / high_freq_factor` stay; between the two bounds lies a smooth
    /// passage.
    pub high_freq_factor: f32,
    /// Positions that the base was trained on first.
    pub original_max_position_embeddings: usize,
}

/// Layers that see only the newest tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// Tokens that a query sees at most, itself among them. At least 1.
    pub length: usize,
    /// Base of these layers' rotary angles, which are not scaled; that of all others without a
    /// number.
    pub rope_theta: Option<f32>,
    /// Which layers they are, `[num_hidden_layers]`.
    pub layers: Vec<bool>,
}

/// Sizes and choices of a decoder-only model; field names are Hugging Face's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecoderConfig {
    /// Which architecture (`model_type`).
    pub family: Family,
    /// Number of token ids, V.
    pub vocab_size: usize,
    /// Width D of the residual stream.
    pub hidden_size: usize,
    /// Inner width of the feed-forward layers.
    pub intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Heads of queries, H.
    pub num_attention_heads: usize,
    /// Heads of keys and values; a divisor of H.
    pub num_key_value_heads: usize,
    /// Width of one head; even.
    pub head_dim: usize,
    /// Positions that the base was trained for; kept for files, longer texts are not refused.
    pub max_position_embeddings: usize,
    /// Added to the mean square in every norm.
    pub rms_norm_eps: f32,
    /// Position embedding.
    pub rope: Rope,
    /// Layers that see only a window, in families that have them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
    /// Attention scores are divided by its square root; by that of `head_dim` without a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_pre_attn_scalar: Option<usize>,
    /// Whether the head is the embedding.
    pub tie_word_embeddings: bool,
    /// Id that begins a text, where there is one; kept for files.
    pub bos_token_id: Option<u32>,
    /// Ids that end a text, those of `generation_config.json` if it has some. At least one.
    pub eos_token_id: Vec<u32>,
    /// Standard deviation of [`random_weights`](crate::random_weights).
    pub initializer_range: f32,
}

impl DecoderConfig {
    /// Checks all bounds. Sizes have generous upper limits, so that a broken file cannot ask for
    /// absurd memory.
    pub fn validate(&self, path: &Path) -> Result<(), ModelError> {
        let sizes = [
            ("vocab_size", self.vocab_size, 1 << 24),
            ("hidden_size", self.hidden_size, 1 << 16),
            ("intermediate_size", self.intermediate_size, 1 << 20),
            ("num_hidden_layers", self.num_hidden_layers, 1 << 10),
            ("num_attention_heads", self.num_attention_heads, 1 << 10),
            ("num_key_value_heads", self.num_key_value_heads, 1 << 10),
            ("head_dim", self.head_dim, 1 << 12),
            (
                "max_position_embeddings",
                self.max_position_embeddings,
                1 << 30,
            ),
        ];
        let more = [
            self.window
                .as_ref()
                .map(|w| ("sliding_window", w.length, 1 << 30)),
            self.query_pre_attn_scalar
                .map(|n| ("query_pre_attn_scalar", n, 1 << 20)),
        ];
        for (field, value, limit) in sizes.into_iter().chain(more.into_iter().flatten()) {
            if !(1..=limit).contains(&value) {
                return Err(bad(path, field, format!("{value} is outside 1..={limit}")));
            }
        }
        self.validate_window(path)?;
        let (heads, shared) = (self.num_attention_heads, self.num_key_value_heads);
        if !heads.is_multiple_of(shared) {
            let problem = format!("{shared} is no divisor of {heads} attention heads");
            return Err(bad(path, "num_key_value_heads", problem));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(bad(
                path,
                "head_dim",
                format!("{} is not even", self.head_dim),
            ));
        }
        self.validate_ids(path)?;
        let Rope { theta, scaling } = self.rope;
        let mut numbers = vec![
            ("rms_norm_eps", self.rms_norm_eps, f32::MIN_POSITIVE..=1.0),
            ("initializer_range", self.initializer_range, 0.0..=1e6),
            ("rope_theta", theta, 1.0..=1e12),
        ];
        if let Some(scaling) = scaling {
            let low = scaling.low_freq_factor;
            numbers.extend([
                ("factor", scaling.factor, 1.0..=1e6),
                ("low_freq_factor", low, f32::MIN_POSITIVE..=1e6),
                (
                    "high_freq_factor",
                    scaling.high_freq_factor,
                    low.next_up()..=1e6,
                ),
            ]);
            if scaling.original_max_position_embeddings == 0 {
                let problem = "0 is not at least 1".to_owned();
                return Err(bad(path, "original_max_position_embeddings", problem));
            }
        }
        if let Some(theta) = self.window.as_ref().and_then(|window| window.rope_theta) {
            numbers.push(("rope_local_base_freq", theta, 1.0..=1e12));
        }
        for (field, value, bounds) in numbers {
            if !bounds.contains(&value) {
                return Err(bad(path, field, format!("{value} is outside {bounds:?}")));
            }
        }
        Ok(())
    }

    fn validate_ids(&self, path: &Path) -> Result<(), ModelError> {
        if self.eos_token_id.is_empty() {
            let problem = "is missing, expected at least one token id".to_owned();
            return Err(bad(path, "eos_token_id", problem));
        }
        let ids = self.eos_token_id.iter().map(|id| ("eos_token_id", *id));
        for (field, id) in ids.chain(self.bos_token_id.map(|id| ("bos_token_id", id))) {
            if id as usize >= self.vocab_size {
                let problem = format!("{id} is outside the vocabulary of {}", self.vocab_size);
                return Err(bad(path, field, problem));
            }
        }
        Ok(())
    }

    /// A window is one that a file of the family can tell of.
    fn validate_window(&self, path: &Path) -> Result<(), ModelError> {
        let Some(window) = &self.window else {
            return Ok(());
        };
        let (n, expected) = (window.layers.len(), self.num_hidden_layers);
        let problem = if !self.family.has_windows() {
            format!("{} has no window", self.family.model_type())
        } else if n != expected {
            format!("{n} entries for {expected} layers")
        } else if self.family == Family::Mistral
            && (window.layers.contains(&false) || window.rope_theta.is_some())
        {
            "all layers of a Mistral have the same window and angles".to_owned()
        } else {
            return Ok(());
        };
        Err(bad(path, "layer_types", problem))
    }

    /// The text of a `config.json` with the keys that transformers reads, older releases and newer
    /// ones.
    pub(super) fn to_json(&self, dtype: &str) -> Value {
        let Rope { theta, scaling } = self.rope;
        let scaling = scaling.map(|scaling| {
            json!({
                "rope_type": "llama3",
                "factor": shortest(scaling.factor),
                "low_freq_factor": shortest(scaling.low_freq_factor),
                "high_freq_factor": shortest(scaling.high_freq_factor),
                "original_max_position_embeddings": scaling.original_max_position_embeddings,
            })
        });
        let mut rope = scaling
            .clone()
            .unwrap_or_else(|| json!({"rope_type": "default"}));
        rope["rope_theta"] = shortest(theta);
        let ends = match self.eos_token_id.as_slice() {
            [one] => json!(one),
            several => json!(several),
        };
        let (activation_field, activation) = self.family.activation();
        let mut fields = json!({
            "architectures": [self.family.architecture()],
            "model_type": self.family.model_type(),
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "max_position_embeddings": self.max_position_embeddings,
            activation_field: activation,
            "rms_norm_eps": shortest(self.rms_norm_eps),
            "rope_theta": shortest(theta),
            "rope_scaling": scaling,
            "rope_parameters": rope,
            "tie_word_embeddings": self.tie_word_embeddings,
            "attention_bias": self.family.has_biases(),
            "bos_token_id": self.bos_token_id,
            "eos_token_id": ends,
            "initializer_range": shortest(self.initializer_range),
            "torch_dtype": dtype,
            "use_cache": true,
        });
        self.add_windows(&mut fields);
        fields
    }

    /// What files of families with windows have besides.
    fn add_windows(&self, fields: &mut Value) {
        let window = self.window.as_ref();
        if self.family.has_windows() {
            // Without a number transformers takes one of its own.
            fields["sliding_window"] = json!(window.map(|window| window.length));
        }
        if self.family != Family::Gemma3 {
            return;
        }
        let is_local = |layer| window.is_some_and(|window| window.layers[layer]);
        let types = (0..self.num_hidden_layers).map(|i| LAYER_TYPES[usize::from(is_local(i))]);
        fields["layer_types"] = types.collect();
        let local = window.and_then(|window| window.rope_theta);
        let local = shortest(local.unwrap_or(self.rope.theta));
        let full = fields["rope_parameters"].take();
        fields["rope_local_base_freq"] = local.clone();
        fields["rope_parameters"] = json!({
            LAYER_TYPES[0]: full,
            LAYER_TYPES[1]: {"rope_type": "default", "rope_theta": local},
        });
        fields["query_pre_attn_scalar"] =
            json!(self.query_pre_attn_scalar.unwrap_or(self.head_dim));
    }
}
