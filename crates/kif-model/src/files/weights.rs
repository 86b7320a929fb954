//! Named tensors of a model: read one by one from `model.safetensors`, its shards or a GGUF file,
//! or made by a program.
//!
//! A file's header is read and checked at once, its values are mapped into memory when they are
//! asked for: a model can take tensor after tensor without a second copy of any.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::gguf::{Gguf, Quantised};
use super::header::TensorInfo;
use super::stored::Stored;
use super::values::{StoredDtype, Values};
use crate::ModelError;
use crate::error::Mismatch;

/// The file that holds all weights of a model directory.
pub const WEIGHTS_FILE: &str = "model.safetensors";

/// A dense tensor, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Its extents; a scalar has none.
    pub shape: Vec<usize>,
    /// As many values as the product of the extents.
    pub values: Vec<f32>,
}

/// Named f32 tensors, in memory or still in their files.
///
/// Files are mapped into memory while a model takes their tensors. Meanwhile nobody may write to
/// them or cut them short: the system ends a process that reads behind the end of a mapped file.
#[derive(Clone, Debug, Default)]
pub struct Weights {
    pub(super) origin: PathBuf,
    pub(super) tensors: BTreeMap<String, Source>,
}

#[derive(Clone, Debug)]
pub(super) enum Source {
    Memory(Tensor),
    Stored { file: Arc<Stored>, info: TensorInfo },
    Quantised(Quantised),
}

impl Weights {
    /// No tensors at all.
    pub fn new() -> Self {
        Self {
            origin: "weights in memory".into(),
            tensors: BTreeMap::new(),
        }
    }

    pub(crate) fn from_tensors(origin: &Path, tensors: BTreeMap<String, Tensor>) -> Self {
        let tensors = tensors
            .into_iter()
            .map(|(name, tensor)| (name, Source::Memory(tensor)));
        Self {
            origin: origin.to_owned(),
            tensors: tensors.collect(),
        }
    }

    /// Opens one safetensors file.
    pub fn read_file(path: &Path) -> Result<Self, ModelError> {
        let (stored, infos) = Stored::open(path)?;
        let stored = Arc::new(stored);
        let source = |info: TensorInfo| {
            (
                info.name.clone(),
                Source::Stored {
                    file: stored.clone(),
                    info,
                },
            )
        };
        Ok(Self {
            origin: path.to_owned(),
            tensors: infos.into_iter().map(source).collect(),
        })
    }

    /// The tensors of a GGUF file, under Hugging Face's names.
    pub(super) fn of_gguf(gguf: &Gguf) -> Result<Self, ModelError> {
        let tensors = gguf.tensors()?.into_iter();
        Ok(Self {
            origin: gguf.path().to_owned(),
            tensors: tensors
                .map(|(name, tensor)| (name, Source::Quantised(tensor)))
                .collect(),
        })
    }

    /// Every name, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether there is such a tensor.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The shape of a tensor, if there is one.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        Some(match self.tensors.get(name)? {
            Source::Memory(tensor) => &tensor.shape,
            Source::Stored { info, .. } => &info.shape,
            Source::Quantised(tensor) => tensor.shape(),
        })
    }

    /// Number of values of all tensors together.
    pub fn n_values(&self) -> usize {
        self.names()
            .filter_map(|name| self.shape(name))
            .map(|shape| shape.iter().product::<usize>())
            .sum()
    }

    /// The file that the tensors came from, for messages.
    pub fn origin(&self) -> &Path {
        &self.origin
    }

    /// Adds or replaces a tensor.
    pub fn insert(&mut self, name: impl Into<String>, shape: Vec<usize>, values: Vec<f32>) {
        let name = name.into();
        assert_eq!(
            shape.iter().product::<usize>(),
            values.len(),
            "{name} of shape {shape:?}"
        );
        self.tensors
            .insert(name, Source::Memory(Tensor { shape, values }));
    }

    /// Values of a tensor, read from its file and converted if need be. Missing tensors, dtypes
    /// other than f32, f16 and bf16, and values that are not finite are errors.
    pub fn get(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        Ok(self.values(name)?.into_vec())
    }

    /// As [`get`](Self::get), without a copy of what is in a file.
    pub(crate) fn values(&self, name: &str) -> Result<Values, ModelError> {
        match self.tensors.get(name) {
            None => Err(self.missing(name)),
            Some(source) => source.clone().values(name),
        }
    }

    /// As [`get`](Self::get), and forgets the tensor.
    pub fn take(&mut self, name: &str) -> Result<Vec<f32>, ModelError> {
        Ok(self.take_values(name)?.into_vec())
    }

    /// As [`take`](Self::take), without a copy of what is in a file.
    pub(crate) fn take_values(&mut self, name: &str) -> Result<Values, ModelError> {
        match self.tensors.remove(name) {
            None => Err(self.missing(name)),
            Some(source) => source.values(name),
        }
    }

    /// Demands exactly the `expected` tensors, and allows the `optional` ones; the error lists
    /// every difference.
    pub fn expect(
        &self,
        expected: &[(String, Vec<usize>)],
        optional: &[(String, Vec<usize>)],
    ) -> Result<(), ModelError> {
        let known: BTreeMap<&str, &[usize]> = expected
            .iter()
            .chain(optional)
            .map(|(name, shape)| (name.as_str(), shape.as_slice()))
            .collect();
        let missing = expected.iter().filter(|(name, _)| !self.contains(name));
        let mut mismatches: Vec<Mismatch> = missing
            .map(|(name, shape)| Mismatch::Missing {
                name: name.clone(),
                shape: shape.clone(),
            })
            .collect();
        for (name, source) in &self.tensors {
            let shape = self.shape(name).unwrap_or_default();
            match known.get(name.as_str()) {
                None => mismatches.push(Mismatch::Extra { name: name.clone() }),
                Some(&expected) if expected != shape => {
                    let (got, expected) = (shape.to_vec(), expected.to_vec());
                    mismatches.push(Mismatch::Shape {
                        name: name.clone(),
                        got,
                        expected,
                    });
                }
                Some(_) => mismatches.extend(source.dtype_mismatch()),
            }
        }
        if mismatches.is_empty() {
            return Ok(());
        }
        Err(ModelError::Tensors {
            file: self.origin.clone(),
            mismatches,
        })
    }

    fn missing(&self, name: &str) -> ModelError {
        ModelError::malformed(&self.origin, format!("has no tensor {name:?}"))
    }
}

impl Source {
    /// The values, all of them finite; `name` is the tensor's.
    fn values(self, name: &str) -> Result<Values, ModelError> {
        let values = match self {
            Source::Memory(tensor) => Values::Memory(tensor.values),
            Source::Stored { file, info } => file.values(&info)?,
            Source::Quantised(tensor) => tensor.values()?,
        };
        values.check_finite(name)?;
        Ok(values)
    }

    fn dtype_mismatch(&self) -> Option<Mismatch> {
        match self {
            Source::Stored { info, .. } if StoredDtype::named(&info.dtype).is_none() => {
                Some(Mismatch::Dtype {
                    name: info.name.clone(),
                    dtype: info.dtype.clone(),
                })
            }
            _ => None,
        }
    }
}
