//! The configuration of a decoder-only model, as Llama, Qwen2 and Qwen3 have it.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::fields::{Fields, bad};
use super::json::{short, shortest};
use crate::ModelError;

/// Decoder-only architectures. They differ in what stands between the projections and attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// Nothing.
    Llama,
    /// Biases on q, k and v.
    Qwen2,
    /// Norms of every head of q and k.
    Qwen3,
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Llama, Self::Qwen2, Self::Qwen3];

    /// `model_type` in `config.json`.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }

    /// The entry of `architectures`.
    pub fn architecture(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
        }
    }
}

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
        for (field, value, limit) in sizes {
            if !(1..=limit).contains(&value) {
                return Err(bad(path, field, format!("{value} is outside 1..={limit}")));
            }
        }
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
        for (field, value, bounds) in numbers {
            if !bounds.contains(&value) {
                return Err(bad(path, field, format!("{value} is outside {bounds:?}")));
            }
        }
        Ok(())
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
        json!({
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
            "hidden_act": "silu",
            "rms_norm_eps": shortest(self.rms_norm_eps),
            "rope_theta": shortest(theta),
            "rope_scaling": scaling,
            "rope_parameters": rope,
            "tie_word_embeddings": self.tie_word_embeddings,
            "attention_bias": self.family == Family::Qwen2,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": ends,
            "initializer_range": shortest(self.initializer_range),
            "torch_dtype": dtype,
            "use_cache": true,
        })
    }
}

/// Keys of the rope settings that are read; any other would change the angles in a way that is not
/// implemented.
const ROPE_KEYS: [&str; 7] = [
    "rope_type",
    "type",
    "rope_theta",
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
];

impl Fields<'_> {
    /// One token id or a list of them.
    pub(super) fn ids(&self, field: &str) -> Result<Option<Vec<u32>>, ModelError> {
        let expected = "a token id or a list of them";
        match self.get(field) {
            Some(Value::Array(_)) => self.parse(field, expected),
            _ => Ok(self.parse(field, expected)?.map(|id| vec![id])),
        }
    }

    pub(super) fn decoder(&self, family: Family) -> Result<DecoderConfig, ModelError> {
        self.refuse_options(family)?;
        let (hidden_size, heads) = (self.size("hidden_size")?, self.size("num_attention_heads")?);
        let default_dim = match family {
            Family::Qwen3 => 128,
            Family::Llama | Family::Qwen2 => hidden_size / heads.max(1),
        };
        // transformers' own defaults.
        let default_end = || match family {
            Family::Llama => vec![2],
            Family::Qwen2 | Family::Qwen3 => Vec::new(),
        };
        let config = DecoderConfig {
            family,
            vocab_size: self.size("vocab_size")?,
            hidden_size,
            intermediate_size: self.size("intermediate_size")?,
            num_hidden_layers: self.size("num_hidden_layers")?,
            num_attention_heads: heads,
            num_key_value_heads: self.size_or("num_key_value_heads", heads)?,
            head_dim: self.size_or("head_dim", default_dim)?,
            max_position_embeddings: self.size_or("max_position_embeddings", 2048)?,
            rms_norm_eps: self.number_or("rms_norm_eps", 1e-6)?,
            rope: self.rope()?,
            tie_word_embeddings: self
                .parse("tie_word_embeddings", "true or false")?
                .unwrap_or(false),
            bos_token_id: self.parse("bos_token_id", "one token id")?,
            eos_token_id: self.ids("eos_token_id")?.unwrap_or_else(default_end),
            initializer_range: self.number_or("initializer_range", 0.02)?,
        };
        config.validate(self.path)?;
        Ok(config)
    }

    /// Options that change the output and are not implemented.
    fn refuse_options(&self, family: Family) -> Result<(), ModelError> {
        let refuse = |field: &str, value: &Value| {
            Err(self.bad(field, format!("{} is not supported", short(value))))
        };
        let act: Option<String> = self.parse("hidden_act", "a string")?;
        if act.is_some_and(|act| act != "silu") {
            return refuse("hidden_act", &self.values["hidden_act"]);
        }
        for field in ["attention_bias", "mlp_bias", "use_sliding_window"] {
            let set: bool = self.parse(field, "true or false")?.unwrap_or(false);
            // Qwen2 has its biases whatever is said.
            if set && !(field == "attention_bias" && family == Family::Qwen2) {
                return refuse(field, &self.values[field]);
            }
        }
        if let Some(value) = self
            .get("sliding_window")
            .filter(|_| family == Family::Llama)
        {
            return refuse("sliding_window", value);
        }
        let layers: Vec<String> = self
            .parse("layer_types", "a list of names")?
            .unwrap_or_default();
        if layers.iter().any(|kind| kind != "full_attention") {
            return refuse("layer_types", &self.values["layer_types"]);
        }
        if let Some(value) = self
            .get("partial_rotary_factor")
            .filter(|v| v.as_f64() != Some(1.0))
        {
            return refuse("partial_rotary_factor", value);
        }
        Ok(())
    }

    /// `rope_parameters`, or `rope_scaling` beside `rope_theta`. Where both stand they must say the
    /// same.
    fn rope(&self) -> Result<Rope, ModelError> {
        let of_key = |key: &str| self.get(key).map(|_| self.rope_of(key)).transpose();
        match (of_key("rope_parameters")?, of_key("rope_scaling")?) {
            (Some(new), Some(old)) if new != old => {
                let problem = "contradicts rope_parameters".to_owned();
                Err(self.bad("rope_scaling", problem))
            }
            (Some(rope), _) | (None, Some(rope)) => Ok(rope),
            (None, None) => Ok(Rope {
                theta: self.number_or("rope_theta", 10_000.0)?,
                scaling: None,
            }),
        }
    }

    fn rope_of(&self, key: &str) -> Result<Rope, ModelError> {
        let Some(Value::Object(values)) = self.get(key) else {
            return Err(self.bad(
                key,
                format!("{} is not an object", short(&self.values[key])),
            ));
        };
        let inner = Fields {
            path: self.path,
            values: values.clone(),
        };
        let named = |field: &str| format!("{key}.{field}");
        let unknown = values.keys().find(|k| !ROPE_KEYS.contains(&k.as_str()));
        if let Some(unknown) = unknown.filter(|unknown| inner.get(unknown).is_some()) {
            let value = short(&values[unknown]);
            return Err(self.bad(&named(unknown), format!("{value} is not supported")));
        }
        let theta = match inner.get("rope_theta") {
            Some(_) => inner.number_or("rope_theta", 0.0)?,
            None => self.number_or("rope_theta", 10_000.0)?,
        };
        if self.get("rope_theta").is_some() && self.number_or("rope_theta", theta)? != theta {
            let problem = format!("differs from {}, which is {theta}", named("rope_theta"));
            return Err(self.bad("rope_theta", problem));
        }
        let kind = match inner.parse::<String>("rope_type", "a string")? {
            Some(kind) => kind,
            None => inner
                .parse("type", "a string")?
                .unwrap_or_else(|| "default".to_owned()),
        };
        let number = |field: &str| {
            let value = inner.parse::<f32>(field, "a number")?;
            value.ok_or_else(|| self.bad(&named(field), "is missing, expected a number".to_owned()))
        };
        let scaling = match kind.as_str() {
            "default" => None,
            "llama3" => Some(Llama3Scaling {
                factor: number("factor")?,
                low_freq_factor: number("low_freq_factor")?,
                high_freq_factor: number("high_freq_factor")?,
                original_max_position_embeddings: inner.size("original_max_position_embeddings")?,
            }),
            other => {
                let expected = "expected \"default\" or \"llama3\"";
                let problem = format!("{other:?} is not supported, {expected}");
                return Err(self.bad(&named("rope_type"), problem));
            }
        };
        Ok(Rope { theta, scaling })
    }
}
