//! Where the workspace lies, found when the program runs.
//!
//! A path from compile time would be that of whichever checkout built the program: cargo takes the
//! program of another checkout as up to date when both build into the same target folder.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The folder of the workspace.
///
/// Cargo says at run time which package it starts. A program that is started by itself looks from
/// the current folder.
pub(crate) fn root() -> Result<PathBuf> {
    let start = match env::var_os("CARGO_MANIFEST_DIR") {
        Some(package) => PathBuf::from(package),
        None => env::current_dir().context("asking for the current folder")?,
    };
    root_above(&start)
}

/// The innermost folder from `start` upwards that is a workspace with this package in it.
fn root_above(start: &Path) -> Result<PathBuf> {
    start
        .ancestors()
        .find(|folder| is_workspace(folder) && folder.join("xtask/Cargo.toml").is_file())
        .map(Path::to_path_buf)
        .with_context(|| {
            format!(
                "neither {} nor a folder above it is the workspace of xtask",
                start.display()
            )
        })
}

/// Whether a folder's manifest has the table `[workspace]`.
fn is_workspace(folder: &Path) -> bool {
    fs::read_to_string(folder.join("Cargo.toml"))
        .is_ok_and(|manifest| manifest.lines().any(|line| line.trim() == "[workspace]"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of its own for a test, with files of these names and texts.
    fn folder(name: &str, files: &[(&str, &str)]) -> PathBuf {
        let folder = env::temp_dir().join(format!("kif-workspace-{name}-{}", std::process::id()));
        for (file, text) in files {
            let path = folder.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    #[test]
    fn the_workspace_is_found_from_every_folder_in_it() {
        let root = folder(
            "found",
            &[
                (
                    "Cargo.toml",
                    "[workspace]\nmembers = [\"crates/*\", \"xtask\"]\n",
                ),
                ("xtask/Cargo.toml", "[package]\nname = \"xtask\"\n"),
                ("crates/a/Cargo.toml", "[package]\nname = \"a\"\n"),
                ("crates/a/src/lib.rs", ""),
                // A workspace of its own inside, as fuzz targets are.
                ("fuzz/Cargo.toml", "[package]\nname = \"f\"\n[workspace]\n"),
            ],
        );
        for start in ["", "xtask", "crates/a/src", "fuzz"] {
            assert_eq!(root_above(&root.join(start)).unwrap(), root, "{start}");
        }
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_folder_outside_is_named() {
        let root = folder(
            "outside",
            &[("Cargo.toml", "[package]\nname = \"alone\"\n")],
        );
        let error = root_above(&root).unwrap_err().to_string();
        assert!(error.contains(root.to_str().unwrap()), "{error}");
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn the_running_checkout_is_the_one_that_is_tested() {
        assert!(root().unwrap().join("xtask/src/workspace.rs").is_file());
    }
}
