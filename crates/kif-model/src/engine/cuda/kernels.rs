//! The sources of our kernels, and their compilation for the device at hand.

use std::sync::OnceLock;

use cudarc::nvrtc::{CompileError, CompileOptions, compile_ptx_with_opts};

use crate::ModelError;

/// What the others share, and then one file for each kind of operation.
const SOURCES: [&str; 11] = [
    include_str!("kernels/common.cuh"),
    include_str!("kernels/cast.cu"),
    include_str!("kernels/activation.cu"),
    include_str!("kernels/arithmetic.cu"),
    include_str!("kernels/norm.cu"),
    include_str!("kernels/rows.cu"),
    include_str!("kernels/embedding.cu"),
    include_str!("kernels/dropout.cu"),
    include_str!("kernels/gate.cu"),
    include_str!("kernels/attention.cu"),
    include_str!("kernels/loss.cu"),
];

/// The names of all kernels, as the sources declare them.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    SOURCES.iter().flat_map(|source| {
        source
            .split("extern \"C\" __global__ void ")
            .skip(1)
            .filter_map(|rest| rest.split('(').next())
    })
}

/// PTX of all kernels for a device of this compute capability.
///
/// The device compiles it further. PTX for an older device runs on a newer one, so what is newer
/// than this list gets its last entry.
pub(super) fn compile(capability: (i32, i32)) -> Result<String, ModelError> {
    let arch = match capability {
        (..7, _) | (7, ..5) => {
            let (major, minor) = capability;
            let what = format!("a GPU of compute capability {major}.{minor} (7.5 and newer are)");
            return Err(ModelError::Unsupported { what });
        }
        (7, _) => "compute_75",
        (8, ..6) => "compute_80",
        (8, ..9) => "compute_86",
        (8, _) => "compute_89",
        _ => "compute_90",
    };
    // One process meets one kind of device.
    static PTX: OnceLock<Result<String, String>> = OnceLock::new();
    let ptx = PTX.get_or_init(|| {
        let options = CompileOptions {
            arch: Some(arch),
            ..CompileOptions::default()
        };
        match compile_ptx_with_opts(SOURCES.concat(), options) {
            Ok(ptx) => Ok(ptx.to_src()),
            Err(CompileError::CompileError { log, .. }) => Err(log.to_string_lossy().into_owned()),
            Err(error) => Err(error.to_string()),
        }
    });
    ptx.clone()
        .map_err(|problem| ModelError::Device(format!("compiling kernels for {arch}: {problem}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_is_scanned_for_kernels() {
        let names: Vec<_> = names().collect();
        for expected in [
            "largest",
            "relu",
            "scale",
            "rms_norm",
            "embed",
            "dropout",
            "gate",
            "softmax_rows",
            "divergence",
        ] {
            assert!(
                names.contains(&expected),
                "{expected} is not among {names:?}"
            );
        }
    }
}
