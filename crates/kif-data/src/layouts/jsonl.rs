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
use crate::json::{Place, Source};
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
    let row = |source: &Source, place, text: &str| {
        RawRow::parse(source, place, text).and_then(|raw| raw.into_row(source, place))
    };
    let mut source = Source::open(path)?;
    match source.peek()? {
        None => return Err(source.empty()),
        Some(b'[') => {
            source.elements(|source, place, text| {
                rows.push(source, place, row(source, place, text))
            })?;
            source.expect_end()?;
        }
        Some(_) => {
            for_each_line(&mut source, |source, place, text| {
                rows.push(
                    source,
                    place,
                    text.and_then(|text| row(source, place, text)),
                )
            })?;
        }
    }
    rows.finish(&source)
}

/// Calls `each` with every line of JSON Lines that is not empty, or with why it is none.
fn for_each_line(
    source: &mut Source,
    mut each: impl FnMut(&Source, Place, Result<&str, DataError>) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let mut buffer = Vec::new();
    let mut empty_line = None;
    while let Some(place) = source.line(&mut buffer)? {
        let text = source.text(&buffer, place);
        if matches!(&text, Ok(text) if text.trim_ascii().is_empty()) {
            empty_line = empty_line.or(Some(place));
            continue;
        }
        if let Some(place) = empty_line.take() {
            let problem = source.syntax(place, "empty line, expected a row: a JSON object");
            each(source, place, Err(problem))?;
        }
        let text = text.and_then(|text| source.check_depth(text, place).map(|()| text));
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

pub(super) fn read(
    root: &Path,
    name: &str,
    split: Split,
    rows: &mut RowSink,
) -> Result<(), DataError> {
    read_into(&file(root, name, split)?, rows)
}
