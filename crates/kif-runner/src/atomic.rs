//! Files that are either there completely or not at all.
//!
//! A file is written under a temporary name in the same folder, synced, renamed, and the folder synced: after an
//! error, a kill or a power cut the path holds the old content or the new one. Temporary names end in `.tmp`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

/// Writes `bytes` to `path`, making its folder where needed.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = folder_of(path);
    fs::create_dir_all(folder).with_context(|| format!("making folder {}", folder.display()))?;
    kif_model::write_atomic(path, bytes)
        .with_context(|| format!("writing {} ({} bytes)", path.display(), bytes.len()))
}

/// Writes `value` as JSON, one field a line.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut bytes =
        serde_json::to_vec_pretty(value).with_context(|| format!("making {}", path.display()))?;
    bytes.push(b'\n');
    write(path, &bytes)
}

/// Replaces the folder `path` by what `fill` writes into an empty one.
///
/// The new folder takes its place in one rename when nothing was there. An older folder is moved aside first, so a
/// kill between the two renames leaves no `path`; readers that must survive that use a new name for each version.
pub fn write_folder(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let parent = folder_of(path);
    fs::create_dir_all(parent).with_context(|| format!("making folder {}", parent.display()))?;
    let temporary = temporary_name(path);
    remove_folder(&temporary)?;
    fs::create_dir(&temporary).with_context(|| format!("making folder {}", temporary.display()))?;
    fill(&temporary)?;
    sync_folder(&temporary)?;
    if path.exists() {
        let old = path.with_extension("old.tmp");
        remove_folder(&old)?;
        fs::rename(path, &old).with_context(|| format!("moving {} aside", path.display()))?;
        rename_folder(&temporary, path)?;
        return remove_folder(&old);
    }
    rename_folder(&temporary, path)
}

/// Removes a folder with all it holds, if it is there.
pub fn remove_folder(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn rename_folder(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to)
        .with_context(|| format!("renaming {} to its final name", from.display()))?;
    sync_folder(folder_of(to))
}

/// Makes renames in a folder durable.
fn sync_folder(folder: &Path) -> Result<()> {
    // Only Unix lets a folder be opened and synced; elsewhere the rename itself is all there is.
    if cfg!(unix) {
        File::open(folder)
            .and_then(|f| f.sync_all())
            .with_context(|| format!("syncing folder {}", folder.display()))?;
    }
    Ok(())
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn temporary_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_what_was_there_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/record.json");
        write(&path.join("old"), b"old").unwrap();
        // A file cannot take the place of a folder.
        assert!(write(&path, b"new").is_err());
        assert_eq!(fs::read(path.join("old")).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path().join("a")).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_is_replaced_as_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("adapter");
        for content in ["one", "two"] {
            write_folder(&path, |at| write(&at.join(content), b"")).unwrap();
        }
        let names: Vec<_> = fs::read_dir(&path)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names, ["two"]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
