//! An open safetensors file, read tensor by tensor and widened to f32.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use half::{bf16, f16};

use super::header::{TensorInfo, read_header};
use crate::ModelError;
use crate::error::Mismatch;

/// Dtypes that can be read.
pub(super) const DTYPES: [&str; 3] = ["F32", "F16", "BF16"];

#[derive(Debug)]
pub(super) struct Stored {
    path: PathBuf,
    file: Mutex<File>,
}

impl Stored {
    /// Opens a file and reads its header.
    pub(super) fn open(path: &Path) -> Result<(Self, Vec<TensorInfo>), ModelError> {
        let mut file = File::open(path).map_err(|e| ModelError::io("opening", path, e))?;
        let infos = read_header(&mut file, path)?;
        Ok((
            Self {
                path: path.to_owned(),
                file: Mutex::new(file),
            },
            infos,
        ))
    }

    /// Reads through a small buffer, so that only the f32 values are held whole.
    pub(super) fn values(&self, info: &TensorInfo) -> Result<Vec<f32>, ModelError> {
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
