//! Writing a file so that its path holds either the old contents or all of the new ones.

use std::io::Write;
use std::path::Path;

use kif_io::atomic;

use crate::ModelError;

/// Writes `bytes` to `path`.
pub(crate) fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), ModelError> {
    atomic::write_with(path, |out| {
        out.write_all(bytes)
            .map_err(|e| ModelError::io("writing", path, e))
    })
}

/// Creates a folder, with those above it, that a later [`write_atomic`] writes into.
pub(crate) fn create_folder(dir: &Path) -> Result<(), ModelError> {
    std::fs::create_dir_all(dir).map_err(|e| ModelError::io("creating folder", dir, e))
}
