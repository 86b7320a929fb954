//! An open safetensors file, whose tensors are mapped into memory one by one, and the mapping.
#![allow(unsafe_code)] // Memory maps.

use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::{Mmap, MmapOptions};

use super::header::{TensorInfo, read_header};
use super::values::{Mapped, StoredDtype, Values};
use crate::ModelError;
use crate::error::Mismatch;

#[derive(Debug)]
pub(super) struct Stored {
    path: PathBuf,
    file: File,
}

impl Stored {
    /// Opens a file and reads its header.
    pub(super) fn open(path: &Path) -> Result<(Self, Vec<TensorInfo>), ModelError> {
        let mut file = File::open(path).map_err(|e| ModelError::io("opening", path, e))?;
        let infos = read_header(&mut file, path)?;
        let path = path.to_owned();
        Ok((Self { path, file }, infos))
    }

    /// Maps the values of a tensor; nothing is read yet.
    pub(super) fn values(&self, info: &TensorInfo) -> Result<Values, ModelError> {
        let Some(dtype) = StoredDtype::named(&info.dtype) else {
            let mismatches = vec![Mismatch::Dtype {
                name: info.name.clone(),
                dtype: info.dtype.clone(),
            }];
            return Err(ModelError::Tensors {
                file: self.path.clone(),
                mismatches,
            });
        };
        if info.n_bytes == 0 {
            return Ok(Values::Memory(Vec::new()));
        }
        let bytes = map_file(&self.file, &self.path, info.at, info.n_bytes)?;
        Ok(Values::Mapped(Mapped { bytes, dtype }))
    }
}

/// Maps `n_bytes` of a file, at least one, from byte `at` on, which the caller saw to be in the
/// file; nothing is read yet.
pub(super) fn map_file(
    file: &File,
    path: &Path,
    at: u64,
    n_bytes: u64,
) -> Result<Mmap, ModelError> {
    let mut options = MmapOptions::new();
    options.offset(at).len(n_bytes as usize);
    // SAFETY: the map is only read, as bytes, of which any are valid, and the header's check saw
    // that the file reaches this far. That nobody changes the file meanwhile cannot be seen from
    // here: [`Weights`](super::Weights) demands it of its callers, as every reader of mapped
    // weights does.
    let bytes = unsafe { options.map(file) };
    bytes.map_err(|error| ModelError::io("mapping", path, error))
}
