//! Why a protocol cannot be used.

/// Why a protocol cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// Neither a built-in name nor a file.
    #[error("protocol {name}: no such file and no built-in protocol ({})", known.join(", "))]
    Unknown {
        /// What was asked for.
        name: String,
        /// The built-in names.
        known: Vec<&'static str>,
    },
    /// The file cannot be read.
    #[error("protocol {path}: {error}")]
    Unreadable {
        /// The file.
        path: String,
        /// Why not.
        error: std::io::Error,
    },
    /// The file is not a protocol.
    #[error("protocol {path}, line {line}, column {column}: {message}")]
    Syntax {
        /// The file, or the name of a built-in one.
        path: String,
        /// Line of the problem, from 1.
        line: usize,
        /// Column of the problem, from 1.
        column: usize,
        /// The problem.
        message: String,
    },
    /// A value outside its range.
    #[error("protocol {protocol}: {field} is {value}, expected {expected}")]
    Value {
        /// Name of the protocol.
        protocol: String,
        /// Path of the field.
        field: String,
        /// Its value.
        value: String,
        /// What would be right.
        expected: String,
    },
}
