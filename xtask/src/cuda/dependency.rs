//! The sources of a dependency, and what they declare.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::{process, workspace};

/// The folder of a dependency, wherever cargo keeps them.
pub(crate) fn package_dir(name: &str) -> Result<PathBuf> {
    let output = process::cargo()
        .args([
            "metadata",
            "--format-version",
            "1",
            "--features",
            "kif-runner/cuda",
        ])
        .current_dir(workspace::root()?)
        .output()
        .context("running cargo metadata")?;
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).context("reading cargo metadata")?;
    let manifest = metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|package| package["name"] == name)
        .and_then(|package| package["manifest_path"].as_str())
        .with_context(|| format!("{name} is no dependency"))?;
    Ok(Path::new(manifest)
        .parent()
        .context("a manifest has a folder")?
        .into())
}

/// Names of the functions that cudarc's bindings of a library declare.
pub(crate) fn declared(cudarc: &Path, library: &str, prefix: &str) -> Result<BTreeSet<String>> {
    let path = cudarc.join("src").join(library).join("sys.rs");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let names: BTreeSet<String> = text
        .split("pub fn ")
        .skip(1)
        .filter_map(|after| {
            after
                .split(|c: char| c != '_' && !c.is_alphanumeric())
                .next()
        })
        .filter(|name| name.starts_with(prefix))
        .map(str::to_owned)
        .collect();
    if names.is_empty() {
        bail!("{} declares no {prefix}*", path.display());
    }
    Ok(names)
}
