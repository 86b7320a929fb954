//! The bases and the stream of protocol `quick`, which the program carries inside itself.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use kif_data::Stream;
use serde::{Deserialize, Serialize};

use crate::atomic;

/// Path inside `fixtures/quick` and content of every file, made by the build script.
const FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/quick_files.rs"));

/// Which of the bases that the program carries.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum Arch {
    /// An encoder-decoder.
    #[default]
    T5,
    /// A decoder-only model.
    Decoder,
}

impl Arch {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::T5, Self::Decoder];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::T5 => "t5",
            Self::Decoder => "decoder",
        }
    }

    /// What it is called beside bases in folders: in the configuration of an adapter, in reports.
    pub fn base_name(self) -> &'static str {
        match self {
            Self::T5 => "embedded",
            Self::Decoder => "embedded-decoder",
        }
    }

    /// Its folder in `fixtures/quick`.
    fn folder(self) -> &'static str {
        match self {
            Self::T5 => "base",
            Self::Decoder => "base-decoder",
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Puts a base under `folder` and returns its directory. Files that are there already, byte by byte, are left alone.
pub fn unpack_base(folder: &Path, arch: Arch) -> Result<PathBuf> {
    unpack(folder, &format!("{}/", arch.folder()))?;
    Ok(folder.join(arch.folder()))
}

/// Puts the stream's tasks under `folder` and returns the stream and the folder of its tasks.
pub fn unpack_stream(folder: &Path) -> Result<(Stream, PathBuf)> {
    let Some((_, list)) = FILES.iter().find(|(name, _)| *name == "stream.ron") else {
        bail!(missing("stream.ron"))
    };
    let stream = Stream::from_ron(std::str::from_utf8(list)?, Path::new("embedded stream.ron"))?;
    unpack(folder, "stream/")?;
    Ok((stream, folder.join("stream")))
}

/// Writes the files whose path starts with `prefix`.
fn unpack(folder: &Path, prefix: &str) -> Result<()> {
    let mut found = false;
    for (name, content) in FILES.iter().filter(|(name, _)| name.starts_with(prefix)) {
        let path = folder.join(name);
        if std::fs::read(&path).is_ok_and(|there| there == *content) {
            found = true;
            continue;
        }
        atomic::write(&path, content)?;
        found = true;
    }
    if !found {
        bail!(missing(prefix));
    }
    Ok(())
}

fn missing(what: &str) -> String {
    format!(
        "this program was built without fixtures/quick/{what}: make it with `cargo xtask fixtures --base` and build again"
    )
}
