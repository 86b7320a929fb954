//! Reading `config.json`, field by field.

use std::path::Path;

use serde_json::{Map, Value};

use super::config::{
    FeedForward, ModelConfig, T5Config, bad, default_buckets, default_dropout, default_eos,
    default_epsilon, default_factor, default_max_distance,
};
use super::json::{parse_object, read_limited, short};
use crate::ModelError;

/// Largest `config.json` that is read.
const MAX_BYTES: u64 = 1 << 20;

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
