//! Text to pretrain on: `.jsonl` and `.txt` files, plain or compressed (`.zst`).

mod zstd;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use crate::error::DataError;
use crate::json::TextReader;
use crate::raw_row::{RawRow, required};

/// Opens a corpus file; one whose name ends in `.zst` is decompressed while it is read.
///
/// Zstandard windows of up to 2^27 bytes are accepted, which is what such a file may cost in
/// memory. A damaged file is an `InvalidData` error of the reader, never a short read.
pub fn corpus_reader(path: &Path) -> Result<Box<dyn BufRead>, DataError> {
    let io = |source| DataError::Io {
        path: path.into(),
        source,
    };
    let file = BufReader::with_capacity(1 << 16, File::open(path).map_err(io)?);
    if path.extension().is_some_and(|extension| extension == "zst") {
        return Ok(Box::new(BufReader::with_capacity(
            1 << 16,
            zstd::Frames::new(file),
        )));
    }
    Ok(Box::new(file))
}

/// A piece of a corpus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CorpusItem {
    /// Something to answer: a line `{input, output}` of a `.jsonl` file, instruction and references
    /// included if it has them (the first reference counts).
    Pair {
        /// Never empty.
        prompt: String,
        /// May be empty.
        target: String,
    },
    /// Plain text: a line `{text}` of a `.jsonl` file, or a line of a `.txt` file.
    Text(String),
    /// A document starts here: a line `<|doc|>name` of a `.txt` file.
    Document(String),
}

/// The pieces of a corpus file, in file order: rows of `.jsonl[.zst]`, lines of `.txt[.zst]`.
///
/// Empty lines of a text file separate paragraphs and are not pieces. A piece has at most 16 MiB.
/// The first error ends the iteration.
pub fn corpus_items(path: &Path) -> Result<CorpusItems, DataError> {
    let stem = if path.extension().is_some_and(|extension| extension == "zst") {
        path.with_extension("")
    } else {
        PathBuf::from(path)
    };
    let rows = match stem.extension().and_then(|extension| extension.to_str()) {
        Some("jsonl") => true,
        Some("txt") => false,
        _ => {
            let source = std::io::Error::other(
                "expected a name that ends in .jsonl, .txt, .jsonl.zst or .txt.zst",
            );
            return Err(DataError::Io {
                path: path.into(),
                source,
            });
        }
    };
    let reader = TextReader::new(path, corpus_reader(path)?)?;
    Ok(CorpusItems {
        reader,
        rows,
        buffer: Vec::new(),
        ended: false,
    })
}

/// See [`corpus_items`].
pub struct CorpusItems {
    reader: TextReader,
    rows: bool,
    buffer: Vec<u8>,
    ended: bool,
}

impl Iterator for CorpusItems {
    type Item = Result<CorpusItem, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let item = self.read().transpose();
        self.ended = !matches!(item, Some(Ok(_)));
        item
    }
}

impl CorpusItems {
    fn read(&mut self) -> Result<Option<CorpusItem>, DataError> {
        while let Some(position) = self.reader.line(&mut self.buffer)? {
            let line = self.reader.text(&self.buffer, position)?;
            if self.rows {
                self.reader.check_depth(line, position)?;
                let row = RawRow::parse(&self.reader, position, line)?;
                return Self::of_row(&self.reader, position, row).map(Some);
            }
            if let Some(name) = line.strip_prefix("<|doc|>") {
                return Ok(Some(CorpusItem::Document(name.into())));
            }
            if !line.trim().is_empty() {
                return Ok(Some(CorpusItem::Text(line.into())));
            }
        }
        Ok(None)
    }

    fn of_row(
        reader: &TextReader,
        position: crate::json::Position,
        row: RawRow,
    ) -> Result<CorpusItem, DataError> {
        if let (Some(text), None) = (&row.text, &row.input) {
            return Ok(CorpusItem::Text(text.clone()));
        }
        let input = required(
            reader,
            position,
            "input",
            row.input,
            "text (or a field `text`)",
        )?;
        let output = required(
            reader,
            position,
            "output",
            row.output,
            "text or a list of texts",
        )?;
        let prompt =
            crate::template::instruction_input(row.instruction.as_deref().unwrap_or(""), &input);
        let prompt = prompt.as_str().to_owned();
        if prompt.is_empty() {
            return Err(reader.field(position, "input", "empty prompt, expected text"));
        }
        let Some(target) = output.into_iter().next() else {
            return Err(reader.field(position, "output", "empty list, expected at least one text"));
        };
        Ok(CorpusItem::Pair { prompt, target })
    }
}
