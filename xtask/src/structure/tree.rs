//! The source files of the workspace, read and cut into words.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::crates::{self, Crate};
use super::tokens::{self, Token};
use crate::{process, workspace};

/// Everything that the checks look at.
pub(crate) struct Tree {
    pub(crate) root: PathBuf,
    pub(crate) crates: Vec<Crate>,
    pub(crate) packages: Vec<Package>,
    /// By path.
    pub(crate) sources: Vec<Source>,
}

/// A crate's place.
pub(crate) struct Package {
    pub(crate) name: String,
    /// The first files of its library and programs, from the root.
    pub(crate) first_files: Vec<PathBuf>,
}

/// A file with Rust.
pub(crate) struct Source {
    /// From the root, with `/`.
    pub(crate) path: String,
    /// The name of the crate.
    pub(crate) package: String,
    /// Whether it lies below `src`: no test, bench, example or build script.
    pub(crate) in_src: bool,
    pub(crate) text: String,
    pub(crate) tokens: Vec<Token>,
}

impl Source {
    pub(crate) fn n_lines(&self) -> usize {
        self.text.lines().count()
    }
}

impl Tree {
    pub(crate) fn read() -> Result<Self> {
        let root = workspace::root()?;
        let metadata = process::metadata()?;
        let (mut packages, mut sources) = (Vec::new(), Vec::new());
        for package in metadata["packages"].as_array().into_iter().flatten() {
            let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
            let name = text(&package["name"]).context("a package without a name")?;
            let manifest = text(&package["manifest_path"]).context("a package without a place")?;
            let folder = Path::new(&manifest)
                .parent()
                .context("a manifest has a folder")?;
            let targets = package["targets"].as_array().into_iter().flatten();
            let of_source = |target: &&serde_json::Value| {
                target["kind"]
                    .as_array()
                    .is_some_and(|kinds| kinds.iter().any(|kind| kind == "lib" || kind == "bin"))
            };
            packages.push(Package {
                name: name.clone(),
                first_files: targets
                    .filter(of_source)
                    .filter_map(|target| Some(Path::new(target["src_path"].as_str()?)))
                    .map(|path| path.strip_prefix(&root).unwrap_or(path).to_path_buf())
                    .collect(),
            });
            for path in rust_files(folder)? {
                sources.push(source(&root, folder, &path, &name)?);
            }
        }
        packages.sort_by(|a, b| a.name.cmp(&b.name));
        sources.sort_by(|a, b| a.path.cmp(&b.path));
        let mut crates = crates::of_metadata(&metadata);
        let texts = sources
            .iter()
            .map(|source| (source.package.as_str(), source.text.as_str()));
        crates::note_unused(&mut crates, texts);
        Ok(Self {
            root,
            crates,
            packages,
            sources,
        })
    }
}

fn source(root: &Path, folder: &Path, path: &Path, package: &str) -> Result<Source> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let tokens = tokens::tokens(&text).with_context(|| format!("reading {}", path.display()))?;
    let from_root = path.strip_prefix(root).unwrap_or(path);
    Ok(Source {
        path: from_root.to_string_lossy().replace('\\', "/"),
        package: package.to_owned(),
        in_src: path.starts_with(folder.join("src")),
        text,
        tokens,
    })
}

/// All `.rs` files of a folder and below, but what is built or hidden.
fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                files.extend(rust_files(&path)?);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(files)
}
