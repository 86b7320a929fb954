//! Files that are either there completely or not at all.
//!
//! A file is written under a temporary name in the same folder, synced, renamed, and the folder
//! synced: after an error, a kill or a power cut the path holds the old content or the new one.
//! Temporary names end in `.tmp`.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::failure::BadInput;

/// What could not be done with a file or folder.
#[derive(Debug, thiserror::Error)]
#[error("{doing} {path}: {error}", path = .path.display())]
pub struct FileError {
    /// What was being done, as "reading" or "renaming to".
    pub doing: &'static str,
    /// The file or folder.
    pub path: PathBuf,
    /// What the system answered.
    pub error: io::Error,
}

/// Replaces the file at `path` by what `fill` writes piece by piece. If `fill` fails, nothing is
/// left over.
pub fn write_with<E: From<FileError>>(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<File>) -> Result<(), E>,
) -> Result<(), E> {
    let failed = |doing| {
        move |error| FileError {
            doing,
            path: path.to_owned(),
            error,
        }
    };
    let folder = folder_of(path);
    let mut builder = tempfile::Builder::new();
    builder.prefix(".").suffix(".tmp");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // What `File::create` asks for; the process's umask applies. tempfile's own default is
        // private to the user.
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    let (file, temporary) = builder
        .tempfile_in(folder)
        .map_err(failed("creating a file for"))?
        .into_parts();
    let mut out = BufWriter::with_capacity(1 << 18, file);
    fill(&mut out)?;
    let file = out
        .into_inner()
        .map_err(|error| failed("writing")(error.into_error()))?;
    file.sync_all().map_err(failed("syncing"))?;
    temporary
        .persist(path)
        .map_err(|error| failed("renaming to")(error.error))?;
    Ok(sync_folder(folder)?)
}

/// Writes `bytes` to `path`, making its folder where needed.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = folder_of(path);
    fs::create_dir_all(folder).with_context(|| format!("making folder {}", folder.display()))?;
    write_with(path, |out| {
        out.write_all(bytes).map_err(|error| FileError {
            doing: "writing",
            path: path.to_owned(),
            error,
        })
    })
    .with_context(|| format!("writing {} ({} bytes)", path.display(), bytes.len()))
}

/// Writes `value` as JSON, one field a line.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut bytes =
        serde_json::to_vec_pretty(value).with_context(|| format!("making {}", path.display()))?;
    bytes.push(b'\n');
    write(path, &bytes)
}

/// Replaces the folder `path` by what `fill` writes into an empty one, of which nothing is left
/// where `fill` fails.
///
/// The new folder takes its place in one rename when nothing was there. An older folder is moved
/// aside first, so a kill between the two renames leaves no `path`; readers that must survive that
/// use a new name for each version.
pub fn write_folder(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if path.file_name().is_none() {
        let problem = "expected a folder that is called by its name";
        return Err(BadInput(format!("{}: {problem}", path.display())).into());
    }
    // Without a separator at the end, behind which another name would lie inside.
    let path = &path.components().collect::<PathBuf>();
    let parent = folder_of(path);
    fs::create_dir_all(parent).with_context(|| format!("making folder {}", parent.display()))?;
    let temporary = temporary_name(path);
    remove_folder(&temporary)?;
    fs::create_dir(&temporary).with_context(|| format!("making folder {}", temporary.display()))?;
    if let Err(error) = fill(&temporary) {
        // What `fill` said matters more than what is said of cleaning up.
        let _ = remove_folder(&temporary);
        return Err(error);
    }
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
    Ok(sync_folder(folder_of(to))?)
}

/// Makes renames in a folder durable.
fn sync_folder(folder: &Path) -> Result<(), FileError> {
    // Only Unix lets a folder be opened and synced; elsewhere the rename itself is all there is.
    if cfg!(unix) {
        File::open(folder)
            .and_then(|f| f.sync_all())
            .map_err(|error| FileError {
                doing: "syncing folder",
                path: folder.to_owned(),
                error,
            })?;
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
    fn a_folder_may_end_in_a_separator_and_must_have_a_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("adapter/");
        fs::create_dir(&path).unwrap();
        write_folder(&path, |at| write(&at.join("one"), b"")).unwrap();
        assert!(path.join("one").exists());
        let failed = write_folder(&path, |at| {
            write(&at.join("two"), b"")?;
            anyhow::bail!("stopped")
        });
        assert_eq!(failed.unwrap_err().to_string(), "stopped");
        let left = fs::read_dir(folder.path()).unwrap().count();
        assert!(left == 1 && path.join("one").exists());
        for nameless in [".", "..", "/", ""] {
            let error = write_folder(Path::new(nameless), |_| Ok(())).unwrap_err();
            assert!(error.is::<BadInput>(), "{nameless}: {error}");
        }
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

    #[test]
    fn contents_that_fail_half_way_leave_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("adapter_config.json");
        write(&path, b"old").unwrap();
        let failed = write_with(&path, |out| {
            out.write_all(b"half of the new").unwrap();
            Err(anyhow::anyhow!("gone"))
        });
        assert_eq!(failed.unwrap_err().to_string(), "gone");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let nowhere = write_with(Path::new("no/such/folder/file"), |_| Ok::<_, FileError>(()))
            .unwrap_err()
            .to_string();
        assert!(
            nowhere.starts_with("creating a file for no/such/folder/file: "),
            "{nowhere}"
        );
    }

    #[cfg(unix)]
    #[test]
    fn written_files_are_readable_as_any_other_new_file() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let mode = |name: &str| {
            let metadata = fs::metadata(folder.path().join(name)).unwrap();
            metadata.permissions().mode()
        };
        fs::write(folder.path().join("plain"), b"x").unwrap();
        write(&folder.path().join("ours"), b"x").unwrap();
        assert_eq!(mode("ours"), mode("plain"));
    }
}
