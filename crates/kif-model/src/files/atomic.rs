//! Writing a file so that its path holds either the old contents or all of the new ones, whatever happens in between.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use crate::ModelError;

/// Writes `bytes` to `path`: to a temporary name in the same folder, synced, renamed, and the folder synced.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), ModelError> {
    write_atomic_with(path, |out| {
        out.write_all(bytes)
            .map_err(|e| ModelError::io("writing", path, e))
    })
}

/// As [`write_atomic`], for contents that come piece by piece. If `fill` fails, nothing is left behind.
pub fn write_atomic_with(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<File>) -> Result<(), ModelError>,
) -> Result<(), ModelError> {
    let io = |what| move |error| ModelError::io(what, path, error);
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    builder.prefix(".").suffix(".tmp");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // What `File::create` asks for; the process's umask applies. tempfile's own default is private to the user.
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let (file, temporary) = builder
        .tempfile_in(folder)
        .map_err(io("creating a file for"))?
        .into_parts();
    let mut out = BufWriter::with_capacity(1 << 18, file);
    fill(&mut out)?;
    let file = out
        .into_inner()
        .map_err(|e| ModelError::io("writing", path, e.into_error()))?;
    file.sync_all().map_err(io("syncing"))?;
    temporary
        .persist(path)
        .map_err(|e| ModelError::io("renaming to", path, e.error))?;
    sync_folder(folder)
}

/// Creates a folder, with those above it, that a later [`write_atomic`] writes into.
pub(crate) fn create_folder(dir: &Path) -> Result<(), ModelError> {
    std::fs::create_dir_all(dir).map_err(|e| ModelError::io("creating folder", dir, e))
}

#[cfg(unix)]
fn sync_folder(folder: &Path) -> Result<(), ModelError> {
    let synced = File::open(folder).and_then(|f| f.sync_all());
    synced.map_err(|e| ModelError::io("syncing folder", folder, e))
}

#[cfg(not(unix))]
fn sync_folder(_: &Path) -> Result<(), ModelError> {
    // Folders cannot be synced on their own there.
    Ok(())
}
