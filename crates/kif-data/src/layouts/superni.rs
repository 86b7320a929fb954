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
use crate::json::{Place, Source};
use crate::raw_row::{RawRow, RowSink, Texts, required, text_row};
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

pub(super) fn read(
    root: &Path,
    name: &str,
    split: Split,
    rows: &mut RowSink,
) -> Result<(), DataError> {
    let mut source = Source::open(&file(root, name, split)?)?;
    let (start, definition, instances) = read_object(&mut source, rows)?;
    source.expect_end()?;
    let definition = required(
        &source,
        start,
        "Definition",
        definition,
        "text or a list of texts",
    )?;
    for (place, raw) in required(&source, start, "Instances", instances, "an array of rows")? {
        let row = required(&source, place, "input", raw.input, "text").and_then(|input| {
            let prompt = template::superni(&definition, &input);
            text_row(&source, place, raw.id, prompt, raw.output)
        });
        rows.push(&source, place, row)?;
    }
    rows.finish(&source)
}

type Instances = Vec<(Place, RawRow)>;

/// Walks the file's object: where it starts, its definition and its instances, but for those that
/// `sink` notes as bad.
fn read_object(
    source: &mut Source,
    sink: &mut RowSink,
) -> Result<(Place, Option<String>, Option<Instances>), DataError> {
    let (mut definition, mut instances) = (None, None);
    let mut buffer = Vec::new();
    source.expect(b'{', "before a task")?;
    let start = Place { line: 1, column: 1 };
    loop {
        let place = source.value(&mut buffer)?;
        let key: String = parse(source, place, "", &buffer)?;
        source.expect(b':', "after a key")?;
        match key.as_str() {
            "Definition" if definition.is_none() => {
                let place = source.value(&mut buffer)?;
                let Texts(texts) = parse(source, place, &key, &buffer)?;
                definition = Some(texts.join("\n"));
            }
            "Instances" if instances.is_none() => {
                let mut rows = Instances::new();
                source.elements(|source, place, text| {
                    let raw = sink.note(RawRow::parse(source, place, text))?;
                    rows.extend(raw.map(|raw| (place, raw)));
                    Ok(())
                })?;
                instances = Some(rows);
            }
            "Definition" | "Instances" => {
                return Err(source.field(place, &key, "appears twice in the task, expected once"));
            }
            _ => {
                let place = source.value(&mut buffer)?;
                parse::<serde::de::IgnoredAny>(source, place, &key, &buffer)?;
            }
        }
        if source.peek()? == Some(b'}') {
            source.expect(b'}', "after the task")?;
            return Ok((start, definition, instances));
        }
        source.expect(b',', "or `}` after a value")?;
    }
}

fn parse<T: serde::de::DeserializeOwned>(
    source: &Source,
    place: Place,
    field: &str,
    bytes: &[u8],
) -> Result<T, DataError> {
    let text = source.text(bytes, place)?;
    serde_json::from_str(text).map_err(|error| source.parse_error(place, field, &error))
}
