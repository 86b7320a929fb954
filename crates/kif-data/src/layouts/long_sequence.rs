//! The KIF family's layout: `<root>/{train,dev,test}/<task>.json`, or `<task>_T5.json` where
//! only that is shipped.
//!
//! A file is a JSON array of `{id, instruction, input, output}`; the prompt is instruction + input.
//! The `_T5` files have no instruction: their input is the same prompt as a whole.

use std::path::{Path, PathBuf};

use super::{Split, first_file, jsonl};
use crate::error::DataError;
use crate::raw_row::RowSink;

pub(super) fn file(root: &Path, name: &str, split: Split) -> Result<PathBuf, DataError> {
    let split = split.name();
    first_file(
        root,
        name,
        &[
            format!("{split}/{name}.json"),
            format!("{split}/{name}_T5.json"),
        ],
    )
}

pub(super) fn read(
    root: &Path,
    name: &str,
    split: Split,
    rows: &mut RowSink,
) -> Result<(), DataError> {
    jsonl::read_into(&file(root, name, split)?, rows)
}
