//! What can go wrong between a file and a batch.

use std::path::PathBuf;

/// A failure to read tasks, streams, corpora or tokenizers.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The operating system refused.
    #[error("cannot read {path}", path = .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file without a single row.
    #[error("{path}: the file has no rows, expected at least one", path = .path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A file that is larger than any reader accepts.
    #[error("{path}: the file has more than {limit} bytes, the most that is read", path = .path.display())]
    FileTooLarge {
        /// The file.
        path: PathBuf,
        /// The limit in bytes.
        limit: u64,
    },
    /// A line or an array element that is larger than any reader accepts.
    #[error("{path}:{line}: the {what} that starts here has more than {limit} bytes", path = .path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Where it starts, from 1.
        line: usize,
        /// `line` or `value`.
        what: &'static str,
        /// The limit in bytes.
        limit: usize,
    },
    /// Brackets in brackets in brackets.
    #[error("{path}:{line}:{column}: values are nested more than {limit} deep", path = .path.display())]
    TooDeep {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// In bytes, from 1.
        column: usize,
        /// The deepest nesting that is read.
        limit: usize,
    },
    /// Bytes that are no text.
    #[error("{path}:{line}:{column}: invalid UTF-8, expected UTF-8 text without a byte order mark", path = .path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// In bytes, from 1.
        column: usize,
    },
    /// A byte order mark at the start of the file.
    #[error("{path}:1:1: starts with a byte order mark, expected UTF-8 text without one", path = .path.display())]
    ByteOrderMark {
        /// The file.
        path: PathBuf,
    },
    /// A file that is not the JSON that was expected.
    #[error("{path}:{line}:{column}: {problem}", path = .path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// In bytes, from 1.
        column: usize,
        /// What was found and what was expected.
        problem: String,
    },
    /// A row with a bad or missing field.
    #[error("{path}:{line}:{column}: field `{field}`: {problem}", path = .path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// From 1: of the value, or of the row where the field is missing.
        line: usize,
        /// In bytes, from 1.
        column: usize,
        /// The field's name.
        field: String,
        /// What was found and what was expected.
        problem: String,
    },
    /// Two rows of a file with one id.
    #[error(
        "{path}:{line}: field `id`: `{id}` is already the id of the row at line {first_line}, expected unique ids",
        path = .path.display()
    )]
    DuplicateId {
        /// The file.
        path: PathBuf,
        /// Where the second row starts, from 1.
        line: usize,
        /// The id.
        id: String,
        /// Where the first row starts, from 1.
        first_line: usize,
    },
    /// A task that a layout does not have.
    #[error("no task `{task}` in {root}: expected {expected}", root = .root.display())]
    NoTask {
        /// The task's name.
        task: String,
        /// The data folder.
        root: PathBuf,
        /// The files that were looked for.
        expected: String,
    },
    /// A stream file that does not describe a stream.
    #[error("{path}:{line}:{column}: not a task stream: {problem}", path = .path.display())]
    Stream {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
        /// What is wrong.
        problem: String,
    },
    /// A tokenizer that does not load or does not encode.
    #[error("tokenizer {path}: {problem}", path = .path.display())]
    Tokenizer {
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A prompt template that does not render.
    #[error("template {path}, line {line}: {problem}", path = .path.display())]
    Template {
        /// Its file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// A row that has no room within the limits.
    #[error(
        "row `{id}`: at most {limit} {side} tokens leave no room for text beside the {n_around} around it"
    )]
    NoRoom {
        /// The row's id.
        id: String,
        /// `input` or `target`.
        side: &'static str,
        /// The limit in tokens.
        limit: usize,
        /// Tokens that the tokenizer and the prompt's template add.
        n_around: usize,
    },
    /// A row that has no token at all.
    #[error("row `{id}`: the {side} has no tokens, expected at least one")]
    NoTokens {
        /// The row's id.
        id: String,
        /// `input` or `target`.
        side: &'static str,
    },
}
