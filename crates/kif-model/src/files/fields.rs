//! Reading the fields of a JSON object one by one, so that every error names its field.

use std::path::Path;

use serde_json::{Map, Value};

use super::json::{parse_object, read_limited, short};
use crate::ModelError;

/// Largest configuration that is read.
const MAX_BYTES: u64 = 1 << 20;

/// The fields of an object. JSON null counts as absent, as in transformers.
pub(super) struct Fields<'a> {
    pub(super) path: &'a Path,
    pub(super) values: Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub(super) fn of_bytes(path: &'a Path, bytes: &[u8]) -> Result<Self, ModelError> {
        Ok(Self {
            path,
            values: parse_object::<Value>(path, bytes)?.into_iter().collect(),
        })
    }

    pub(super) fn read(path: &'a Path) -> Result<Self, ModelError> {
        Self::of_bytes(path, &read_limited(path, MAX_BYTES)?)
    }

    pub(super) fn get(&self, field: &str) -> Option<&Value> {
        self.values.get(field).filter(|value| !value.is_null())
    }

    pub(super) fn bad(&self, field: &str, problem: String) -> ModelError {
        bad(self.path, field, problem)
    }

    pub(super) fn parse<T: serde::de::DeserializeOwned>(
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

    pub(super) fn size(&self, field: &str) -> Result<usize, ModelError> {
        let size = self.parse(field, "a whole number")?;
        size.ok_or_else(|| self.bad(field, "is missing, expected a whole number".to_owned()))
    }

    pub(super) fn size_or(&self, field: &str, default: usize) -> Result<usize, ModelError> {
        Ok(self.parse(field, "a whole number")?.unwrap_or(default))
    }

    pub(super) fn id_or(&self, field: &str, default: u32) -> Result<u32, ModelError> {
        Ok(self.parse(field, "one token id")?.unwrap_or(default))
    }

    pub(super) fn number_or(&self, field: &str, default: f32) -> Result<f32, ModelError> {
        Ok(self.parse(field, "a number")?.unwrap_or(default))
    }
}

/// What is wrong with a field of the file `path`.
pub(super) fn bad(path: &Path, field: &str, problem: String) -> ModelError {
    ModelError::Config {
        file: path.to_owned(),
        field: field.to_owned(),
        problem,
    }
}
