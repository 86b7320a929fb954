//! Reading the configuration of a decoder-only model from the fields of its `config.json`.

use serde_json::{Map, Value};

use super::decoder_config::{DecoderConfig, Llama3Scaling, Rope, Window};
use super::family::{Family, LAYER_TYPES};
use super::fields::Fields;
use super::json::short;
use crate::ModelError;

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

/// What transformers takes where a file says nothing.
struct Defaults {
    head_dim: usize,
    num_key_value_heads: usize,
    eos_token_id: &'static [u32],
    tie_word_embeddings: bool,
    rope_theta: f32,
}

impl Defaults {
    fn of(family: Family, hidden_size: usize, heads: usize) -> Self {
        let common = Self {
            head_dim: hidden_size / heads.max(1),
            num_key_value_heads: heads,
            eos_token_id: &[],
            tie_word_embeddings: false,
            rope_theta: 10_000.0,
        };
        match family {
            Family::Llama => Self {
                eos_token_id: &[2],
                ..common
            },
            Family::Mistral => Self {
                num_key_value_heads: 8,
                eos_token_id: &[2],
                ..common
            },
            Family::Qwen2 => common,
            Family::Qwen3 => Self {
                head_dim: 128,
                ..common
            },
            Family::Gemma3 => Self {
                head_dim: 256,
                num_key_value_heads: 4,
                eos_token_id: &[1],
                tie_word_embeddings: true,
                rope_theta: 1e6,
            },
        }
    }
}

/// transformers' window where a file has none.
const DEFAULT_WINDOW: usize = 4096;

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
        let default = Defaults::of(family, hidden_size, heads);
        let num_hidden_layers = self.size("num_hidden_layers")?;
        let config = DecoderConfig {
            family,
            vocab_size: self.size("vocab_size")?,
            hidden_size,
            intermediate_size: self.size("intermediate_size")?,
            num_hidden_layers,
            num_attention_heads: heads,
            num_key_value_heads: self
                .size_or("num_key_value_heads", default.num_key_value_heads)?,
            head_dim: self.size_or("head_dim", default.head_dim)?,
            max_position_embeddings: self.size_or("max_position_embeddings", 2048)?,
            rms_norm_eps: self.number_or("rms_norm_eps", 1e-6)?,
            rope: self.rope(default.rope_theta)?,
            window: match family {
                Family::Mistral => self.window_of_all(num_hidden_layers)?,
                Family::Gemma3 => self.window_of_some(num_hidden_layers)?,
                Family::Llama | Family::Qwen2 | Family::Qwen3 => None,
            },
            query_pre_attn_scalar: match family {
                Family::Gemma3 => Some(self.size_or("query_pre_attn_scalar", 256)?),
                Family::Llama | Family::Mistral | Family::Qwen2 | Family::Qwen3 => None,
            },
            tie_word_embeddings: self
                .parse("tie_word_embeddings", "true or false")?
                .unwrap_or(default.tie_word_embeddings),
            bos_token_id: self.parse("bos_token_id", "one token id")?,
            eos_token_id: self
                .ids("eos_token_id")?
                .unwrap_or_else(|| default.eos_token_id.to_vec()),
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
        let (_, activation) = family.activation();
        let fields: &[&str] = match family {
            Family::Gemma3 => &["hidden_act", "hidden_activation"],
            _ => &["hidden_act"],
        };
        for &field in fields {
            let act: Option<String> = self.parse(field, "a string")?;
            if act.is_some_and(|act| act != activation) {
                return refuse(field, &self.values[field]);
            }
        }
        for field in [
            "attention_bias",
            "mlp_bias",
            "use_sliding_window",
            "use_bidirectional_attention",
        ] {
            let set: bool = self.parse(field, "true or false")?.unwrap_or(false);
            // Qwen2 has its biases whatever is said.
            if set && !(field == "attention_bias" && family.has_biases()) {
                return refuse(field, &self.values[field]);
            }
        }
        for field in ["attn_logit_softcapping", "final_logit_softcapping"] {
            if let Some(value) = self.get(field) {
                return refuse(field, value);
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
        let known = match family {
            Family::Gemma3 => &LAYER_TYPES[..],
            _ => &LAYER_TYPES[..1],
        };
        if layers.iter().any(|kind| !known.contains(&kind.as_str())) {
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

    /// The window of a Mistral: of all layers, or of none where the file says null.
    fn window_of_all(&self, n_layers: usize) -> Result<Option<Window>, ModelError> {
        let is_null = self
            .values
            .get("sliding_window")
            .is_some_and(Value::is_null);
        if is_null {
            return Ok(None);
        }
        Ok(Some(Window {
            length: self.size_or("sliding_window", DEFAULT_WINDOW)?,
            rope_theta: None,
            layers: vec![true; bounded(n_layers)],
        }))
    }

    /// The window of a Gemma 3: of the layers that `layer_types` says, else of all but every n-th.
    fn window_of_some(&self, n_layers: usize) -> Result<Option<Window>, ModelError> {
        let layers: Vec<bool> = match self.parse::<Vec<String>>("layer_types", "a list of names")? {
            Some(types) => types.iter().map(|kind| kind == LAYER_TYPES[1]).collect(),
            None => {
                let newer = self.size_or("sliding_window_pattern", 6)?;
                let every = self.size_or("_sliding_window_pattern", newer)?;
                if every == 0 {
                    let problem = "0 is not at least 1".to_owned();
                    return Err(self.bad("sliding_window_pattern", problem));
                }
                let is_local = |layer: usize| !(layer + 1).is_multiple_of(every);
                (0..bounded(n_layers)).map(is_local).collect()
            }
        };
        if !layers.contains(&true) {
            return Ok(None);
        }
        Ok(Some(Window {
            length: self.size_or("sliding_window", DEFAULT_WINDOW)?,
            rope_theta: Some(self.local_theta()?),
            layers,
        }))
    }

    /// The base of the angles of a Gemma 3's windows, as older and newer files have it.
    fn local_theta(&self) -> Result<f32, ModelError> {
        let older = ("rope_local_base_freq", 10_000.0);
        let newer = self
            .get("rope_parameters")
            .and_then(|all| all.get(LAYER_TYPES[1]));
        let Some(Value::Object(local)) = newer else {
            return self.number_or(older.0, older.1);
        };
        let key = format!("rope_parameters.{}", LAYER_TYPES[1]);
        let rope = self.rope_of(&key, local, older)?;
        if rope.scaling.is_some() {
            let problem = "\"llama3\" is not supported, expected \"default\"".to_owned();
            return Err(self.bad(&format!("{key}.rope_type"), problem));
        }
        Ok(rope.theta)
    }

    /// `rope_parameters`, or `rope_scaling` beside `rope_theta`. Where both stand they must say the
    /// same. Where layers differ, those of the layers that see everything.
    fn rope(&self, default_theta: f32) -> Result<Rope, ModelError> {
        let theta = ("rope_theta", default_theta);
        let of_key = |key: &str| {
            let Some(value) = self.get(key) else {
                return Ok(None);
            };
            let Value::Object(values) = value else {
                return Err(self.bad(key, format!("{} is not an object", short(value))));
            };
            let rope = match values.get(LAYER_TYPES[0]) {
                Some(Value::Object(full)) => {
                    let key = format!("{key}.{}", LAYER_TYPES[0]);
                    self.rope_of(&key, full, theta)
                }
                _ => self.rope_of(key, values, theta),
            };
            rope.map(Some)
        };
        match (of_key("rope_parameters")?, of_key("rope_scaling")?) {
            (Some(new), Some(old)) if new != old => {
                let problem = "contradicts rope_parameters".to_owned();
                Err(self.bad("rope_scaling", problem))
            }
            (Some(rope), _) | (None, Some(rope)) => Ok(rope),
            (None, None) => Ok(Rope {
                theta: self.number_or(theta.0, theta.1)?,
                scaling: None,
            }),
        }
    }

    /// The settings `values` that stand at `key`. Where they have no base of the angles, it is the
    /// field `older` of the file, or its default; where both have one, they must agree.
    fn rope_of(
        &self,
        key: &str,
        values: &Map<String, Value>,
        older: (&str, f32),
    ) -> Result<Rope, ModelError> {
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
        let (field, default) = older;
        let theta = match inner.get("rope_theta") {
            Some(_) => inner.number_or("rope_theta", default)?,
            None => self.number_or(field, default)?,
        };
        if self.get(field).is_some() && self.number_or(field, theta)? != theta {
            let problem = format!("differs from {}, which is {theta}", named("rope_theta"));
            return Err(self.bad(field, problem));
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

/// A number of layers for which room may be made before it is checked.
fn bounded(n_layers: usize) -> usize {
    n_layers.min(1 << 10)
}
