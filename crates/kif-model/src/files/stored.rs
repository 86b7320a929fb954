//! An open safetensors file, whose tensors are mapped into memory one by one.
#![allow(unsafe_code)] // Memory maps.

use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::MmapOptions;

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
        let mut options = MmapOptions::new();
        options.offset(info.at).len(info.n_bytes as usize);
        // SAFETY: the map is only read, as bytes, of which any are valid, and the header's check
        // saw that the file reaches this far. That nobody changes the file meanwhile cannot be seen
        // from here: [`Weights`](super::Weights) demands it of its callers, as every reader of
        // mapped weights does.
        let bytes = unsafe { options.map(&self.file) };
        let bytes = bytes.map_err(|error| ModelError::io("mapping", &self.path, error))?;
        Ok(Values::Mapped(Mapped { bytes, dtype }))
    }
}
