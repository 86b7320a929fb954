//! CUDA without a GPU: the toolchain from Python wheels, the package for a GPU machine, the device
//! emulator, and a smoke test of the first under the last (docs/cuda.md).

mod dependency;
pub(crate) mod emulator;
pub(crate) mod package;
pub(crate) mod smoke;
mod toolchain;

use std::path::PathBuf;

use anyhow::Result;

use crate::process;

/// The folder of everything that these tasks make.
fn folder() -> Result<PathBuf> {
    Ok(process::target_dir()?.join("cuda"))
}
