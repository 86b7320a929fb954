//! What a CUDA build needs and a machine without a GPU lacks: nvcc from wheels, an `nvidia-smi`
//! that answers the build script of dfdx, and libraries to link with.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::dependency::{declared, package_dir};
use crate::{process, workspace};

/// CUDA 13.0 and no later: a driver of 13.0 refuses the PTX of a newer nvcc.
const WHEELS: [&str; 6] = [
    "nvidia-cuda-nvcc==13.0.88",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-cuda-cccl==13.0.85",
    // Not for the build: the smoke test compiles every kernel with it.
    "nvidia-cuda-nvrtc==13.0.88",
];

/// The compute capability that is built for: H100, H200.
const COMPUTE_CAP: &str = "90";

/// Folders of an installed toolchain.
pub(crate) struct Toolchain {
    /// What `CUDA_PATH` names. Its `include` is baked into the programs, and `run.sh` makes it
    /// again where they run.
    pub(crate) root: PathBuf,
    /// The unpacked wheels.
    wheels: PathBuf,
}

impl Toolchain {
    /// Installs what is not there yet.
    pub(crate) fn install() -> Result<Self> {
        let folder = super::folder()?;
        let wheels = folder.join("wheels/nvidia/cu13");
        if !wheels.join("lib/libnvrtc.so.13").exists() || !wheels.join("bin/nvcc").exists() {
            download(&folder)?;
        }
        let toolchain = Self {
            root: root(),
            wheels,
        };
        toolchain.headers()?;
        toolchain.stubs()?;
        toolchain.programs()?;
        Ok(toolchain)
    }

    /// The folder of the real `libnvrtc.so.13`.
    pub(crate) fn nvrtc(&self) -> PathBuf {
        self.wheels.join("lib")
    }

    /// Headers that NVRTC reads when the program runs.
    pub(crate) fn run_time_headers(&self) -> Result<Vec<PathBuf>> {
        let mut headers: Vec<PathBuf> = ["cuda_fp16.h", "cuda_fp16.hpp"]
            .map(|name| self.wheels.join("include").join(name))
            .into();
        let dfdx = package_dir("dfdx")?.join("src/tensor_ops/utilities");
        for entry in fs::read_dir(&dfdx).with_context(|| format!("reading {}", dfdx.display()))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "cuh") {
                headers.push(path);
            }
        }
        Ok(headers)
    }

    /// Cargo, in a target folder of its own, with the toolchain in its environment.
    pub(crate) fn cargo(&self) -> Result<Command> {
        let path = std::env::join_paths(std::iter::once(self.root.join("bin")).chain(
            std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()),
        ))?;
        let mut cargo = process::cargo();
        cargo
            .env("PATH", path)
            .env("CUDA_PATH", &self.root)
            .env("CUDA_COMPUTE_CAP", COMPUTE_CAP)
            // dfdx's build script does not notice another CUDA_PATH.
            .env("CARGO_TARGET_DIR", super::folder()?.join("build"))
            .current_dir(workspace::root()?);
        Ok(cargo)
    }

    fn headers(&self) -> Result<()> {
        let include = self.root.join("include");
        fs::create_dir_all(&include).with_context(|| format!("creating {}", include.display()))?;
        let mut headers = self.run_time_headers()?;
        headers.push(self.wheels.join("include/cuda.h"));
        headers
            .iter()
            .try_for_each(|header| copy_into(header, &include))
    }

    /// Libraries that have the names and nothing else, for the linker.
    fn stubs(&self) -> Result<()> {
        let folder = self.root.join("lib64/stubs");
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        let cudarc = package_dir("cudarc")?;
        for (module, prefix, name, soname) in [
            ("driver", "cu", "cuda", "libcuda.so.1"),
            ("nvrtc", "nvrtc", "nvrtc", "libnvrtc.so.13"),
            ("cublas", "cublas", "cublas", "libcublas.so.13"),
            ("cublaslt", "cublasLt", "cublasLt", "libcublasLt.so.13"),
        ] {
            let mut text = String::new();
            for function in declared(&cudarc, module, prefix)? {
                let _ = writeln!(text, "int {function}(void) {{ return 100; }}");
            }
            let source = folder.join(format!("{name}.c"));
            fs::write(&source, text).with_context(|| format!("writing {}", source.display()))?;
            process::run(
                Command::new("gcc")
                    .args(["-shared", "-fPIC", "-w"])
                    .arg(format!("-Wl,-soname,{soname}"))
                    .arg("-o")
                    .arg(folder.join(format!("lib{name}.so")))
                    .arg(&source),
            )?;
        }
        Ok(())
    }

    fn programs(&self) -> Result<()> {
        let bin = self.root.join("bin");
        fs::create_dir_all(&bin).with_context(|| format!("creating {}", bin.display()))?;
        program(
            &bin.join("nvidia-smi"),
            "#!/bin/sh\necho compute_cap\necho 9.0\n",
        )?;
        // dfdx starts 49 of them at once; two at a time fit a small machine.
        program(
            &bin.join("nvcc"),
            &format!(
                "#!/bin/bash\nnvcc='{}'\ncase \"$*\" in *--list-gpu*|*--version*) exec \"$nvcc\" \"$@\";; esac\n\
                 exec 9>'{}/slot'$(( $$ % 2 ))\nflock 9\nexec \"$nvcc\" \"$@\" 9>&-\n",
                self.wheels.join("bin/nvcc").display(),
                bin.display()
            ),
        )
    }
}

/// `KIF_CUDA_ROOT`, or a folder that every machine can have.
pub(crate) fn root() -> PathBuf {
    std::env::var_os("KIF_CUDA_ROOT").map_or_else(|| "/tmp/kif-cuda".into(), PathBuf::from)
}

pub(crate) fn copy_into(file: &Path, folder: &Path) -> Result<()> {
    let name = file.file_name().context("a file has a name")?;
    fs::copy(file, folder.join(name))
        .with_context(|| format!("copying {} to {}", file.display(), folder.display()))?;
    Ok(())
}

/// Writes a script that can be started.
pub(crate) fn program(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    // Elsewhere nothing of this folder runs, but `cargo xtask` itself must build.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("making {} a program", path.display()))?;
    }
    Ok(())
}

fn download(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    process::run(
        Command::new("python3")
            .args(["-m", "venv"])
            .arg(folder.join("venv")),
    )?;
    process::run(
        Command::new(folder.join("venv/bin/pip"))
            .args([
                "install",
                "--quiet",
                "--no-compile",
                "--no-deps",
                "--upgrade",
                "--target",
            ])
            .arg(folder.join("wheels"))
            .args(WHEELS),
    )
}
