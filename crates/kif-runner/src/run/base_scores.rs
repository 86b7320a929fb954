//! Row 0 of every matrix: what the base answers before any task.
//!
//! A fresh adapter changes nothing (its B is zero), so these answers depend on neither method,
//! order nor seed: they are made once per task and kept in the run's `base.json`. Runs beside it
//! that ask the same base the same have them already.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use kif_io::atomic;
use kif_io::failure::BadInput;
use kif_io::hash::hash_of_bytes;
use kif_protocol::Compute;
use kif_protocol::lock::Lock;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::evaluate::{Evaluation, EvaluationOptions, TestSet};

const FILE: &str = "base.json";

/// Answers of the base by task name.
pub(super) struct BaseScores {
    run: PathBuf,
    content: Content,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    tasks: BTreeMap<String, Evaluation>,
    /// What the answers were made of: [`made_of`] by task.
    #[serde(default)]
    made_of: BTreeMap<String, String>,
}

/// A hash of all that the answers to a test set depend on.
pub(super) fn made_of(lock: &Lock, test: &TestSet, options: &EvaluationOptions) -> String {
    let Compute {
        device, precision, ..
    } = lock.compute;
    let prompts: Vec<&[u32]> = test.encoded.iter().map(|row| &row.input_ids[..]).collect();
    let all = json!({
        "program": lock.program,
        "device": device.name(),
        "precision": precision.name(),
        "model": lock.model,
        "score": options.score,
        "max_new_tokens": options.max_new_tokens,
        "prompts": prompts,
        "references": test.references,
        "labels": test.labels,
    });
    hash_of_bytes(all.to_string().as_bytes())
}

impl BaseScores {
    /// Those of a run, as far as they are known.
    pub(super) fn open(run: &Path) -> Result<Self> {
        let path = run.join(FILE);
        let content = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|e| BadInput(format!("{}: {e}; remove it", path.display())))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Content::default(),
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        Ok(Self {
            run: run.to_owned(),
            content,
        })
    }

    /// What the base answers on a task, if that is known.
    pub(super) fn get(&self, task: &str) -> Option<&Evaluation> {
        self.content.tasks.get(task)
    }

    /// Keeps what the base answers on a task, and what that was made of.
    pub(super) fn keep(
        &mut self,
        task: &str,
        made_of: String,
        evaluation: Evaluation,
    ) -> Result<()> {
        self.content.tasks.insert(task.to_owned(), evaluation);
        self.content.made_of.insert(task.to_owned(), made_of);
        atomic::write_json(&self.run.join(FILE), &self.content)
    }

    /// Takes answers of the same making from the runs beside this one; `wanted` has tasks and what
    /// theirs would be made of. Returns how many came from which run.
    pub(super) fn take_over(
        &mut self,
        wanted: &BTreeMap<String, String>,
    ) -> Result<BTreeMap<PathBuf, usize>> {
        let mut taken = BTreeMap::new();
        let is_open = |this: &Self| wanted.keys().any(|task| this.get(task).is_none());
        if !is_open(self) {
            return Ok(taken);
        }
        for run in runs_beside(&self.run) {
            // One that cannot be read is its own run's business.
            let Ok(other) = Self::open(&run) else {
                continue;
            };
            for (task, made_of) in wanted {
                let same = other.content.made_of.get(task) == Some(made_of);
                if let (None, true, Some(answers)) = (self.get(task), same, other.get(task)) {
                    self.keep(task, made_of.clone(), answers.clone())?;
                    *taken.entry(run.clone()).or_default() += 1;
                }
            }
            if !is_open(self) {
                break;
            }
        }
        Ok(taken)
    }
}

/// The other folders that lie where this run lies, by name.
fn runs_beside(run: &Path) -> Vec<PathBuf> {
    let Ok(run) = run.canonicalize() else {
        return Vec::new();
    };
    let entries = run.parent().and_then(|parent| parent.read_dir().ok());
    let mut folders: Vec<PathBuf> = entries
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| *path != run && path.join(FILE).is_file())
        .collect();
    folders.sort();
    folders
}
