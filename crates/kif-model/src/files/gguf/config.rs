//! From the metadata of a GGUF file to the configuration of the model.

use super::names::EMBEDDING;
use super::{Gguf, header};
use crate::ModelError;
use crate::files::config::ModelConfig;
use crate::files::decoder_config::{DecoderConfig, Llama3Scaling, Rope, Window};
use crate::files::family::Family;
use crate::files::json::short;

/// Frequencies of long texts, as divisors of the usual ones, of Llama 3.1 and later.
const ROPE_FREQUENCIES: &str = "rope_freqs.weight";

/// More layers than any model has.
const MAX_LAYERS: usize = 1 << 10;
/// Tokens that a layer with a window sees.
const WINDOW: &str = "attention.sliding_window";
/// Of so many layers the last has no window.
const PATTERN: &str = "attention.sliding_window_pattern";
/// The base of the angles of layers with a window.
const WINDOW_BASE: &str = "rope.freq_base_swa";

/// Keys that end up in the configuration or say how the file is laid out; `ARCH` is the
/// architecture's name.
pub(super) const KEYS: [&str; 21] = [
    "general.architecture",
    header::ALIGNMENT,
    "general.quantization_version",
    "general.file_type",
    "ARCH.block_count",
    "ARCH.context_length",
    "ARCH.embedding_length",
    "ARCH.feed_forward_length",
    "ARCH.attention.head_count",
    "ARCH.attention.head_count_kv",
    "ARCH.attention.key_length",
    "ARCH.attention.value_length",
    "ARCH.attention.layer_norm_rms_epsilon",
    "ARCH.rope.freq_base",
    "ARCH.rope.dimension_count",
    "ARCH.attention.sliding_window",
    "ARCH.attention.sliding_window_pattern",
    "ARCH.rope.freq_base_swa",
    "ARCH.vocab_size",
    "split.count",
    "split.no",
];

impl Gguf {
    /// The name of the architecture.
    pub(super) fn architecture(&self) -> Result<&str, ModelError> {
        let key = "general.architecture";
        self.text(key)?.ok_or_else(|| self.missing(key, "a name"))
    }

    /// The configuration of the model. Other architectures, and options that change a model's
    /// output in ways that are not implemented, are refused by name.
    pub(in crate::files) fn config(&self) -> Result<ModelConfig, ModelError> {
        let config = match self.architecture()? {
            "llama" => llama(self)?,
            "qwen2" => qwen(self, Family::Qwen2)?,
            "qwen3" => qwen(self, Family::Qwen3)?,
            "gemma3" => gemma3(self)?,
            other => {
                let expected = "\"llama\", \"qwen2\", \"qwen3\" or \"gemma3\"";
                let name = short(&serde_json::json!(other));
                let problem = format!("{name} is not supported, expected {expected}");
                return Err(self.bad("general.architecture", problem));
            }
        };
        config.validate(self.path())?;
        Ok(ModelConfig::Decoder(config))
    }

    /// A whole number of the architecture.
    fn size_or(&self, field: &str, default: Option<usize>) -> Result<usize, ModelError> {
        let key = format!("{}.{field}", self.architecture()?);
        match (self.whole(&key)?, default) {
            (Some(n), _) => {
                usize::try_from(n).map_err(|_| self.bad(&key, format!("{n} is absurd")))
            }
            (None, Some(default)) => Ok(default),
            (None, None) => Err(self.missing(&key, "a whole number")),
        }
    }

    fn size(&self, field: &str) -> Result<usize, ModelError> {
        self.size_or(field, None)
    }

    fn number_or(&self, field: &str, default: f32) -> Result<f32, ModelError> {
        let key = format!("{}.{field}", self.architecture()?);
        Ok(self.number(&key)?.unwrap_or(default))
    }

    /// Refuses `fields` that are set, and other options that change the output: of those of
    /// attention and of positions all that are not known.
    fn refuse_options(&self, fields: &[&str]) -> Result<(), ModelError> {
        let arch = self.architecture()?;
        let scaling = format!("{arch}.rope.scaling.type");
        if let Some(other) = self.text(&scaling)?.filter(|&name| name != "none") {
            let name = short(&serde_json::json!(other));
            let problem = format!("{name} is not supported, expected \"none\"");
            return Err(self.bad(&scaling, problem));
        }
        for (key, value) in &self.header.metadata {
            let field = key.strip_prefix(arch);
            let Some(field) = field.and_then(|rest| rest.strip_prefix('.')) else {
                continue;
            };
            let is_named = field == "expert_count" || fields.contains(&field);
            let is_unknown = (field.starts_with("rope.") || field.starts_with("attention."))
                && !KEYS.contains(&format!("ARCH.{field}").as_str());
            if is_named && !is_zero(value) || is_unknown && !changes_nothing(field, value) {
                return Err(self.bad(key, "is set, which is not supported"));
            }
        }
        Ok(())
    }

    /// Ids that end a text: that of the text, of a turn and of a message, where they are known.
    fn end_ids(&self) -> Result<Vec<u32>, ModelError> {
        let mut ids = Vec::new();
        for name in ["eos", "eot", "eom"] {
            let id = self.special_id(name)?;
            ids.extend(id.filter(|id| !ids.contains(id)));
        }
        if ids.is_empty() {
            return Err(self.missing("tokenizer.ggml.eos_token_id", "a token id"));
        }
        Ok(ids)
    }

    /// The id of a special token by its short name: `bos`, `eos`, `unknown`, `padding`, ...
    pub(super) fn special_id(&self, name: &str) -> Result<Option<u32>, ModelError> {
        let key = format!("tokenizer.ggml.{name}_token_id");
        let id = self.whole(&key)?.map(u32::try_from).transpose();
        id.map_err(|_| self.bad(&key, "is no token id"))
    }
}

fn is_zero(value: &header::Meta) -> bool {
    matches!(value, header::Meta::Whole(0) | header::Meta::Number(0.0))
}

/// Whether an option that is not implemented says what holds without it.
fn changes_nothing(field: &str, value: &header::Meta) -> bool {
    use header::Meta::{Flag, Number, Whole};

    match field {
        // Its text was looked at before.
        "rope.scaling.type" => true,
        "rope.scaling.finetuned" => matches!(value, Flag(_)),
        "attention.causal" => matches!(value, Flag(true)),
        "attention.scale" => is_zero(value),
        "rope.scaling.factor" | "rope.scale_linear" => {
            matches!(value, Whole(0 | 1) | Number(0.0 | 1.0))
        }
        _ => false,
    }
}

/// What all architectures have in common.
fn decoder(gguf: &Gguf, family: Family) -> Result<DecoderConfig, ModelError> {
    let vocab_size = match gguf.header.tensors.get(EMBEDDING) {
        Some(place) => place.shape[0],
        None => return Err(gguf.missing(EMBEDDING, "a tensor")),
    };
    gguf.check_rows()?;
    let (hidden_size, heads) = (
        gguf.size("embedding_length")?,
        gguf.size("attention.head_count")?,
    );
    let head_dim = gguf.size_or("attention.key_length", Some(hidden_size / heads.max(1)))?;
    for field in ["attention.value_length", "rope.dimension_count"] {
        let other = gguf.size_or(field, Some(head_dim))?;
        if other != head_dim {
            let key = format!("{}.{field}", gguf.architecture()?);
            let problem =
                format!("{other} is not supported, expected the width of a head, {head_dim}");
            return Err(gguf.bad(&key, problem));
        }
    }
    let n_layers = gguf.size("block_count")?;
    if n_layers > MAX_LAYERS {
        let key = format!("{}.block_count", gguf.architecture()?);
        return Err(gguf.bad(
            &key,
            format!("{n_layers} is above the limit of {MAX_LAYERS}"),
        ));
    }
    Ok(DecoderConfig {
        family,
        vocab_size,
        hidden_size,
        intermediate_size: gguf.size("feed_forward_length")?,
        num_hidden_layers: n_layers,
        num_attention_heads: heads,
        num_key_value_heads: gguf.size_or("attention.head_count_kv", Some(heads))?,
        head_dim,
        max_position_embeddings: gguf.size("context_length")?,
        rms_norm_eps: gguf.number_or("attention.layer_norm_rms_epsilon", 1e-6)?,
        rope: Rope {
            theta: gguf.number_or("rope.freq_base", 10_000.0)?,
            scaling: None,
        },
        window: None,
        query_pre_attn_scalar: None,
        tie_word_embeddings: !gguf.header.tensors.contains_key("output.weight"),
        bos_token_id: gguf.special_id("bos")?,
        eos_token_id: gguf.end_ids()?,
        initializer_range: 0.02,
    })
}

/// Llama, or Mistral where there is a window. Scaled frequencies are a tensor of divisors, not a
/// setting.
fn llama(gguf: &Gguf) -> Result<DecoderConfig, ModelError> {
    gguf.refuse_options(&[PATTERN, WINDOW_BASE])?;
    let mut config = decoder(gguf, Family::Llama)?;
    let window = gguf.size_or(WINDOW, Some(0))?;
    if window > 0 {
        config.family = Family::Mistral;
        config.window = Some(Window {
            length: window,
            rope_theta: None,
            layers: vec![true; config.num_hidden_layers],
        });
    }
    let Some(divisors) = gguf.stored(ROPE_FREQUENCIES)? else {
        return Ok(config);
    };
    let scaling = llama3_scaling(&divisors, config.head_dim, config.rope.theta);
    config.rope.scaling = scaling.ok_or_else(|| {
        let problem =
            "are not those of rope type llama3 from 8192 positions on, with factors 1 and 4";
        gguf.bad(ROPE_FREQUENCIES, problem)
    })?;
    Ok(config)
}

/// Qwen2 and Qwen3.
fn qwen(gguf: &Gguf, family: Family) -> Result<DecoderConfig, ModelError> {
    gguf.refuse_options(&[WINDOW, PATTERN, WINDOW_BASE])?;
    decoder(gguf, family)
}

/// Gemma 3: of six layers five have a window, and angles of their own.
fn gemma3(gguf: &Gguf) -> Result<DecoderConfig, ModelError> {
    gguf.refuse_options(&["final_logit_softcapping", "attn_logit_softcapping"])?;
    let mut config = decoder(gguf, Family::Gemma3)?;
    let every = gguf.size_or(PATTERN, Some(6))?;
    if every == 0 {
        let key = format!("{}.{PATTERN}", gguf.architecture()?);
        return Err(gguf.bad(&key, "is 0, expected 1 or more"));
    }
    let is_local = |layer: usize| !(layer + 1).is_multiple_of(every);
    config.window = Some(Window {
        length: gguf.size(WINDOW)?,
        rope_theta: Some(gguf.number_or(WINDOW_BASE, 10_000.0)?),
        layers: (0..config.num_hidden_layers).map(is_local).collect(),
    });
    // Only the largest, of this many layers, scales otherwise than by the width of a head.
    config.query_pre_attn_scalar = Some(match config.num_hidden_layers {
        62 => config.hidden_size / config.num_attention_heads.max(1),
        _ => config.head_dim,
    });
    Ok(config)
}

/// The scaling whose divisors these are; the inner nothing where all are 1. The bounds are those of
/// every published model with such a scaling.
#[allow(clippy::option_option)]
fn llama3_scaling(divisors: &[f32], head_dim: usize, theta: f32) -> Option<Option<Llama3Scaling>> {
    if divisors.iter().all(|&d| d == 1.0) {
        return Some(None);
    }
    let scaling = Llama3Scaling {
        factor: *divisors.last()?,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    let (low, high) = (
        f64::from(scaling.low_freq_factor),
        f64::from(scaling.high_freq_factor),
    );
    let factor = f64::from(scaling.factor);
    let is_divisor = |(pair, &divisor): (usize, &f32)| {
        let exponent = 2.0 * pair as f64 / head_dim as f64;
        let wave = std::f64::consts::TAU * f64::from(theta).powf(exponent);
        let turns = scaling.original_max_position_embeddings as f64 / wave;
        let smooth = ((turns - low) / (high - low)).clamp(0.0, 1.0);
        let expected = 1.0 / ((1.0 - smooth) / factor + smooth);
        (f64::from(divisor) - expected).abs() <= 1e-4 * expected
    };
    let same = 2 * divisors.len() == head_dim && divisors.iter().enumerate().all(is_divisor);
    same.then_some(Some(scaling))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divisors_of_llama_3_1_are_recognised_and_others_are_not() {
        // The first, a middle and the last of 64, as the converter computes them in f32.
        let divisors: Vec<f32> = (0..64)
            .map(|pair| {
                let wave = std::f32::consts::TAU * 500_000_f32.powf(pair as f32 / 64.0);
                let turns = 8192.0 / wave;
                match turns {
                    t if t > 4.0 => 1.0,
                    t if t < 1.0 => 8.0,
                    t => 1.0 / ((1.0 - (t - 1.0) / 3.0) / 8.0 + (t - 1.0) / 3.0),
                }
            })
            .collect();
        let scaling = llama3_scaling(&divisors, 128, 500_000.0).unwrap().unwrap();
        assert_eq!(
            (scaling.factor, scaling.original_max_position_embeddings),
            (8.0, 8192)
        );
        assert_eq!(llama3_scaling(&[1.0; 64], 128, 500_000.0), Some(None));
        assert_eq!(llama3_scaling(&divisors, 128, 10_000.0), None);
        assert_eq!(llama3_scaling(&divisors[1..], 128, 500_000.0), None);
    }
}
