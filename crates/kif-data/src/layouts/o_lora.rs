//! O-LoRA's layout: `<root>/<TYPE>/<TASK>/{train,dev,test,labels}.json`, where root is the
//! folder `CL_Benchmark`.
//!
//! A file is a JSON array of `{label, sentence}`; `labels.json` is the array of labels, in the
//! order in which the prompt offers them. The prompt is the KIF family's: the instruction of the
//! task type, the options, the sentence, `Answer:`. Rows have no ids there and get
//! `<task>_<position from 0>`. Tasks are found whatever the case of their name (the streams say
//! `mnli`, the folder is `NLI/MNLI`).

use std::path::{Path, PathBuf};

use super::{Split, first_file, folders, no_task};
use crate::error::DataError;
use crate::json::{Position, TextReader};
use crate::raw_row::{RawRow, RowSink, required, text_row};
use crate::task::Row;
use crate::template;

/// The task's type and its folder `<TYPE>/<TASK>` below the root.
fn find(root: &Path, name: &str) -> Result<(String, String), DataError> {
    let mut found = Vec::new();
    for task_type in folders(root)? {
        let tasks = folders(&root.join(&task_type))?;
        let matching = tasks
            .into_iter()
            .filter(|task| task.eq_ignore_ascii_case(name));
        found.extend(matching.map(|task| (task_type.clone(), format!("{task_type}/{task}"))));
    }
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(no_task(root, name, format!("a folder <TYPE>/{name}"))),
        n => Err(no_task(
            root,
            name,
            format!("one folder <TYPE>/{name}, found {n}"),
        )),
    }
}

pub(super) fn file(root: &Path, name: &str, split: Split) -> Result<PathBuf, DataError> {
    let (_, folder) = find(root, name)?;
    first_file(root, name, &[format!("{folder}/{}.json", split.name())])
}

pub(super) fn labels_file(root: &Path, name: &str) -> Result<PathBuf, DataError> {
    let (_, folder) = find(root, name)?;
    first_file(root, name, &[format!("{folder}/labels.json")])
}

pub(super) fn read(
    root: &Path,
    name: &str,
    split: Split,
    rows: &mut RowSink,
) -> Result<(), DataError> {
    let (task_type, _) = find(root, name)?;
    let instruction = template::instruction(&task_type).ok_or_else(|| {
        no_task(
            root,
            name,
            format!("a task type with a known instruction, found `{task_type}`"),
        )
    })?;
    let labels = read_labels(&labels_file(root, name)?)?;
    let mut reader = TextReader::open(&file(root, name, split)?)?;
    let mut n_rows = 0;
    reader.elements(|reader, position, text| {
        let id = format!("{name}_{n_rows}");
        n_rows += 1;
        let row = RawRow::parse(reader, position, text)
            .and_then(|raw| row(reader, position, raw, id, instruction, &labels));
        rows.push(reader, position, row)
    })?;
    reader.expect_end()?;
    rows.finish(&reader)
}

fn row(
    reader: &TextReader,
    position: Position,
    raw: RawRow,
    id: String,
    instruction: &str,
    labels: &[String],
) -> Result<Row, DataError> {
    let sentence = required(reader, position, "sentence", raw.sentence, "text")?;
    let label = required(reader, position, "label", raw.label, "text")?;
    if !labels.contains(&label) {
        let problem = format!(
            "`{label}` is not in labels.json, expected one of {}",
            labels.join(", ")
        );
        return Err(reader.field(position, "label", problem));
    }
    let prompt = template::options(instruction, labels, &sentence);
    text_row(reader, position, Some(id), prompt, Some(vec![label]))
}

fn read_labels(path: &Path) -> Result<Vec<String>, DataError> {
    let mut reader = TextReader::open(path)?;
    let mut labels = Vec::new();
    reader.elements(|reader, position, text| {
        labels.push(
            serde_json::from_str(text).map_err(|error| reader.parse_error(position, "", &error))?,
        );
        Ok(())
    })?;
    reader.expect_end()?;
    if labels.is_empty() {
        Err(reader.empty())
    } else {
        Ok(labels)
    }
}
