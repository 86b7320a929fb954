//! One writer at a time.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use fd_lock::{RwLock, RwLockWriteGuard};

/// Keeps other processes from writing into the same folder.
pub struct Writer {
    file: RwLock<File>,
    folder: PathBuf,
}

impl Writer {
    /// Opens the lock file of a folder, making both where needed.
    pub fn of_folder(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("making folder {}", folder.display()))?;
        let path = folder.join(".writer");
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path);
        let file = file.with_context(|| format!("opening {}", path.display()))?;
        Ok(Self {
            file: RwLock::new(file),
            folder: folder.to_owned(),
        })
    }

    /// Becomes the only writer until the guard is dropped, or says who is.
    pub fn hold(&mut self) -> Result<RwLockWriteGuard<'_, File>> {
        let mut pid = String::new();
        // The number is for people: reading it may fail without harm.
        if let Ok(path) = File::open(self.folder.join(".writer")) {
            let _ = path.take(20).read_to_string(&mut pid);
        }
        match self.file.try_write() {
            Ok(mut guard) => {
                guard.set_len(0)?;
                guard.rewind()?;
                write!(guard, "{}", std::process::id())?;
                Ok(guard)
            }
            Err(_) => bail!(
                "{} is being written by process {}",
                self.folder.display(),
                pid.trim()
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_writer_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (mut one, mut two) = (
            Writer::of_folder(folder.path()).unwrap(),
            Writer::of_folder(folder.path()).unwrap(),
        );
        let guard = one.hold().unwrap();
        let message = two.hold().map(drop).unwrap_err().to_string();
        assert!(
            message.contains(&std::process::id().to_string()),
            "{message}"
        );
        drop(guard);
        two.hold().map(drop).unwrap();
    }
}
