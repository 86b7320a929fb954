//! The bases and the stream of protocol `quick`, which the program carries inside itself.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use kif_data::Stream;
use kif_io::atomic;
use kif_protocol::Arch;

/// Path inside `fixtures/quick` and content of every file, made by the build script.
const FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/quick_files.rs"));

/// Puts a base under `folder` and returns its directory. Files that are there already, byte by
/// byte, are left alone.
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
