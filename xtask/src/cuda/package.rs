//! `cargo xtask cuda-package`: programs for a machine that has a GPU and no Rust, from one that has
//! neither GPU nor toolkit.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};

use super::toolchain::{Toolchain, copy_into, program};
use crate::process;

/// What the package may weigh, so that it travels.
const MAX_BYTES: u64 = 16 << 20;

/// Arguments of `cargo xtask cuda-package`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Where the package goes
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Builds, packs, and says how to run it.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let out = match &options.out {
        Some(out) => out.clone(),
        None => super::folder()?.join("package"),
    };
    let toolchain = Toolchain::install()?;
    let bytes = pack(&toolchain, &out)?;
    println!(
        "{}: {:.1} MiB. Bring it to the machine with the GPU and run there:\n\n  tar xzf {} && cd {}\n  \
         ./run.sh kif selftest --device cuda\n  ./run.sh test-kif_model cuda\n  ./run.sh kif perf --device cuda",
        archive(&out).display(),
        bytes as f64 / f64::from(1 << 20),
        file_name(&archive(&out)),
        file_name(&out),
    );
    Ok(ExitCode::SUCCESS)
}

/// The package in one file.
fn archive(out: &Path) -> PathBuf {
    out.with_extension("tar.gz")
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// Programs, headers and `run.sh` in a new folder `out`, and all of it in an archive; returns the
/// archive's size in bytes.
pub(crate) fn pack(toolchain: &Toolchain, out: &Path) -> Result<u64> {
    process::run(toolchain.cargo()?.args([
        "build",
        "--release",
        "--package",
        "kif-runner",
        "--bin",
        "kif",
        "--features",
        "cuda",
    ]))?;
    let build = super::folder()?.join("build/release");
    let tests = test_programs(toolchain)?;
    // Only what an earlier call made is removed.
    if out.exists() {
        if !out.join("run.sh").exists() && fs::read_dir(out)?.next().is_some() {
            bail!("{} is not empty and no package", out.display());
        }
        fs::remove_dir_all(out).with_context(|| format!("emptying {}", out.display()))?;
    }
    let include = out.join("include");
    fs::create_dir_all(&include).with_context(|| format!("creating {}", include.display()))?;
    for header in toolchain.run_time_headers()? {
        copy_into(&header, &include)?;
    }
    strip(&build.join("kif"), &out.join("kif"))?;
    for (name, path) in tests {
        strip(&path, &out.join(format!("test-{name}")))?;
    }
    let root = toolchain
        .root
        .to_str()
        .context("KIF_CUDA_ROOT is not UTF-8")?;
    program(
        &out.join("run.sh"),
        &include_str!("run.sh").replace("@ROOT@", &format!("'{root}'")),
    )?;
    let archive = archive(out);
    let parent = out.parent().context("a package is no root folder")?;
    process::run(
        Command::new("tar")
            .arg("czf")
            .arg(&archive)
            .arg("-C")
            .arg(parent)
            .arg(file_name(out)),
    )?;
    let bytes = archive.metadata()?.len();
    if bytes > MAX_BYTES {
        bail!(
            "{}: {bytes} bytes, at most {MAX_BYTES} travel",
            archive.display()
        );
    }
    Ok(bytes)
}

/// Names and paths of kif-model's test binaries that look at the GPU: those inside the crate.
fn test_programs(toolchain: &Toolchain) -> Result<Vec<(String, PathBuf)>> {
    let output = toolchain
        .cargo()?
        .args([
            "test",
            "--no-run",
            "--release",
            "--package",
            "kif-model",
            "--lib",
            "--features",
            "cuda",
            "--message-format",
            "json",
        ])
        .stderr(Stdio::inherit())
        .output()
        .context("starting cargo test")?;
    if !output.status.success() {
        bail!("cargo test --no-run ended with {}", output.status);
    }
    let mut programs = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let message: serde_json::Value =
            serde_json::from_str(line).context("reading cargo's messages")?;
        if let (Some(path), Some(name)) = (
            message["executable"].as_str(),
            message["target"]["name"].as_str(),
        ) {
            programs.push((name.to_owned(), path.into()));
        }
    }
    Ok(programs)
}

/// Copies a program without its debugging information.
fn strip(from: &Path, to: &Path) -> Result<()> {
    process::run(Command::new("strip").arg("-o").arg(to).arg(from))
}
