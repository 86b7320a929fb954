//! Reading `config.json`, field by field.

use std::path::Path;

use super::config::ModelConfig;
use super::family::Family;
use super::fields::Fields;
use super::gguf::{Gguf, is_gguf};
use super::json::short;
use super::t5_config::{
    FeedForward, T5Config, default_buckets, default_dropout, default_eos, default_epsilon,
    default_factor, default_max_distance,
};
use crate::ModelError;

impl ModelConfig {
    /// Reads `config.json` of a model directory, and the end tokens of its
    /// `generation_config.json`; or the metadata of a GGUF file. Other model types and options that
    /// change a model's output in ways that are not implemented are refused by name.
    pub fn read(dir: &Path) -> Result<Self, ModelError> {
        if is_gguf(dir) {
            return Gguf::open(dir)?.config();
        }
        let path = dir.join("config.json");
        let config = Self::of_fields(&Fields::read(&path)?)?;
        let generation = dir.join("generation_config.json");
        match config {
            ModelConfig::Decoder(mut decoder) if generation.exists() => {
                let fields = Fields::read(&generation)?;
                if let Some(ids) = fields.ids("eos_token_id")? {
                    decoder.eos_token_id = ids;
                }
                decoder.validate(&generation)?;
                Ok(ModelConfig::Decoder(decoder))
            }
            config => Ok(config),
        }
    }

    /// Parses the text of a `config.json`; `path` is for messages.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, ModelError> {
        Self::of_fields(&Fields::of_bytes(path, bytes)?)
    }

    fn of_fields(fields: &Fields) -> Result<Self, ModelError> {
        let expected = "\"t5\", \"llama\", \"mistral\", \"qwen2\", \"qwen3\" or \"gemma3_text\"";
        let name = fields.parse::<String>("model_type", "a string")?;
        let name = name
            .ok_or_else(|| fields.bad("model_type", format!("is missing, expected {expected}")))?;
        if let Some(value) = fields.get("quantization_config") {
            return Err(fields.bad(
                "quantization_config",
                format!("{} is not supported", short(value)),
            ));
        }
        if name == "t5" {
            fields.check_architecture(&["T5ForConditionalGeneration", "T5WithLMHeadModel"])?;
            return Ok(ModelConfig::T5(fields.t5()?));
        }
        let family = Family::ALL.into_iter().find(|f| f.model_type() == name);
        let family = family.ok_or_else(|| {
            fields.bad(
                "model_type",
                format!("{name:?} is not supported, expected {expected}"),
            )
        })?;
        fields.check_architecture(&[family.architecture()])?;
        Ok(ModelConfig::Decoder(fields.decoder(family)?))
    }
}

impl Fields<'_> {
    fn check_architecture(&self, known: &[&str]) -> Result<(), ModelError> {
        let names = self
            .parse::<Vec<String>>("architectures", "a list of names")?
            .unwrap_or_default();
        if names.is_empty() || names.iter().any(|name| known.contains(&name.as_str())) {
            return Ok(());
        }
        let problem = format!("{names:?} is not supported, expected {:?}", known[0]);
        Err(self.bad("architectures", problem))
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
        // Files may also spell out what transformers derives; a contradiction would change the
        // model.
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
