//! Tasks of one's own: `<root>/<task>/train.jsonl` and `<root>/<task>/test.jsonl`, or `.json` where
//! there is no `.jsonl`.
//!
//! A file is a JSON array of rows, or JSON Lines: one row per line, lines ending with `\n` or
//! `\r\n`. Which of the two is seen from its first character, not from its name. A row is
//! `{id, instruction?, input, output}`, where the prompt is instruction + input and output is a
//! text or a list of references, or `{id, input_ids, target_ids}`, taken as given. Other fields are
//! tolerated. Empty lines are allowed before the first row and after the last, not between rows.

use std::path::{Path, PathBuf};

use super::{Split, first_file};
use crate::error::DataError;
use crate::json::{Position, TextReader};
use crate::raw_row::{RawRow, RowSink};
use crate::task::Row;

/// Reads one file of rows, a JSON array or JSON Lines.
///
/// Holds at most one row of at most 16 MiB beside the rows already read. Errors name file,
/// line, column and field.
pub fn read_rows(path: &Path) -> Result<Vec<Row>, DataError> {
    let mut rows = RowSink::strict();
    read_into(path, &mut rows)?;
    Ok(rows.into_rows())
}

/// Reads one file of rows.
pub(super) fn read_into(path: &Path, rows: &mut RowSink) -> Result<(), DataError> {
    let row = |reader: &TextReader, position, text: &str| {
        RawRow::parse(reader, position, text).and_then(|raw| raw.into_row(reader, position))
    };
    let mut reader = TextReader::open(path)?;
    match reader.peek()? {
        None => return Err(reader.empty()),
        Some(b'[') => {
            reader.elements(|reader, position, text| {
                rows.push(reader, position, row(reader, position, text))
            })?;
            reader.expect_end()?;
        }
        Some(_) => {
            for_each_line(&mut reader, |reader, position, text| {
                rows.push(
                    reader,
                    position,
                    text.and_then(|text| row(reader, position, text)),
                )
            })?;
        }
    }
    rows.finish(&reader)
}

/// Calls `each` with every line of JSON Lines that is not empty, or with why it is none.
fn for_each_line(
    reader: &mut TextReader,
    mut each: impl FnMut(&TextReader, Position, Result<&str, DataError>) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let mut buffer = Vec::new();
    let mut empty_line = None;
    while let Some(position) = reader.line(&mut buffer)? {
        let text = reader.text(&buffer, position);
        if matches!(&text, Ok(text) if text.trim_ascii().is_empty()) {
            empty_line = empty_line.or(Some(position));
            continue;
        }
        if let Some(position) = empty_line.take() {
            let problem = reader.syntax(position, "empty line, expected a row: a JSON object");
            each(reader, position, Err(problem))?;
        }
        let text = text.and_then(|text| reader.check_depth(text, position).map(|()| text));
        each(reader, position, text)?;
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

pub(super) fn read(
    root: &Path,
    name: &str,
    split: Split,
    rows: &mut RowSink,
) -> Result<(), DataError> {
    read_into(&file(root, name, split)?, rows)
}
