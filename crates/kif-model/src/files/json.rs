//! JSON objects as ordered pairs, read within a size limit; a key that stands twice is an error.

use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

use crate::ModelError;

/// The entries of a JSON object in file order.
pub(crate) struct Pairs<V>(pub(crate) Vec<(String, V)>);

/// More keys than any model has tensors: such a file is refused before it fills the memory.
pub(crate) const MAX_KEYS: usize = 16_384;

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Pairs<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Entries<V> {
            type Value = Pairs<V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<V>, A::Error> {
                let (mut pairs, mut seen) = (Vec::new(), HashSet::new());
                while let Some(key) = map.next_key::<String>()? {
                    if !seen.insert(key.clone()) {
                        return Err(A::Error::custom(format_args!("key {key:?} stands twice")));
                    }
                    if pairs.len() == MAX_KEYS {
                        return Err(A::Error::custom(format_args!("more than {MAX_KEYS} keys")));
                    }
                    pairs.push((key, map.next_value()?));
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Entries(PhantomData))
    }
}

/// Reads a whole file of at most `limit` bytes.
pub(crate) fn read_limited(path: &Path, limit: u64) -> Result<Vec<u8>, ModelError> {
    use std::io::Read;
    let io = |error| ModelError::io("reading", path, error);
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .map_err(io)?
        .take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(io)?;
    if bytes.len() as u64 > limit {
        return Err(ModelError::malformed(
            path,
            format!("larger than the limit of {limit} bytes"),
        ));
    }
    Ok(bytes)
}

/// Parses a JSON object; the error names the file, line and column.
pub(crate) fn parse_object<'a, V: Deserialize<'a>>(
    path: &Path,
    bytes: &'a [u8],
) -> Result<Vec<(String, V)>, ModelError> {
    let Pairs(pairs) =
        serde_json::from_slice(bytes).map_err(|e| ModelError::malformed(path, e.to_string()))?;
    Ok(pairs)
}

/// A value for a message, cut to one short line.
pub(crate) fn short(value: &serde_json::Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        None => text,
        Some((at, _)) => format!("{}...", &text[..at]),
    }
}

/// The shortest decimal that is this f32.
pub(crate) fn shortest(value: f32) -> serde_json::Value {
    serde_json::json!(
        format!("{value:e}")
            .parse::<f64>()
            .unwrap_or(f64::from(value))
    )
}
