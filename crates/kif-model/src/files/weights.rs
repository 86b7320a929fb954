//! Named tensors of a model: read one by one from `model.safetensors` or its shards, or made by a program.
//!
//! A file's header is read and checked at once, its values when they are asked for: a model can take tensor after
//! tensor without a second copy of all of them. Files stay open and must not be changed meanwhile.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use half::{bf16, f16};

use super::header::{MAX_HEADER, TensorInfo, read_header};
use super::json::{parse_object, read_limited};
use crate::ModelError;
use crate::error::{Mismatch, check_finite};

/// The file that holds all weights of a model directory.
pub const WEIGHTS_FILE: &str = "model.safetensors";
/// The file that says which shard holds which tensor.
pub const INDEX_FILE: &str = "model.safetensors.index.json";

/// A dense tensor, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Its extents; a scalar has none.
    pub shape: Vec<usize>,
    /// As many values as the product of the extents.
    pub values: Vec<f32>,
}

/// Named f32 tensors, in memory or still in their files.
#[derive(Clone, Debug, Default)]
pub struct Weights {
    origin: PathBuf,
    tensors: BTreeMap<String, Source>,
}

#[derive(Clone, Debug)]
enum Source {
    Memory(Tensor),
    Stored { file: Arc<Stored>, info: TensorInfo },
}

#[derive(Debug)]
struct Stored {
    path: PathBuf,
    file: Mutex<File>,
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

    /// Opens the weights of a Hugging Face directory: `model.safetensors`, else the shards of its index.
    pub fn read(dir: &Path) -> Result<Self, ModelError> {
        let (single, index) = (dir.join(WEIGHTS_FILE), dir.join(INDEX_FILE));
        if !single.exists() && index.exists() {
            Self::read_shards(dir, &index)
        } else {
            Self::read_file(&single)
        }
    }

    /// Opens one safetensors file.
    pub fn read_file(path: &Path) -> Result<Self, ModelError> {
        let mut file = File::open(path).map_err(|e| ModelError::io("opening", path, e))?;
        let infos = read_header(&mut file, path)?;
        let stored = Arc::new(Stored {
            path: path.to_owned(),
            file: Mutex::new(file),
        });
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

    fn read_shards(dir: &Path, index: &Path) -> Result<Self, ModelError> {
        let mut all = Self {
            origin: index.to_owned(),
            tensors: BTreeMap::new(),
        };
        let place = shard_of(index)?;
        for name in shard_names(&place) {
            let path = dir.join(name);
            for (tensor, source) in Self::read_file(&path)?.tensors {
                if place.get(&tensor).map(String::as_str) != Some(name) {
                    let problem =
                        format!("{tensor:?} is stored in {name}, the index says otherwise");
                    return Err(ModelError::malformed(index, problem));
                }
                all.tensors.insert(tensor, source);
            }
        }
        match place
            .iter()
            .find(|(tensor, _)| !all.tensors.contains_key(*tensor))
        {
            None => Ok(all),
            Some((tensor, shard)) => Err(ModelError::malformed(
                index,
                format!("{tensor:?} is not in {shard}"),
            )),
        }
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

    /// Values of a tensor, read from its file and converted if need be. Missing tensors, dtypes other than f32, f16
    /// and bf16, and values that are not finite are errors.
    pub fn get(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let values = match self.tensors.get(name) {
            None => return Err(self.missing(name)),
            Some(Source::Memory(tensor)) => tensor.values.clone(),
            Some(Source::Stored { file, info }) => file.values(info)?,
        };
        check_finite(name, &values)?;
        Ok(values)
    }

    /// As [`get`](Self::get), and forgets the tensor.
    pub fn take(&mut self, name: &str) -> Result<Vec<f32>, ModelError> {
        let values = match self.tensors.remove(name) {
            None => return Err(self.missing(name)),
            Some(Source::Memory(tensor)) => tensor.values,
            Some(Source::Stored { file, info }) => file.values(&info)?,
        };
        check_finite(name, &values)?;
        Ok(values)
    }

    /// Demands exactly the `expected` tensors, and allows the `optional` ones; the error lists every difference.
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
        let mismatches = vec![Mismatch::Missing {
            name: name.to_owned(),
            shape: Vec::new(),
        }];
        ModelError::Tensors {
            file: self.origin.clone(),
            mismatches,
        }
    }
}

impl Source {
    fn dtype_mismatch(&self) -> Option<Mismatch> {
        match self {
            Source::Stored { info, .. }
                if !matches!(info.dtype.as_str(), "F32" | "F16" | "BF16") =>
            {
                Some(Mismatch::Dtype {
                    name: info.name.clone(),
                    dtype: info.dtype.clone(),
                })
            }
            _ => None,
        }
    }
}

impl Stored {
    /// Reads through a small buffer, so that only the f32 values are held whole.
    fn values(&self, info: &TensorInfo) -> Result<Vec<f32>, ModelError> {
        let (width, convert): (usize, fn(&[u8]) -> f32) = match info.dtype.as_str() {
            "F32" => (4, |b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
            "F16" => (2, |b| f16::from_le_bytes([b[0], b[1]]).to_f32()),
            "BF16" => (2, |b| bf16::from_le_bytes([b[0], b[1]]).to_f32()),
            other => {
                let mismatches = vec![Mismatch::Dtype {
                    name: info.name.clone(),
                    dtype: other.to_owned(),
                }];
                return Err(ModelError::Tensors {
                    file: self.path.clone(),
                    mismatches,
                });
            }
        };
        let io = |error| ModelError::io("reading", &self.path, error);
        // A reader that panicked leaves only the file's position behind, and every read sets that first.
        let mut file = self
            .file
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        file.seek(SeekFrom::Start(info.at)).map_err(io)?;
        let mut left = info.n_bytes as usize;
        let mut values = Vec::with_capacity(left / width);
        let mut buffer = vec![0; left.min(1 << 20)];
        while left > 0 {
            let part = &mut buffer[..left.min(1 << 20)];
            file.read_exact(part).map_err(io)?;
            values.extend(part.chunks_exact(width).map(convert));
            left -= part.len();
        }
        Ok(values)
    }
}

/// The index: tensor name to shard.
fn shard_of(index: &Path) -> Result<BTreeMap<String, String>, ModelError> {
    let bytes = read_limited(index, MAX_HEADER)?;
    let entries = parse_object::<serde_json::Value>(index, &bytes)?;
    let Some((_, map)) = entries.into_iter().find(|(key, _)| key == "weight_map") else {
        return Err(ModelError::malformed(index, "has no weight_map"));
    };
    let place: BTreeMap<String, String> = serde_json::from_value(map).map_err(|e| {
        ModelError::malformed(index, format!("weight_map: expected names of files: {e}"))
    })?;
    for shard in place.values() {
        let plain = Path::new(shard)
            .file_name()
            .is_some_and(|name| name == shard.as_str());
        if !plain || !shard.ends_with(".safetensors") {
            let problem = format!(
                "weight_map: {shard:?} is not the name of a safetensors file beside the index"
            );
            return Err(ModelError::malformed(index, problem));
        }
    }
    Ok(place)
}

fn shard_names(place: &BTreeMap<String, String>) -> std::collections::BTreeSet<&str> {
    place.values().map(String::as_str).collect()
}

/// Every file that a model is read from: configuration, weights, and the tokenizer if there is one.
pub fn model_files(dir: &Path) -> Result<Vec<PathBuf>, ModelError> {
    let (single, index) = (dir.join(WEIGHTS_FILE), dir.join(INDEX_FILE));
    let mut files = vec![dir.join("config.json")];
    if !single.exists() && index.exists() {
        let place = shard_of(&index)?;
        files.push(index);
        files.extend(shard_names(&place).into_iter().map(|name| dir.join(name)));
    } else {
        files.push(single);
    }
    files.extend(Some(dir.join("tokenizer.json")).filter(|path| path.exists()));
    Ok(files)
}
