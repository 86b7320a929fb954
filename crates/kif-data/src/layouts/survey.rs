//! Reading a file to its end whatever rows are bad, to say all that is wrong with it.

use std::path::{Path, PathBuf};

use super::{Layout, Split, read, split_file};
use crate::error::DataError;
use crate::raw_row::RowSink;
use crate::task::Row;

/// The most problems of one file that a [`Survey`] has; with the last of them the reading ends.
pub const MAX_PROBLEMS: usize = 20;

/// One half of a task: the rows that can be read, and what is wrong with the others.
#[derive(Debug)]
pub struct Survey {
    /// The file; none where the task does not have it, which is the only problem then.
    pub path: Option<PathBuf>,
    /// The good rows, in file order; of rows with one id the first.
    pub rows: Vec<Row>,
    /// The line at which each of them starts, from 1.
    pub lines: Vec<usize>,
    /// What is wrong, in the order in which it was found; at most [`MAX_PROBLEMS`].
    pub problems: Vec<DataError>,
    /// Whether the file was read to its end. Brackets that do not match, a value without bounds and
    /// the last of [`MAX_PROBLEMS`] problems end the reading earlier.
    pub complete: bool,
}

/// Reads one half of a task as [`load_task`](super::load_task) does, but goes on after a bad row.
pub fn survey(layout: Layout, root: &Path, name: &str, split: Split) -> Survey {
    let path = split_file(layout, root, name, split);
    let mut sink = RowSink::noting(MAX_PROBLEMS - 1);
    let end = match &path {
        Ok(_) => read(layout, root, name, split, &mut sink).err(),
        Err(_) => None,
    };
    let complete = path.is_ok() && matches!(end, None | Some(DataError::Empty { .. }));
    let (rows, lines, mut problems) = sink.into_parts();
    problems.extend(end);
    let path = path.map_err(|error| problems.push(error)).ok();
    Survey {
        path,
        rows,
        lines,
        problems,
        complete,
    }
}
