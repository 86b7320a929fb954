//! Starting cargo and `kif`, and where they build.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::workspace;

/// The cargo that started this program.
pub(crate) fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// The folder that cargo builds into, wherever the user's settings put it.
pub(crate) fn target_dir() -> Result<PathBuf> {
    Ok(metadata()?["target_directory"]
        .as_str()
        .context("cargo metadata names no target directory")?
        .into())
}

/// What cargo says of the workspace's own packages.
pub(crate) fn metadata() -> Result<serde_json::Value> {
    let output = cargo()
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(workspace::root()?)
        .output()
        .context("running cargo metadata")?;
    serde_json::from_slice(&output.stdout).context("reading cargo metadata")
}

/// Builds `kif` in release and returns its path.
pub(crate) fn build_kif(cuda: bool) -> Result<PathBuf> {
    let features: &[&str] = if cuda { &["--features", "cuda"] } else { &[] };
    build_program("kif-runner", "kif", features)
}

/// Builds a program of the workspace in release and returns its path.
pub(crate) fn build_program(package: &str, name: &str, features: &[&str]) -> Result<PathBuf> {
    run(cargo()
        .args(["build", "--release", "--package", package, "--bin", name])
        .args(features)
        .current_dir(workspace::root()?))?;
    Ok(target_dir()?
        .join("release")
        .join(format!("{name}{}", env::consts::EXE_SUFFIX)))
}

/// `kif`, told which commit it was built from.
pub(crate) fn kif(program: &Path) -> Command {
    let mut kif = Command::new(program);
    if let Some(commit) = git_commit() {
        kif.env("KIF_GIT_COMMIT", commit);
    }
    kif
}

/// `cargo xtask bench`: paths in `args` mean what they mean where the user stands, and the exit
/// code is `kif`'s.
pub(crate) fn bench(args: &[String]) -> Result<ExitCode> {
    let cuda = args
        .windows(2)
        .any(|pair| pair[0] == "--device" && pair[1] == "cuda")
        || args.iter().any(|arg| arg == "--device=cuda");
    let program = build_kif(cuda)?;
    hand_over(kif(&program).arg("bench").args(args))
}

/// `cargo xtask test`.
pub(crate) fn test(args: &[String]) -> Result<ExitCode> {
    hand_over(
        cargo()
            .args(["test", "--workspace"])
            .args(args)
            .current_dir(workspace::root()?),
    )
}

/// Runs a command and fails, naming it, unless it succeeds.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("starting {}", shown(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", shown(command));
    }
    Ok(())
}

/// Program and arguments as one would type them.
pub(crate) fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program())
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    let args = command.get_args().map(|arg| arg.to_string_lossy());
    std::iter::once(program)
        .chain(args)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Becomes the command, so that signals and the exit code are the command's own.
#[cfg(unix)]
fn hand_over(command: &mut Command) -> Result<ExitCode> {
    use std::os::unix::process::CommandExt;
    Err(command.exec()).with_context(|| format!("starting {}", shown(command)))
}

#[cfg(not(unix))]
fn hand_over(command: &mut Command) -> Result<ExitCode> {
    let status = command
        .status()
        .with_context(|| format!("starting {}", shown(command)))?;
    Ok(ExitCode::from(
        u8::try_from(status.code().unwrap_or(1)).unwrap_or(1),
    ))
}

/// The commit of the checkout, with `-dirty` at its end when tracked files were changed.
fn git_commit() -> Option<String> {
    let git = |args: &[&str]| {
        let output = Command::new("git")
            .args(args)
            .current_dir(workspace::root().ok()?)
            .output()
            .ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"])?;
    Some(if changed.is_empty() {
        commit
    } else {
        commit + "-dirty"
    })
}
