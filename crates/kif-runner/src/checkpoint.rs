//! The newest resumable state of a training: `<folder>/<number>/{position.json,
//! state.safetensors}`.
//!
//! Every save is a new folder that appears in one rename; older ones are removed after it. So there
//! is always a whole one, whenever the process dies, and `position.json` holds the hash of the
//! state that belongs to it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use kif_io::atomic;
use kif_io::failure::BadInput;
use kif_methods::State;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A saved state.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint<P> {
    /// Where the training stands, and what it has found so far.
    pub position: P,
    /// Learner and method.
    pub state: State,
}

/// The content of `position.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest<P> {
    state_blake3: String,
    position: P,
}

const STATE: &str = "state.safetensors";
const MANIFEST: &str = "position.json";

impl<P: DeserializeOwned> Checkpoint<P> {
    /// The newest one in `folder`, if there is one. Left-overs of interrupted saves are removed.
    pub fn newest(folder: &Path) -> Result<Option<Self>> {
        for path in entries(folder)? {
            if path.extension().is_some_and(|e| e == "tmp") {
                atomic::remove_folder(&path)?;
            }
        }
        numbers(folder)?
            .into_iter()
            .max()
            .map(|newest| Self::read(&folder.join(name(newest))))
            .transpose()
    }

    fn read(folder: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read(&path).with_context(|| format!("reading checkpoint {}", path.display()))
        };
        let damaged = |problem: String| {
            let folder = folder.display();
            BadInput(format!(
                "checkpoint {folder}: {problem}; remove it to start anew"
            ))
        };
        let manifest: Manifest<P> =
            serde_json::from_slice(&read(MANIFEST)?).map_err(|e| damaged(e.to_string()))?;
        let bytes = read(STATE)?;
        if blake3::hash(&bytes).to_hex().as_str() != manifest.state_blake3 {
            return Err(damaged(format!("{STATE} is not the file that was written")).into());
        }
        let state = State::from_bytes(&bytes).map_err(|e| damaged(e.to_string()))?;
        Ok(Self {
            position: manifest.position,
            state,
        })
    }
}

/// Saves a state as the newest one of `folder`.
pub fn save(folder: &Path, position: &impl Serialize, state: &State) -> Result<()> {
    let older = numbers(folder)?;
    let number = older.iter().max().map_or(0, |n| n + 1);
    let bytes = state.to_bytes()?;
    let manifest = Manifest {
        state_blake3: blake3::hash(&bytes).to_hex().to_string(),
        position,
    };
    let path = folder.join(name(number));
    atomic::write_folder(&path, |at| {
        atomic::write(&at.join(STATE), &bytes)?;
        atomic::write_json(&at.join(MANIFEST), &manifest)
    })
    .with_context(|| format!("saving checkpoint {}", path.display()))?;
    older
        .into_iter()
        .try_for_each(|n| atomic::remove_folder(&folder.join(name(n))))
}

fn name(number: u64) -> String {
    format!("{number:06}")
}

fn numbers(folder: &Path) -> Result<Vec<u64>> {
    let names = entries(folder)?;
    Ok(names
        .iter()
        .filter_map(|path| path.file_name()?.to_str()?.parse().ok())
        .collect())
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries
            .map(|entry| Ok(entry?.path()))
            .collect::<std::io::Result<_>>()
            .with_context(|| format!("listing {}", folder.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("listing {}", folder.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(value: f32) -> State {
        let mut state = State::default();
        state.put("learner.params", &[value]);
        state
    }

    fn newest(folder: &Path) -> Result<Option<Checkpoint<(String, u64)>>> {
        Checkpoint::newest(folder)
    }

    fn save_value(folder: &Path, value: f32) {
        save(folder, &("task", 3), &state(value)).unwrap();
    }

    #[test]
    fn the_newest_state_is_found_and_older_ones_go() {
        let folder = tempfile::tempdir().unwrap();
        assert!(newest(folder.path()).unwrap().is_none());
        for value in [1.0, 2.0, 3.0] {
            save_value(folder.path(), value);
        }
        let found = newest(folder.path()).unwrap().unwrap();
        assert_eq!(found.state, state(3.0));
        assert_eq!(found.position, ("task".to_owned(), 3));
        assert_eq!(numbers(folder.path()).unwrap().len(), 1);
    }

    #[test]
    fn an_interrupted_save_leaves_the_older_state() {
        let folder = tempfile::tempdir().unwrap();
        save_value(folder.path(), 1.0);
        fs::create_dir(folder.path().join("000001.tmp")).unwrap();
        fs::write(folder.path().join("000001.tmp/state.safetensors"), "half").unwrap();
        assert_eq!(newest(folder.path()).unwrap().unwrap().state, state(1.0));
        assert_eq!(entries(folder.path()).unwrap().len(), 1);
    }

    #[test]
    fn a_flipped_bit_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        save_value(folder.path(), 1.0);
        let path = folder.path().join("000000/state.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
        let message = newest(folder.path()).map(drop).unwrap_err().to_string();
        assert!(
            message.contains("is not the file that was written"),
            "{message}"
        );
    }
}
