//! Formatting: cargo's, and the files that cargo does not see.
//!
//! `cargo fmt` follows declarations of modules, and the list of methods declares its modules by a
//! macro.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{process, workspace};

/// Where a macro declares the modules.
const BY_MACRO: &str = "crates/kif-methods/src/methods";

/// Formats everything, or fails where something is not formatted.
pub(crate) fn run(check: bool) -> Result<()> {
    let check = check.then_some("--check");
    let root = workspace::root()?;
    let mut all = process::cargo();
    all.args(["fmt", "--all"]).args(check).current_dir(&root);
    process::run(&mut all)?;
    let mut rest = Command::new("rustfmt");
    rest.args(["--edition", "2024"])
        .args(check)
        .args(sources(&root.join(BY_MACRO))?)
        .current_dir(&root);
    process::run(&mut rest)
}

/// The Rust files of a folder, in the order of their names.
fn sources(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))?;
    let mut files = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<Vec<PathBuf>>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    files.sort();
    Ok(files)
}
