//! JSON files and JSON Lines, one value at a time and under limits.
//!
//! A file is never held whole: its outer brackets are walked here byte by byte, and only one line
//! or one array element at a time is collected and handed to `serde_json`. So a hostile file costs
//! at most the limit of one value.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use crate::error::DataError;

/// The most bytes of a line, or of one element of an array.
pub(crate) const MAX_VALUE_BYTES: usize = 16 << 20;
/// The most bytes of a file of rows.
pub(crate) const MAX_FILE_BYTES: u64 = 1 << 30;
/// The deepest nesting of brackets. Rows need two levels; natural-instructions files need four.
pub(crate) const MAX_DEPTH: usize = 64;

/// A position in a file: line and byte column, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

impl Position {
    const START: Self = Self { line: 1, column: 1 };

    fn pass(&mut self, byte: u8) {
        if byte == b'\n' {
            self.line += 1;
            self.column = 1;
        } else {
            self.column += 1;
        }
    }

    /// The position that is at `inner` in a text that starts here.
    fn within(self, inner: Self) -> Self {
        match inner.line {
            0 | 1 => Self {
                line: self.line,
                column: self.column + inner.column.saturating_sub(1),
            },
            n => Self {
                line: self.line + n - 1,
                column: inner.column.max(1),
            },
        }
    }
}

/// A text file that is read forwards, under limits, with the position known.
pub(crate) struct TextReader {
    path: PathBuf,
    reader: Box<dyn BufRead>,
    position: Position,
}

impl TextReader {
    /// Opens a file of at most [`MAX_FILE_BYTES`] that is neither empty nor starts
    /// with a byte order mark.
    pub(crate) fn open(path: &Path) -> Result<Self, DataError> {
        let io = |source| DataError::Io {
            path: path.into(),
            source,
        };
        let file = File::open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        if metadata.is_dir() {
            return Err(io(std::io::ErrorKind::IsADirectory.into()));
        }
        if metadata.len() > MAX_FILE_BYTES {
            return Err(DataError::FileTooLarge {
                path: path.into(),
                limit: MAX_FILE_BYTES,
            });
        }
        // The limit on reading holds for what has no length, as a pipe, and for files that grow.
        Self::new(
            path,
            Box::new(BufReader::with_capacity(1 << 16, file.take(MAX_FILE_BYTES))),
        )
    }

    /// Reads from a reader; `path` is for errors.
    pub(crate) fn new(path: &Path, reader: Box<dyn BufRead>) -> Result<Self, DataError> {
        let mut text_reader = Self {
            path: path.into(),
            reader,
            position: Position::START,
        };
        let start = text_reader.fill()?;
        if start.starts_with(b"\xEF\xBB\xBF") {
            return Err(DataError::ByteOrderMark { path: path.into() });
        }
        if start.is_empty() {
            return Err(text_reader.empty());
        }
        Ok(text_reader)
    }

    /// The next byte that is no white space, left unread; none at the end of the file.
    pub(crate) fn peek(&mut self) -> Result<Option<u8>, DataError> {
        loop {
            match self.fill()?.first().copied() {
                Some(b' ' | b'\t' | b'\r' | b'\n') => self.bump()?,
                other => return Ok(other),
            }
        }
    }

    /// Passes `expected`, after white space.
    pub(crate) fn expect(&mut self, expected: u8, where_: &str) -> Result<(), DataError> {
        match self.peek()? {
            Some(byte) if byte == expected => self.bump(),
            found => Err(self.unexpected(found, &format!("`{}` {where_}", char::from(expected)))),
        }
    }

    /// Nothing but white space is left.
    pub(crate) fn expect_end(&mut self) -> Result<(), DataError> {
        match self.peek()? {
            None => Ok(()),
            found => Err(self.unexpected(found, "the end of the file")),
        }
    }

    /// Calls `each` with every element of the array that comes next.
    pub(crate) fn elements(
        &mut self,
        mut each: impl FnMut(&Self, Position, &str) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        self.expect(b'[', "before the rows")?;
        let mut buffer = Vec::new();
        if self.peek()? == Some(b']') {
            return self.bump();
        }
        loop {
            let position = self.value(&mut buffer)?;
            each(self, position, self.text(&buffer, position)?)?;
            match self.peek()? {
                Some(b',') => self.bump()?,
                Some(b']') => return self.bump(),
                found => return Err(self.unexpected(found, "`,` or `]` after a row")),
            }
        }
    }

    /// Collects the next JSON value, whatever it is, and says where it starts. Its brackets are
    /// balanced; the rest is for the parser to check.
    pub(crate) fn value(&mut self, buffer: &mut Vec<u8>) -> Result<Position, DataError> {
        buffer.clear();
        self.peek()?;
        let start = self.position;
        let mut nesting = Nesting::default();
        loop {
            let chunk = self.reader.fill_buf().map_err(|source| DataError::Io {
                path: self.path.clone(),
                source,
            })?;
            if chunk.is_empty() {
                if buffer.is_empty() || !nesting.is_closed() {
                    return Err(self.unexpected(
                        None,
                        &format!("the end of the value at line {}", start.line),
                    ));
                }
                return Ok(start);
            }
            let mut end = chunk.len();
            let mut done = false;
            for (i, &byte) in chunk.iter().enumerate() {
                if nesting.is_closed()
                    && matches!(
                        byte,
                        b',' | b':' | b']' | b'}' | b' ' | b'\t' | b'\r' | b'\n'
                    )
                {
                    (end, done) = (i, true);
                    break;
                }
                self.position.pass(byte);
                if nesting.pass(byte) > MAX_DEPTH {
                    return Err(too_deep(&self.path, self.position));
                }
                if nesting.is_closed() && matches!(byte, b'"' | b']' | b'}') {
                    (end, done) = (i + 1, true);
                    break;
                }
            }
            if buffer.len() + end > MAX_VALUE_BYTES {
                return Err(self.too_long(start, "value"));
            }
            append(buffer, &chunk[..end]);
            self.reader.consume(end);
            if done {
                if buffer.is_empty() {
                    let found = self.peek()?;
                    return Err(self.unexpected(found, "a value"));
                }
                return Ok(start);
            }
        }
    }

    /// Reads the next line into `buffer`, without its end, and says where it starts; none at the
    /// end of the file. Lines end with `\n` alone (texts contain U+2028 and U+0085), and a `\r`
    /// before it is dropped.
    pub(crate) fn line(&mut self, buffer: &mut Vec<u8>) -> Result<Option<Position>, DataError> {
        buffer.clear();
        let start = self.position;
        loop {
            let chunk = self.fill()?;
            if chunk.is_empty() {
                return Ok((self.position != start).then_some(start));
            }
            let (used, ended) = match chunk.iter().position(|&byte| byte == b'\n') {
                Some(i) => (i, true),
                None => (chunk.len(), false),
            };
            if buffer.len() + used > MAX_VALUE_BYTES {
                return Err(self.too_long(start, "line"));
            }
            append(buffer, &chunk[..used]);
            self.position.column += used;
            self.reader.consume(used);
            if ended {
                self.bump()?;
                if buffer.last() == Some(&b'\r') {
                    buffer.pop();
                }
                return Ok(Some(start));
            }
        }
    }

    /// Checks that brackets in `text`, which starts at `position`, are not nested too deep.
    pub(crate) fn check_depth(&self, text: &str, mut position: Position) -> Result<(), DataError> {
        let mut nesting = Nesting::default();
        for byte in text.bytes() {
            position.pass(byte);
            if nesting.pass(byte) > MAX_DEPTH {
                return Err(too_deep(&self.path, position));
            }
        }
        Ok(())
    }

    /// The bytes that start at `position` as text.
    pub(crate) fn text<'a>(
        &self,
        bytes: &'a [u8],
        position: Position,
    ) -> Result<&'a str, DataError> {
        std::str::from_utf8(bytes).map_err(|error| {
            let mut at = position;
            bytes[..error.valid_up_to()]
                .iter()
                .for_each(|&byte| at.pass(byte));
            DataError::NotUtf8 {
                path: self.path.clone(),
                line: at.line,
                column: at.column,
            }
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn empty(&self) -> DataError {
        DataError::Empty {
            path: self.path.clone(),
        }
    }

    /// A field of the row at `position` is not as it should be.
    pub(crate) fn field(
        &self,
        position: Position,
        field: &str,
        problem: impl Into<String>,
    ) -> DataError {
        let Position { line, column } = position;
        DataError::Field {
            path: self.path.clone(),
            line,
            column,
            field: field.into(),
            problem: problem.into(),
        }
    }

    pub(crate) fn syntax(&self, position: Position, problem: impl Into<String>) -> DataError {
        let Position { line, column } = position;
        DataError::Syntax {
            path: self.path.clone(),
            line,
            column,
            problem: problem.into(),
        }
    }

    /// A parser's error in the text that starts at `position`; `field` is where the
    /// parser was, or empty.
    pub(crate) fn parse_error(
        &self,
        position: Position,
        field: &str,
        error: &serde_json::Error,
    ) -> DataError {
        let at = position.within(Position {
            line: error.line(),
            column: error.column(),
        });
        let message = error.to_string();
        let end = message
            .rfind(" at line ")
            .filter(|_| error.line() > 0)
            .unwrap_or(message.len());
        match field {
            "" => self.syntax(at, &message[..end]),
            _ => self.field(at, field, &message[..end]),
        }
    }

    fn unexpected(&self, found: Option<u8>, expected: &str) -> DataError {
        let found = match found {
            None => "the end of the file".into(),
            Some(byte) if byte.is_ascii_graphic() => format!("`{}`", char::from(byte)),
            Some(byte) => format!("byte 0x{byte:02X}"),
        };
        self.syntax(self.position, format!("found {found}, expected {expected}"))
    }

    fn too_long(&self, start: Position, what: &'static str) -> DataError {
        DataError::TooLong {
            path: self.path.clone(),
            line: start.line,
            what,
            limit: MAX_VALUE_BYTES,
        }
    }

    fn fill(&mut self) -> Result<&[u8], DataError> {
        self.reader.fill_buf().map_err(|source| DataError::Io {
            path: self.path.clone(),
            source,
        })
    }

    fn bump(&mut self) -> Result<(), DataError> {
        let byte = self.fill()?[0];
        self.position.pass(byte);
        self.reader.consume(1);
        Ok(())
    }
}

/// Appends to a buffer that holds at most [`MAX_VALUE_BYTES`]. A large one gets its whole room at
/// once: memory that is not written to costs nothing, while growing by doubling would hold the
/// old and the new buffer.
fn append(buffer: &mut Vec<u8>, bytes: &[u8]) {
    if buffer.len() + bytes.len() > 1 << 20 {
        buffer.reserve_exact(MAX_VALUE_BYTES - buffer.len());
    }
    buffer.extend_from_slice(bytes);
}

fn too_deep(path: &Path, position: Position) -> DataError {
    let column = position.column.saturating_sub(1).max(1);
    DataError::TooDeep {
        path: path.into(),
        line: position.line,
        column,
        limit: MAX_DEPTH,
    }
}

/// How deep in brackets a byte of JSON is, and whether it is inside a string.
#[derive(Default)]
struct Nesting {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Nesting {
    /// Passes a byte; the depth after it.
    fn pass(&mut self, byte: u8) -> usize {
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' if self.in_string => self.escaped = true,
            b'"' => self.in_string = !self.in_string,
            b'[' | b'{' if !self.in_string => self.depth += 1,
            b']' | b'}' if !self.in_string => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        self.depth
    }

    fn is_closed(&self) -> bool {
        self.depth == 0 && !self.in_string
    }
}

/// Reads a whole file of at most `limit` bytes.
pub(crate) fn read_limited(path: &Path, limit: u64) -> Result<Vec<u8>, DataError> {
    let io = |source| DataError::Io {
        path: path.into(),
        source,
    };
    let mut bytes = Vec::new();
    File::open(path)
        .map_err(io)?
        .take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(io)?;
    if bytes.len() as u64 > limit {
        return Err(DataError::FileTooLarge {
            path: path.into(),
            limit,
        });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(text: &'static [u8]) -> TextReader {
        TextReader::new(
            Path::new("f.json"),
            Box::new(BufReader::with_capacity(3, text)),
        )
        .unwrap()
    }

    #[test]
    fn values_are_split_whatever_the_buffer_size() {
        let mut elements = Vec::new();
        let mut reader = reader(b" [ {\"a\": \"]}\\\"\"} ,\n 12,\"x,y\" ,[1, [2]] ] \n");
        reader
            .elements(|_, position, text| {
                elements.push((position.line, position.column, text.to_owned()));
                Ok(())
            })
            .unwrap();
        reader.expect_end().unwrap();
        let expected = [
            (1, 4, "{\"a\": \"]}\\\"\"}"),
            (2, 2, "12"),
            (2, 5, "\"x,y\""),
            (2, 12, "[1, [2]]"),
        ];
        assert_eq!(
            elements,
            expected.map(|(line, column, text)| (line, column, text.to_owned()))
        );
    }

    #[test]
    fn lines_end_with_line_feeds_alone() {
        let mut reader = reader("a\u{2028}b\u{85}c\r\n\nlast".as_bytes());
        let mut buffer = Vec::new();
        let mut lines = Vec::new();
        while let Some(position) = reader.line(&mut buffer).unwrap() {
            lines.push((position.line, String::from_utf8(buffer.clone()).unwrap()));
        }
        assert_eq!(
            lines,
            [
                (1, "a\u{2028}b\u{85}c".into()),
                (2, String::new()),
                (3, "last".into())
            ]
        );
    }

    #[test]
    fn broken_brackets_say_where() {
        let error = |text: &'static [u8]| {
            reader(text)
                .elements(|_, _, _| Ok(()))
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            error(b"{}"),
            "f.json:1:1: found `{`, expected `[` before the rows"
        );
        assert_eq!(error(b"[1,\n]"), "f.json:2:1: found `]`, expected a value");
        assert_eq!(
            error(b"[1\n 2]"),
            "f.json:2:2: found `2`, expected `,` or `]` after a row"
        );
        assert_eq!(
            error(b"[{\n"),
            "f.json:2:1: found the end of the file, expected the end of the value at line 1"
        );
    }
}
