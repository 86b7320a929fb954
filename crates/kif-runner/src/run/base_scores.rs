//! Row 0 of every matrix: what the base answers before any task.
//!
//! A fresh adapter changes nothing (its B is zero), so these answers depend on neither method,
//! order nor seed: they are made once per task and kept in the run's `base.json`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use kif_io::atomic;
use kif_io::failure::BadInput;
use serde::{Deserialize, Serialize};

use crate::evaluate::Evaluation;

/// Answers of the base by task name.
pub(super) struct BaseScores {
    path: PathBuf,
    content: Content,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    tasks: BTreeMap<String, Evaluation>,
}

impl BaseScores {
    /// Those of a run, as far as they are known.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let content = match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|e| BadInput(format!("{}: {e}; remove it", path.display())))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Content::default(),
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        Ok(Self {
            path: path.to_owned(),
            content,
        })
    }

    /// What the base answers on a task, if that is known.
    pub(super) fn get(&self, task: &str) -> Option<&Evaluation> {
        self.content.tasks.get(task)
    }

    /// Keeps what the base answers on a task.
    pub(super) fn keep(&mut self, task: &str, evaluation: Evaluation) -> Result<()> {
        self.content.tasks.insert(task.to_owned(), evaluation);
        atomic::write_json(&self.path, &self.content)
    }
}
