//! Everything that training keeps between two steps, as named tensors and counters in one
//! safetensors file.

use std::borrow::Cow;
use std::collections::BTreeMap;

use safetensors::tensor::{Dtype, SafeTensors, View};

/// Named f32 vectors and u64 counters. Equal states have equal bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    tensors: BTreeMap<String, Vec<f32>>,
    counters: BTreeMap<String, u64>,
}

/// Why a state cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Not a safetensors file, or a damaged one.
    #[error("not a readable state: {0}")]
    Format(#[from] safetensors::SafeTensorError),
    /// A tensor that the file should not have, by kind or shape.
    #[error("{name} has type {dtype} and shape {shape:?}, expected a vector of f32 or one u64")]
    Kind {
        /// Name of the tensor.
        name: String,
        /// Its type.
        dtype: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// A tensor or counter that is not there.
    #[error("{name} is missing")]
    Missing {
        /// Its name.
        name: String,
    },
    /// A tensor of another length.
    #[error("{name} has {len} values, expected {expected}")]
    Length {
        /// Name of the tensor.
        name: String,
        /// Its length.
        len: usize,
        /// The length that was expected.
        expected: usize,
    },
    /// A counter beyond what it counts.
    #[error("{name} is {value}, expected at most {limit}")]
    Range {
        /// Name of the counter.
        name: String,
        /// Its value.
        value: u64,
        /// The largest sensible value.
        limit: u64,
    },
    /// Something that nobody asked for.
    #[error("{name} belongs to no part of this run")]
    Unknown {
        /// Its name.
        name: String,
    },
}

impl State {
    /// Keeps a vector under `name`.
    pub fn put(&mut self, name: impl Into<String>, values: &[f32]) {
        self.tensors.insert(name.into(), values.to_vec());
    }

    /// Keeps a counter under `name`.
    pub fn put_counter(&mut self, name: impl Into<String>, value: u64) {
        self.counters.insert(name.into(), value);
    }

    /// The vector `name`, which must have `len` values.
    pub fn tensor(&self, name: &str, len: usize) -> Result<&[f32], StateError> {
        let values = self
            .tensors
            .get(name)
            .ok_or_else(|| StateError::Missing { name: name.into() })?;
        if values.len() == len {
            Ok(values)
        } else {
            Err(StateError::Length {
                name: name.into(),
                len: values.len(),
                expected: len,
            })
        }
    }

    /// The counter `name`.
    pub fn counter(&self, name: &str) -> Result<u64, StateError> {
        self.counters
            .get(name)
            .copied()
            .ok_or_else(|| StateError::Missing { name: name.into() })
    }

    /// The counter `name`, which must not exceed `limit`.
    pub fn counter_up_to(&self, name: &str, limit: u64) -> Result<u64, StateError> {
        match self.counter(name)? {
            value if value <= limit => Ok(value),
            value => Err(StateError::Range {
                name: name.into(),
                value,
                limit,
            }),
        }
    }

    /// Names of all tensors and counters.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors
            .keys()
            .chain(self.counters.keys())
            .map(String::as_str)
    }

    /// An error naming the first entry that `known` does not have: what was restored, written
    /// again, must cover what was read.
    pub fn within(&self, known: &State) -> Result<(), StateError> {
        let missing = self
            .tensors
            .keys()
            .find(|name| !known.tensors.contains_key(*name))
            .or_else(|| {
                self.counters
                    .keys()
                    .find(|name| !known.counters.contains_key(*name))
            });
        missing.map_or(Ok(()), |name| {
            Err(StateError::Unknown { name: name.clone() })
        })
    }

    /// The bytes of one safetensors file: vectors as F32 `[n]`, counters as U64 `[1]`.
    pub fn to_bytes(&self) -> Result<Vec<u8>, StateError> {
        let tensors = self
            .tensors
            .iter()
            .map(|(name, values)| (name.as_str(), Entry::vector(values)));
        let counters = self
            .counters
            .iter()
            .map(|(name, &value)| (name.as_str(), Entry::counter(value)));
        Ok(safetensors::serialize(tensors.chain(counters), None)?)
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote; anything else in the file is an error.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StateError> {
        let mut state = Self::default();
        for (name, view) in SafeTensors::deserialize(bytes)?.iter() {
            match (view.dtype(), view.shape()) {
                (Dtype::F32, [_]) => {
                    let values = view
                        .data()
                        .as_chunks()
                        .0
                        .iter()
                        .map(|b| f32::from_le_bytes(*b))
                        .collect();
                    state.tensors.insert(name.to_owned(), values);
                }
                (Dtype::U64, [1]) => {
                    let value = view
                        .data()
                        .as_chunks()
                        .0
                        .iter()
                        .map(|b| u64::from_le_bytes(*b))
                        .sum();
                    state.counters.insert(name.to_owned(), value);
                }
                (dtype, shape) => {
                    let (dtype, shape) = (format!("{dtype:?}"), shape.to_vec());
                    return Err(StateError::Kind {
                        name: name.to_owned(),
                        dtype,
                        shape,
                    });
                }
            }
        }
        Ok(state)
    }
}

/// A tensor on its way into the file.
struct Entry {
    dtype: Dtype,
    shape: [usize; 1],
    bytes: Vec<u8>,
}

impl Entry {
    fn vector(values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        Self {
            dtype: Dtype::F32,
            shape: [values.len()],
            bytes,
        }
    }

    fn counter(value: u64) -> Self {
        Self {
            dtype: Dtype::U64,
            shape: [1],
            bytes: value.to_le_bytes().to_vec(),
        }
    }
}

impl View for Entry {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> State {
        let mut state = State::default();
        state.put("b", &[1.5, f32::MIN_POSITIVE, -0.0]);
        state.put("a", &[]);
        state.put_counter("steps", u64::MAX);
        state
    }

    #[test]
    fn what_was_written_is_read() {
        let bytes = example().to_bytes().unwrap();
        let read = State::from_bytes(&bytes).unwrap();
        assert_eq!(read, example());
        assert_eq!(read.to_bytes().unwrap(), bytes);
    }

    #[test]
    fn readers_name_what_is_wrong() {
        let state = example();
        assert_eq!(
            state.tensor("c", 1).unwrap_err().to_string(),
            "c is missing"
        );
        assert_eq!(
            state.tensor("b", 2).unwrap_err().to_string(),
            "b has 3 values, expected 2"
        );
        assert_eq!(
            state.within(&State::default()).unwrap_err().to_string(),
            "a belongs to no part of this run"
        );
        let bytes = state.to_bytes().unwrap();
        for end in 0..bytes.len() {
            assert!(
                State::from_bytes(&bytes[..end]).is_err(),
                "{end} bytes of {}",
                bytes.len()
            );
        }
    }
}
