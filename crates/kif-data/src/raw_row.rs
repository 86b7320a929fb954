//! A row as it stands in a JSON object, before a layout says which fields it needs.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::error::DataError;
use crate::json::{Position, TextReader};
use crate::task::{Content, Row};
use crate::template::Prompt;

/// The fields that any layout knows; others are tolerated. A field that appears twice is an error.
#[derive(Debug, Default)]
pub(crate) struct RawRow {
    pub(crate) id: Option<String>,
    pub(crate) instruction: Option<String>,
    pub(crate) input: Option<String>,
    pub(crate) output: Option<Vec<String>>,
    pub(crate) input_ids: Option<Vec<u32>>,
    pub(crate) target_ids: Option<Vec<u32>>,
    pub(crate) label: Option<String>,
    pub(crate) sentence: Option<String>,
    pub(crate) text: Option<String>,
}

impl RawRow {
    /// Parses the JSON object `text` that starts at `position`.
    pub(crate) fn parse(
        reader: &TextReader,
        position: Position,
        text: &str,
    ) -> Result<Self, DataError> {
        let field = RefCell::new(String::new());
        let mut deserializer = serde_json::Deserializer::from_str(text);
        Fields { current: &field }
            .deserialize(&mut deserializer)
            .and_then(|row| deserializer.end().map(|()| row))
            .map_err(|error| reader.parse_error(position, &field.borrow(), &error))
    }

    /// `{id, instruction?, input, output}`, or `{id, input_ids, target_ids}`.
    pub(crate) fn into_row(
        self,
        reader: &TextReader,
        position: Position,
    ) -> Result<Row, DataError> {
        if self.input_ids.is_none() && self.target_ids.is_none() {
            let prompt = |raw_input: &str| {
                crate::template::instruction_input(
                    self.instruction.as_deref().unwrap_or(""),
                    raw_input,
                )
            };
            let input = required(reader, position, "input", self.input, "text")?;
            let prompt = prompt(&input);
            return text_row(reader, position, self.id, prompt, self.output);
        }
        for (field, present) in [
            ("input", self.input.is_some()),
            ("output", self.output.is_some()),
        ] {
            if present {
                return Err(reader.field(
                    position,
                    field,
                    "expected no text beside `input_ids` and `target_ids`",
                ));
            }
        }
        let id = required(reader, position, "id", self.id, "text")?;
        let input_ids = ids(reader, position, "input_ids", self.input_ids)?;
        let target_ids = ids(reader, position, "target_ids", self.target_ids)?;
        Ok(Row {
            id,
            content: Content::Ids {
                input_ids,
                target_ids,
            },
        })
    }
}

/// A row of text from its parts; the prompt must not be empty, and there must be a reference.
pub(crate) fn text_row(
    reader: &TextReader,
    position: Position,
    id: Option<String>,
    prompt: Prompt,
    references: Option<Vec<String>>,
) -> Result<Row, DataError> {
    let id = required(reader, position, "id", id, "text")?;
    let references = required(
        reader,
        position,
        "output",
        references,
        "text or a list of texts",
    )?;
    if prompt.as_str().is_empty() {
        return Err(reader.field(position, "input", "empty prompt, expected text"));
    }
    if references.is_empty() {
        return Err(reader.field(position, "output", "empty list, expected at least one text"));
    }
    Ok(Row {
        id,
        content: Content::Text { prompt, references },
    })
}

/// The value of a field that a row must have.
pub(crate) fn required<T>(
    reader: &TextReader,
    position: Position,
    field: &str,
    value: Option<T>,
    expected: &str,
) -> Result<T, DataError> {
    value.ok_or_else(|| reader.field(position, field, format!("missing, expected {expected}")))
}

fn ids(
    reader: &TextReader,
    position: Position,
    field: &str,
    value: Option<Vec<u32>>,
) -> Result<Vec<u32>, DataError> {
    let value = required(reader, position, field, value, "a list of token ids")?;
    if value.is_empty() {
        return Err(reader.field(
            position,
            field,
            "empty list, expected at least one token id",
        ));
    }
    Ok(value)
}

/// Collects the rows of a file: ids are checked to be unique, and a bad row ends the
/// reading or is noted.
#[derive(Default)]
pub(crate) struct RowSink {
    rows: Vec<Row>,
    /// Where each row starts.
    lines: Vec<usize>,
    line_of_id: HashMap<String, usize>,
    problems: Vec<DataError>,
    /// Problems that are noted; the next one ends the reading.
    most: usize,
}

impl RowSink {
    /// Ends at the first problem.
    pub(crate) fn strict() -> Self {
        Self::default()
    }

    /// Notes up to `most` problems and goes on.
    pub(crate) fn noting(most: usize) -> Self {
        Self {
            most,
            ..Self::default()
        }
    }

    /// The value, or nothing where its problem was noted.
    pub(crate) fn note<T>(&mut self, read: Result<T, DataError>) -> Result<Option<T>, DataError> {
        match read {
            Ok(value) => Ok(Some(value)),
            Err(problem) if self.problems.len() < self.most => {
                self.problems.push(problem);
                Ok(None)
            }
            Err(problem) => Err(problem),
        }
    }

    /// Adds the row that was read at `position`.
    pub(crate) fn push(
        &mut self,
        reader: &TextReader,
        position: Position,
        row: Result<Row, DataError>,
    ) -> Result<(), DataError> {
        let unique = row.and_then(|row| match self.line_of_id.get(&row.id) {
            None => Ok(row),
            Some(&first_line) => Err(DataError::DuplicateId {
                path: reader.path().into(),
                line: position.line,
                id: row.id,
                first_line,
            }),
        });
        if let Some(row) = self.note(unique)? {
            self.line_of_id.insert(row.id.clone(), position.line);
            self.lines.push(position.line);
            self.rows.push(row);
        }
        Ok(())
    }

    /// A file that has no row at all is a problem.
    pub(crate) fn finish(&mut self, reader: &TextReader) -> Result<(), DataError> {
        match self.rows.is_empty() && self.problems.is_empty() {
            true => Err(reader.empty()),
            false => Ok(()),
        }
    }

    /// The rows.
    pub(crate) fn into_rows(self) -> Vec<Row> {
        self.rows
    }

    /// The rows, where each starts, and the problems that were noted.
    pub(crate) fn into_parts(self) -> (Vec<Row>, Vec<usize>, Vec<DataError>) {
        (self.rows, self.lines, self.problems)
    }
}

/// Parses an object field by field and notes which field it is at, so that an error can name it.
struct Fields<'a> {
    current: &'a RefCell<String>,
}

impl<'de> DeserializeSeed<'de> for Fields<'_> {
    type Value = RawRow;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<RawRow, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = RawRow;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a row: a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawRow, A::Error> {
        let mut row = RawRow::default();
        while let Some(key) = map.next_key::<String>()? {
            self.current.replace(key.clone());
            match key.as_str() {
                "id" => set(&mut row.id, map.next_value::<Id>()?.0)?,
                "instruction" => set(&mut row.instruction, map.next_value()?)?,
                "input" => set(&mut row.input, map.next_value()?)?,
                "output" => set(&mut row.output, map.next_value::<Texts>()?.0)?,
                "input_ids" => set(&mut row.input_ids, map.next_value()?)?,
                "target_ids" => set(&mut row.target_ids, map.next_value()?)?,
                "label" => set(&mut row.label, map.next_value()?)?,
                "sentence" => set(&mut row.sentence, map.next_value()?)?,
                "text" => set(&mut row.text, map.next_value()?)?,
                _ => map.next_value::<IgnoredAny>().map(drop)?,
            }
            self.current.borrow_mut().clear();
        }
        Ok(row)
    }
}

fn set<T, E: Error>(slot: &mut Option<T>, value: T) -> Result<(), E> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(E::custom("appears twice in the row, expected once")),
    }
}

/// An id: a string, or a whole number taken as its digits.
struct Id(String);

impl<'de> serde::Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct IdVisitor;
        impl Visitor<'_> for IdVisitor {
            type Value = Id;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a string or a whole number")
            }
            fn visit_str<E: Error>(self, value: &str) -> Result<Id, E> {
                Ok(Id(value.into()))
            }
            fn visit_u64<E: Error>(self, value: u64) -> Result<Id, E> {
                Ok(Id(value.to_string()))
            }
            fn visit_i64<E: Error>(self, value: i64) -> Result<Id, E> {
                Ok(Id(value.to_string()))
            }
        }
        deserializer.deserialize_any(IdVisitor)
    }
}

/// A string, or a list of strings.
pub(crate) struct Texts(pub(crate) Vec<String>);

impl<'de> serde::Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextsVisitor;
        impl<'de> Visitor<'de> for TextsVisitor {
            type Value = Texts;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }
            fn visit_str<E: Error>(self, value: &str) -> Result<Texts, E> {
                Ok(Texts(vec![value.into()]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Texts, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = list.next_element()? {
                    texts.push(text);
                }
                Ok(Texts(texts))
            }
        }
        deserializer.deserialize_any(TextsVisitor)
    }
}
