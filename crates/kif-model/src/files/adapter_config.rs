//! `adapter_config.json`: what of PEFT's settings is taken, passed over or refused.

use std::path::Path;

use serde_json::{Map, Value};

use super::json::{parse_object, read_limited, short};
use crate::{LoraConfig, ModelError};

/// Largest `adapter_config.json` that is read.
const MAX_BYTES: u64 = 1 << 20;

/// Keys that [`read_config`] reads.
const READ: [&str; 8] = [
    "peft_type",
    "r",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "bias",
    "init_lora_weights",
    "base_model_name_or_path",
];

/// Keys that say nothing about what the adapter computes: their values are passed over.
const HARMLESS: [&str; 9] = [
    "auto_mapping",
    "inference_mode",
    "layers_pattern", // only read together with layers_to_transform, which is refused
    "megatron_core",  // only read together with megatron_config
    "peft_version",
    "qalora_group_size", // only read together with use_qalora
    "revision",
    "runtime_config",
    "task_type",
];

/// Ways to fill fresh matrices that leave the base as it is. The others (PiSSA, OLoRA, CorDA,
/// LoftQ, LoRA-GA) change the base's weights, and do so again whenever PEFT loads such a file: its
/// matrices do not belong to the plain base.
const HARMLESS_INITS: [&str; 3] = ["gaussian", "eva", "orthogonal"];

/// The settings and the name of the base. Any other key that is set to something (not null, false,
/// zero or empty) is an option that is not implemented, and is refused by name.
pub(crate) fn read_config(path: &Path) -> Result<(LoraConfig, Option<String>), ModelError> {
    let bytes = read_limited(path, MAX_BYTES)?;
    let fields = Fields {
        path,
        values: parse_object::<Value>(path, &bytes)?.into_iter().collect(),
    };
    fields.refuse_unknown()?;
    fields.expect_text("peft_type", "LORA")?;
    if fields.get("bias").is_some() {
        fields.expect_text("bias", "none")?;
    }
    fields.check_init()?;
    let config = LoraConfig {
        rank: fields.number("r", "a whole number", Value::as_u64)? as usize,
        alpha: fields.number("lora_alpha", "a number", Value::as_f64)? as f32,
        dropout: match fields.get("lora_dropout") {
            None => 0.0,
            Some(_) => fields.number("lora_dropout", "a number", Value::as_f64)? as f32,
        },
        targets: fields.targets()?,
    };
    config.validate().map_err(|error| match error {
        ModelError::Lora { field, problem } => fields.bad(key_of(field), problem),
        ModelError::UnknownTarget { target, known } => fields.bad(
            "target_modules",
            format!(
                "{target:?} is not supported, known are {}",
                known.join(", ")
            ),
        ),
        other => other,
    })?;
    let base = fields
        .get("base_model_name_or_path")
        .and_then(Value::as_str)
        .map(str::to_owned);
    Ok((config, base))
}

fn key_of(field: &str) -> &str {
    match field {
        "rank" => "r",
        "alpha" => "lora_alpha",
        "dropout" => "lora_dropout",
        "targets" => "target_modules",
        other => other,
    }
}

struct Fields<'a> {
    path: &'a Path,
    values: Map<String, Value>,
}

impl Fields<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key).filter(|value| !value.is_null())
    }

    fn bad(&self, key: &str, problem: String) -> ModelError {
        ModelError::Adapter {
            file: self.path.to_owned(),
            key: key.escape_debug().to_string(),
            problem,
        }
    }

    fn missing(&self, key: &str, expected: &str) -> ModelError {
        self.bad(key, format!("is missing, expected {expected}"))
    }

    fn refuse_unknown(&self) -> Result<(), ModelError> {
        let known = |key: &str| READ.contains(&key) || HARMLESS.contains(&key);
        match self
            .values
            .iter()
            .find(|(key, value)| !known(key) && is_set(value))
        {
            None => Ok(()),
            Some((key, value)) => Err(self.bad(key, format!("{} is not supported", short(value)))),
        }
    }

    fn expect_text(&self, key: &str, expected: &str) -> Result<(), ModelError> {
        match self.get(key) {
            None => Err(self.missing(key, &format!("{expected:?}"))),
            Some(value) if value.as_str() == Some(expected) => Ok(()),
            Some(value) => Err(self.bad(
                key,
                format!("{} is not supported, expected {expected:?}", short(value)),
            )),
        }
    }

    fn number<T>(
        &self,
        key: &str,
        expected: &str,
        read: fn(&Value) -> Option<T>,
    ) -> Result<T, ModelError> {
        let value = self.get(key).ok_or_else(|| self.missing(key, expected))?;
        read(value).ok_or_else(|| self.bad(key, format!("{} is not {expected}", short(value))))
    }

    fn check_init(&self) -> Result<(), ModelError> {
        let key = "init_lora_weights";
        match self.get(key) {
            None | Some(Value::Bool(_)) => Ok(()),
            Some(Value::String(name)) if HARMLESS_INITS.contains(&name.as_str()) => Ok(()),
            Some(value) => {
                let problem = format!(
                    "{} is not supported: it changes the base's weights",
                    short(value)
                );
                Err(self.bad(key, problem))
            }
        }
    }

    /// PEFT keeps a set and writes it in any order: sorted, equal settings are equal.
    fn targets(&self) -> Result<Vec<String>, ModelError> {
        let (key, expected) = ("target_modules", "a list of module names");
        let value = self.get(key).ok_or_else(|| self.missing(key, expected))?;
        let Some(items) = value.as_array() else {
            return Err(self.bad(
                key,
                format!("{} is not supported, expected {expected}", short(value)),
            ));
        };
        let names: Option<Vec<String>> = items
            .iter()
            .map(|item| item.as_str().map(str::to_owned))
            .collect();
        let mut names =
            names.ok_or_else(|| self.bad(key, format!("{} is not {expected}", short(value))))?;
        names.sort();
        Ok(names)
    }
}

/// Whether a value asks for something: null, false, zero and empty ones do not.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Bool(true) => true,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}
