//! How tasks lie on disk: one file per layout, each as its authors publish it.
//!
//! A task has rows to train on and rows to test on. `dev` files are never read: in the published
//! benchmarks they are drawn from the same pool as test, so validation is cut from train instead.

pub mod jsonl;
pub mod long_sequence;
pub mod o_lora;
pub mod superni;
mod survey;

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::raw_row::RowSink;
use crate::task::Task;

pub use jsonl::read_rows;
pub use survey::{MAX_PROBLEMS, Survey, survey};

/// The known layouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Layout {
    /// The KIF family's: `{train,test}/<task>.json`; see [`long_sequence`].
    #[serde(rename = "long_sequence")]
    LongSequence,
    /// O-LoRA's: `<TYPE>/<TASK>/{train,test,labels}.json`; see [`o_lora`].
    #[serde(rename = "o_lora")]
    OLora,
    /// SuperNI's: `<task>/{train,test}.json`; see [`superni`].
    #[serde(rename = "superni")]
    SuperNi,
    /// One's own: `<task>/{train,test}.{jsonl,json}`; see [`jsonl`].
    #[serde(rename = "jsonl")]
    Jsonl,
}

/// The two halves of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// To learn from.
    Train,
    /// To be tested on.
    Test,
}

impl Split {
    /// `train` or `test`, as files are called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Test => "test",
        }
    }
}

/// Reads a task's train and test rows.
///
/// Any row that is not as the layout has it is an error with file, line and field; so are
/// two rows with one id in a file. Two rows with one text are not: published train files
/// have such a pair (rte).
pub fn load_task(layout: Layout, root: &Path, name: &str) -> Result<Task, DataError> {
    check_name(root, name)?;
    let rows = |split| {
        let mut rows = RowSink::strict();
        read(layout, root, name, split, &mut rows)?;
        Ok(rows.into_rows())
    };
    Ok(Task {
        name: name.into(),
        train: rows(Split::Train)?,
        test: rows(Split::Test)?,
    })
}

fn read(
    layout: Layout,
    root: &Path,
    name: &str,
    split: Split,
    rows: &mut RowSink,
) -> Result<(), DataError> {
    match layout {
        Layout::LongSequence => long_sequence::read(root, name, split, rows),
        Layout::OLora => o_lora::read(root, name, split, rows),
        Layout::SuperNi => superni::read(root, name, split, rows),
        Layout::Jsonl => jsonl::read(root, name, split, rows),
    }
}

fn file(layout: Layout, root: &Path, name: &str, split: Split) -> Result<PathBuf, DataError> {
    match layout {
        Layout::LongSequence => long_sequence::file(root, name, split),
        Layout::OLora => o_lora::file(root, name, split),
        Layout::SuperNi => superni::file(root, name, split),
        Layout::Jsonl => jsonl::file(root, name, split),
    }
}

/// Every file that [`load_task`] reads for a task, train first.
pub fn task_files(layout: Layout, root: &Path, name: &str) -> Result<Vec<PathBuf>, DataError> {
    check_name(root, name)?;
    let mut files = vec![
        file(layout, root, name, Split::Train)?,
        file(layout, root, name, Split::Test)?,
    ];
    if layout == Layout::OLora {
        files.push(o_lora::labels_file(root, name)?);
    }
    Ok(files)
}

/// The file with one half of a task.
pub fn split_file(
    layout: Layout,
    root: &Path,
    name: &str,
    split: Split,
) -> Result<PathBuf, DataError> {
    check_name(root, name)?;
    file(layout, root, name, split)
}

/// A task's name is one part of a path: it must not lead out of the data folder.
fn check_name(root: &Path, name: &str) -> Result<(), DataError> {
    let mut parts = Path::new(name).components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(part)), None) if part == name => Ok(()),
        _ => Err(no_task(
            root,
            name,
            "a task name without path separators".into(),
        )),
    }
}

fn no_task(root: &Path, name: &str, expected: String) -> DataError {
    DataError::NoTask {
        task: name.into(),
        root: root.into(),
        expected,
    }
}

/// The first of `candidates` (below `root`) that is a file.
fn first_file(root: &Path, name: &str, candidates: &[String]) -> Result<PathBuf, DataError> {
    let paths = candidates.iter().map(|candidate| root.join(candidate));
    paths
        .into_iter()
        .find(|path| path.is_file())
        .ok_or_else(|| no_task(root, name, candidates.join(" or ")))
}

/// Names of the folders in `root`, sorted.
fn folders(root: &Path) -> Result<Vec<String>, DataError> {
    let io = |source| DataError::Io {
        path: root.into(),
        source,
    };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root).map_err(io)? {
        let entry = entry.map_err(io)?;
        if entry.path().is_dir() {
            names.extend(entry.file_name().into_string());
        }
    }
    names.sort_unstable();
    Ok(names)
}
