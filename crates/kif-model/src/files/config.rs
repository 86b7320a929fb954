//! A model's `config.json`: sizes and choices, checked before anything is allocated from them.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::json::{parse_object, read_limited, short, shortest};
use crate::ModelError;

/// Largest `config.json` that is read.
const MAX_BYTES: u64 = 1 << 20;

/// The configuration of a model that can be built.
#[derive(Clone, Debug, PartialEq)]
pub enum ModelConfig {
    /// Encoder-decoder with relative position biases (T5, T5 v1.1, flan-T5).
    T5(T5Config),
}

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
    /// Dropout of the base in other programs; kept for files, unused here, where only LoRA inputs are dropped.
    #[serde(default = "default_dropout")]
    pub dropout_rate: f32,
}

fn default_buckets() -> usize {
    32
}
fn default_max_distance() -> usize {
    128
}
fn default_epsilon() -> f32 {
    1e-6
}
fn default_true() -> bool {
    true
}
fn default_eos() -> u32 {
    1
}
fn default_factor() -> f32 {
    1.0
}
fn default_dropout() -> f32 {
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

impl ModelConfig {
    /// Reads `config.json` of a model directory. Other model types and options that change a model's output in ways
    /// that are not implemented are refused by name.
    pub fn read(dir: &Path) -> Result<Self, ModelError> {
        let path = dir.join("config.json");
        let bytes = read_limited(&path, MAX_BYTES)?;
        Self::parse(&path, &bytes)
    }

    /// Parses the text of a `config.json`; `path` is for messages.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, ModelError> {
        let fields = Fields {
            path,
            values: parse_object::<Value>(path, bytes)?.into_iter().collect(),
        };
        fields.check_family()?;
        Ok(ModelConfig::T5(fields.t5()?))
    }

    /// The text of a `config.json` with the keys that transformers reads; `dtype` is that of the weights beside it.
    pub fn to_json(&self, dtype: &str) -> String {
        let ModelConfig::T5(config) = self;
        let mut fields = json!(config);
        let gated = config.feed_forward == FeedForward::GatedGelu;
        let more = json!({
            "architectures": ["T5ForConditionalGeneration"],
            "model_type": "t5",
            "is_encoder_decoder": true,
            "is_gated_act": gated,
            "dense_act_fn": if gated { "gelu_new" } else { "relu" },
            // Spelled out: readers differ in what they derive it from.
            "scale_decoder_outputs": config.scales_logits(),
            "torch_dtype": dtype,
            "use_cache": true,
        });
        if let (Value::Object(fields), Value::Object(more)) = (&mut fields, more) {
            fields.extend(more);
            // As f64, an f32 has digits that nobody wrote.
            let numbers = [
                ("layer_norm_epsilon", config.layer_norm_epsilon),
                ("dropout_rate", config.dropout_rate),
                ("initializer_factor", config.initializer_factor),
            ];
            fields.extend(numbers.map(|(field, value)| (field.to_owned(), shortest(value))));
        }
        format!("{fields:#}\n")
    }

    /// Number of token ids, V.
    pub fn vocab_size(&self) -> usize {
        let ModelConfig::T5(config) = self;
        config.vocab_size
    }
}

impl T5Config {
    /// Width of all heads together.
    pub fn inner_dim(&self) -> usize {
        self.num_heads * self.d_kv
    }

    /// Whether logits are scaled by `d_model^-0.5`: as the file says, else iff the head is tied.
    pub fn scales_logits(&self) -> bool {
        self.scale_decoder_outputs
            .unwrap_or(self.tie_word_embeddings)
    }

    /// Checks all bounds. Sizes have generous upper limits, so that a broken file cannot ask for absurd memory.
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

fn bad(path: &Path, field: &str, problem: String) -> ModelError {
    ModelError::Config {
        file: path.to_owned(),
        field: field.to_owned(),
        problem,
    }
}

/// Field-by-field reading, so that every error names its field. JSON null counts as absent, as in transformers.
struct Fields<'a> {
    path: &'a Path,
    values: Map<String, Value>,
}

impl Fields<'_> {
    fn get(&self, field: &str) -> Option<&Value> {
        self.values.get(field).filter(|value| !value.is_null())
    }

    fn bad(&self, field: &str, problem: String) -> ModelError {
        bad(self.path, field, problem)
    }

    fn parse<T: serde::de::DeserializeOwned>(
        &self,
        field: &str,
        expected: &str,
    ) -> Result<Option<T>, ModelError> {
        let Some(value) = self.get(field) else {
            return Ok(None);
        };
        let parsed = serde_json::from_value(value.clone());
        parsed
            .map(Some)
            .map_err(|_| self.bad(field, format!("{} is not {expected}", short(value))))
    }

    fn size(&self, field: &str) -> Result<usize, ModelError> {
        let size = self.parse(field, "a whole number")?;
        size.ok_or_else(|| self.bad(field, "is missing, expected a whole number".to_owned()))
    }

    fn size_or(&self, field: &str, default: usize) -> Result<usize, ModelError> {
        Ok(self.parse(field, "a whole number")?.unwrap_or(default))
    }

    fn id_or(&self, field: &str, default: u32) -> Result<u32, ModelError> {
        Ok(self.parse(field, "one token id")?.unwrap_or(default))
    }

    fn number_or(&self, field: &str, default: f32) -> Result<f32, ModelError> {
        Ok(self.parse(field, "a number")?.unwrap_or(default))
    }

    fn check_family(&self) -> Result<(), ModelError> {
        match self.parse::<String>("model_type", "a string")? {
            None => return Err(self.bad("model_type", "is missing, expected \"t5\"".to_owned())),
            Some(family) if family != "t5" => {
                return Err(self.bad(
                    "model_type",
                    format!("{family:?} is not supported, expected \"t5\""),
                ));
            }
            Some(_) => {}
        }
        let names = self
            .parse::<Vec<String>>("architectures", "a list of names")?
            .unwrap_or_default();
        let known = |name: &String| {
            matches!(
                name.as_str(),
                "T5ForConditionalGeneration" | "T5WithLMHeadModel"
            )
        };
        if !names.is_empty() && !names.iter().any(known) {
            let problem =
                format!("{names:?} is not supported, expected \"T5ForConditionalGeneration\"");
            return Err(self.bad("architectures", problem));
        }
        if let Some(value) = self.get("quantization_config") {
            return Err(self.bad(
                "quantization_config",
                format!("{} is not supported", short(value)),
            ));
        }
        Ok(())
    }

    fn feed_forward(&self) -> Result<FeedForward, ModelError> {
        let field = "feed_forward_proj";
        let name: String = self
            .parse(field, "a string")?
            .unwrap_or_else(|| "relu".to_owned());
        let (feed_forward, activation) = match name.as_str() {
            "relu" => (FeedForward::Relu, "relu"),
            "gated-gelu" => (FeedForward::GatedGelu, "gelu_new"),
            _ => {
                let problem =
                    format!("{name:?} is not supported, expected \"relu\" or \"gated-gelu\"");
                return Err(self.bad(field, problem));
            }
        };
        // Files may also spell out what transformers derives; a contradiction would change the model.
        if let Some(stated) = self.parse::<String>("dense_act_fn", "a string")?
            && stated != activation
        {
            return Err(self.bad(
                "dense_act_fn",
                format!("{stated:?} with {field} {name:?} is not supported"),
            ));
        }
        if let Some(stated) = self.parse::<bool>("is_gated_act", "true or false")?
            && stated != (feed_forward == FeedForward::GatedGelu)
        {
            return Err(self.bad(
                "is_gated_act",
                format!("{stated} contradicts {field} {name:?}"),
            ));
        }
        Ok(feed_forward)
    }

    fn t5(&self) -> Result<T5Config, ModelError> {
        let num_layers = self.size("num_layers")?;
        let pad_token_id = self.id_or("pad_token_id", 0)?;
        let config = T5Config {
            vocab_size: self.size("vocab_size")?,
            d_model: self.size("d_model")?,
            d_kv: self.size("d_kv")?,
            d_ff: self.size("d_ff")?,
            num_heads: self.size("num_heads")?,
            num_layers,
            num_decoder_layers: self.size_or("num_decoder_layers", num_layers)?,
            relative_attention_num_buckets: self
                .size_or("relative_attention_num_buckets", default_buckets())?,
            relative_attention_max_distance: self
                .size_or("relative_attention_max_distance", default_max_distance())?,
            layer_norm_epsilon: self.number_or("layer_norm_epsilon", default_epsilon())?,
            feed_forward: self.feed_forward()?,
            tie_word_embeddings: self
                .parse("tie_word_embeddings", "true or false")?
                .unwrap_or(true),
            scale_decoder_outputs: self.parse("scale_decoder_outputs", "true or false")?,
            pad_token_id,
            eos_token_id: self.id_or("eos_token_id", default_eos())?,
            decoder_start_token_id: self.id_or("decoder_start_token_id", pad_token_id)?,
            initializer_factor: self.number_or("initializer_factor", default_factor())?,
            dropout_rate: self.number_or("dropout_rate", default_dropout())?,
        };
        config.validate(self.path)?;
        Ok(config)
    }
}
