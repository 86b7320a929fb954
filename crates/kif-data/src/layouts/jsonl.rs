//! Tasks of one's own: `<root>/<task>/train.jsonl` and `<root>/<task>/test.jsonl`, or `.json` where there is no `.jsonl`.
//!
//! A file is a JSON array of rows, or JSON Lines: one row per line, lines ending with `\n` or `\r\n`. Which of the two is
//! seen from its first character, not from its name. A row is `{id, instruction?, input, output}`, where the prompt is
//! instruction + input and output is a text or a list of references, or `{id, input_ids, target_ids}`, taken as given.
//! Other fields are tolerated. Empty lines are allowed before the first row and after the last, not between rows.

use std::path::{Path, PathBuf};

use super::{Split, first_file};
use crate::error::DataError;
use crate::json::{Place, Source};
use crate::raw_row::{RawRow, UniqueRows};
use crate::task::Row;

/// Reads one file of rows, a JSON array or JSON Lines.
///
/// Holds at most one row of at most 16 MiB beside the rows already read. Errors name file, line, column and field.
pub fn read_rows(path: &Path) -> Result<Vec<Row>, DataError> {
    let mut rows = UniqueRows::default();
    let mut add = |source: &Source, place: Place, text: &str| {
        let row = RawRow::parse(source, place, text)?.into_row(source, place)?;
        rows.push(source, place, row)
    };
    let mut source = Source::open(path)?;
    match source.peek()? {
        None => return Err(source.empty()),
        Some(b'[') => {
            source.elements(&mut add)?;
            source.expect_end()?;
        }
        Some(_) => for_each_line(&mut source, &mut add)?,
    }
    rows.finish(&source)
}

/// Calls `each` with every line of JSON Lines that is not empty.
fn for_each_line(
    source: &mut Source,
    mut each: impl FnMut(&Source, Place, &str) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let mut buffer = Vec::new();
    let mut empty_line = None;
    while let Some(place) = source.line(&mut buffer)? {
        let text = source.text(&buffer, place)?;
        if text.trim_ascii().is_empty() {
            empty_line = empty_line.or(Some(place));
            continue;
        }
        if let Some(place) = empty_line {
            return Err(source.syntax(place, "empty line, expected a row: a JSON object"));
        }
        source.check_depth(text, place)?;
        each(source, place, text)?;
    }
    Ok(())
}

pub(super) fn file(root: &Path, name: &str, split: Split) -> Result<PathBuf, DataError> {
    let split = split.name();
    first_file(
        root,
        name,
        &[
            format!("{name}/{split}.jsonl"),
            format!("{name}/{split}.json"),
        ],
    )
}

pub(super) fn read(root: &Path, name: &str, split: Split) -> Result<Vec<Row>, DataError> {
    read_rows(&file(root, name, split)?)
}
