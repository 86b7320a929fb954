//! The SuperNI benchmark's layout: `<root>/<task>/{train,dev,test}.json` in the
//! natural-instructions schema.
//!
//! A file is an object with `Definition` (a text or a list of texts, joined by line feeds),
//! `Instances`, an array of `{id, input, output}` where output is a text or a list of references,
//! and other keys that are tolerated. The prompt is `[INS] {Definition}\n [IN] {input}\n [OUT] `. A
//! folder is found by its whole name or by the part of it before an underscore: `task363` is
//! `task363_sst2_polarity_classification`.

use std::path::{Path, PathBuf};

use super::{Split, first_file, folders, no_task};
use crate::error::DataError;
use crate::json::{Position, TextReader};
use crate::raw_row::{RawRow, RowSink, Texts, required, text_row};
use crate::task::Row;
use crate::template;

fn folder(root: &Path, name: &str) -> Result<String, DataError> {
    if root.join(name).is_dir() {
        return Ok(name.into());
    }
    let prefix = format!("{name}_");
    let mut found: Vec<String> = folders(root)?
        .into_iter()
        .filter(|folder| folder.starts_with(&prefix))
        .collect();
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(no_task(root, name, format!("a folder {name} or {prefix}*"))),
        _ => Err(no_task(
            root,
            name,
            format!("one folder {prefix}*, found {}", found.join(", ")),
        )),
    }
}

pub(super) fn file(root: &Path, name: &str, split: Split) -> Result<PathBuf, DataError> {
    first_file(
        root,
        name,
        &[format!("{}/{}.json", folder(root, name)?, split.name())],
    )
}

/// Reads one file of a task.
pub fn read_rows(path: &Path) -> Result<Vec<Row>, DataError> {
    let mut rows = RowSink::strict();
    read_into(path, &mut rows)?;
    Ok(rows.into_rows())
}

pub(super) fn read(
    root: &Path,
    name: &str,
    split: Split,
    rows: &mut RowSink,
) -> Result<(), DataError> {
    read_into(&file(root, name, split)?, rows)
}

fn read_into(path: &Path, rows: &mut RowSink) -> Result<(), DataError> {
    let mut reader = TextReader::open(path)?;
    let (start, definition, instances) = read_object(&mut reader, rows)?;
    reader.expect_end()?;
    let definition = required(
        &reader,
        start,
        "Definition",
        definition,
        "text or a list of texts",
    )?;
    for (position, raw) in required(&reader, start, "Instances", instances, "an array of rows")? {
        let row = required(&reader, position, "input", raw.input, "text").and_then(|input| {
            let prompt = template::superni(&definition, &input);
            text_row(&reader, position, raw.id, prompt, raw.output)
        });
        rows.push(&reader, position, row)?;
    }
    rows.finish(&reader)
}

type Instances = Vec<(Position, RawRow)>;

/// Walks the file's object: where it starts, its definition and its instances, but for those that
/// `sink` notes as bad.
fn read_object(
    reader: &mut TextReader,
    sink: &mut RowSink,
) -> Result<(Position, Option<String>, Option<Instances>), DataError> {
    let (mut definition, mut instances) = (None, None);
    let mut buffer = Vec::new();
    reader.expect(b'{', "before a task")?;
    let start = Position { line: 1, column: 1 };
    loop {
        let position = reader.value(&mut buffer)?;
        let key: String = parse(reader, position, "", &buffer)?;
        reader.expect(b':', "after a key")?;
        match key.as_str() {
            "Definition" if definition.is_none() => {
                let position = reader.value(&mut buffer)?;
                let Texts(texts) = parse(reader, position, &key, &buffer)?;
                definition = Some(texts.join("\n"));
            }
            "Instances" if instances.is_none() => {
                let mut rows = Instances::new();
                reader.elements(|reader, position, text| {
                    let raw = sink.note(RawRow::parse(reader, position, text))?;
                    rows.extend(raw.map(|raw| (position, raw)));
                    Ok(())
                })?;
                instances = Some(rows);
            }
            "Definition" | "Instances" => {
                return Err(reader.field(
                    position,
                    &key,
                    "appears twice in the task, expected once",
                ));
            }
            _ => {
                let position = reader.value(&mut buffer)?;
                parse::<serde::de::IgnoredAny>(reader, position, &key, &buffer)?;
            }
        }
        if reader.peek()? == Some(b'}') {
            reader.expect(b'}', "after the task")?;
            return Ok((start, definition, instances));
        }
        reader.expect(b',', "or `}` after a value")?;
    }
}

fn parse<T: serde::de::DeserializeOwned>(
    reader: &TextReader,
    position: Position,
    field: &str,
    bytes: &[u8],
) -> Result<T, DataError> {
    let text = reader.text(bytes, position)?;
    serde_json::from_str(text).map_err(|error| reader.parse_error(position, field, &error))
}
