//! `cargo xtask cuda-smoke`: the package runs on the device emulator, with the real compiler of
//! kernels.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::Result;

use super::dependency::package_dir;
use super::toolchain::Toolchain;
use super::{emulator, package};
use crate::{process, workspace};

/// Builds package and emulator, and runs every program of the package; the first that fails ends
/// it.
pub(crate) fn run() -> Result<ExitCode> {
    let toolchain = Toolchain::install()?;
    let folder = super::folder()?;
    let (out, libraries) = (folder.join("package"), folder.join("emulator"));
    package::pack(&toolchain, &out)?;
    let names = emulator::build(
        &emulator::kernels_dir()?,
        &libraries,
        Some(&package_dir("cudarc")?),
    )?;
    eprintln!("== emulator: {} kernels", names.len());

    let kif = |arguments: &[&str]| start(&toolchain, &out, &libraries, "kif", arguments);
    let help = kif(&["--help"])?.output()?;
    let help = String::from_utf8_lossy(&help.stdout);
    for command in ["doctor", "selftest"] {
        if help
            .lines()
            .any(|line| line.trim_start().starts_with(command))
        {
            eprintln!("== kif {command}");
            process::run(&mut kif(&[command, "--device", "cuda"])?)?;
        } else {
            eprintln!("== kif {command}: this program has no such command");
        }
    }
    let mut tests: Vec<String> = std::fs::read_dir(&out)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    tests.retain(|name| name.starts_with("test-"));
    tests.sort();
    for test in tests {
        eprintln!("== {test} cuda");
        process::run(&mut start(&toolchain, &out, &libraries, &test, &["cuda"])?)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn start(
    toolchain: &Toolchain,
    package: &Path,
    libraries: &Path,
    program: &str,
    arguments: &[&str],
) -> Result<Command> {
    let mut command = Command::new(package.join("run.sh"));
    command
        .arg(program)
        .args(arguments)
        .env(
            "LD_LIBRARY_PATH",
            std::env::join_paths([libraries.to_path_buf(), toolchain.nvrtc()])?,
        )
        .env("KIF_EMULATOR_TRACE", "summary")
        .current_dir(workspace::root()?);
    Ok(command)
}
