//! What can go wrong with a model, its files or its adapter.

use std::fmt;
use std::path::{Path, PathBuf};

/// What can go wrong with a model.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The operating system refused something.
    #[error("{what} {}: {error}", path.display())]
    Io {
        /// What was being done, as "reading" or "renaming to".
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system answered.
        error: std::io::Error,
    },

    /// A file is not what its format demands: no JSON, a broken or truncated safetensors file.
    #[error("{}: {problem}", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// What is wrong with it, with the numbers.
        problem: String,
    },

    /// A field of a model's `config.json` is missing, out of bounds or not implemented.
    #[error("{}: {field}: {problem}", file.display())]
    Config {
        /// The file, or "configuration" for a value that was made by a program.
        file: PathBuf,
        /// The key.
        field: String,
        /// The value and what was expected.
        problem: String,
    },

    /// The tensors of a file are not those of the model; all differences are listed.
    #[error("{}: {}", file.display(), list_mismatches(mismatches))]
    Tensors {
        /// The file or folder that the tensors came from.
        file: PathBuf,
        /// Every tensor that is missing, not known, of another shape or of a dtype that cannot be
        /// read.
        mismatches: Vec<Mismatch>,
    },

    /// An adapter asks for something that is not implemented, or says something impossible.
    #[error("{}: {key}: {problem}", file.display())]
    Adapter {
        /// Its `adapter_config.json`.
        file: PathBuf,
        /// The key.
        key: String,
        /// The value and what was expected.
        problem: String,
    },

    /// A setting of LoRA is out of bounds.
    #[error("LoRA {field}: {problem}")]
    Lora {
        /// The field of [`LoraConfig`](crate::LoraConfig).
        field: &'static str,
        /// The value and what was expected.
        problem: String,
    },

    /// A setting of soft prompts is out of bounds.
    #[error("soft prompts: {field}: {problem}")]
    Prompts {
        /// The field of [`PromptConfig`](crate::PromptConfig), or `active`.
        field: &'static str,
        /// The value and what was expected.
        problem: String,
    },

    /// LoRA was asked for on modules that the model does not have.
    #[error("unknown LoRA target {target:?}, known targets are {}", known.join(", "))]
    UnknownTarget {
        /// The name as given.
        target: String,
        /// What the model offers.
        known: Vec<String>,
    },

    /// A stored or computed number is NaN or infinite.
    #[error("{name}: value {index} is {value}")]
    NonFinite {
        /// The tensor, or what was computed.
        name: String,
        /// Position of the first such value.
        index: usize,
        /// NaN or an infinity.
        value: f32,
    },

    /// A token id that the model has no embedding for.
    #[error("row {row}: token id {id} is outside the vocabulary of {vocab_size}")]
    TokenOutOfVocabulary {
        /// Position of the row in the batch, from 0.
        row: usize,
        /// The id.
        id: u32,
        /// Number of ids, V.
        vocab_size: usize,
    },

    /// A row without a single token.
    #[error("row {row} has no tokens")]
    EmptyRow {
        /// Position of the row in the batch, from 0.
        row: usize,
    },

    /// A parameter vector or gradient of the wrong length.
    #[error("{got} parameters were given, the model has {expected}")]
    ParamCount {
        /// Length of what was given.
        got: usize,
        /// P.
        expected: usize,
    },

    /// Something that this program does not do.
    #[error("{what} is not supported")]
    Unsupported {
        /// What was asked for.
        what: String,
    },

    /// The device is not part of this build.
    #[error(
        "this build has no CUDA: build with `cargo build --release -p kif-runner --features cuda` where the CUDA \
         toolkit is installed"
    )]
    NoCuda,

    /// The GPU's memory is full.
    #[error(
        "the GPU has no memory left: smaller batches (--batch-size), shorter inputs (--max-input), --recompute and \
         --precision f16 need less"
    )]
    OutOfDeviceMemory,

    /// dfdx or the accelerator failed.
    #[error("device: {0}")]
    Device(String),
}

/// One tensor that is not as the model expects it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// The model has it, the file does not.
    Missing {
        /// Its name.
        name: String,
        /// The shape that the model expects.
        shape: Vec<usize>,
    },
    /// The file has it, the model does not.
    Extra {
        /// Its name.
        name: String,
    },
    /// Both have it, in different shapes.
    Shape {
        /// Its name.
        name: String,
        /// The shape in the file.
        got: Vec<usize>,
        /// The shape that the model expects.
        expected: Vec<usize>,
    },
    /// Its values are neither f32 nor f16 nor bf16.
    Dtype {
        /// Its name.
        name: String,
        /// The dtype as the file spells it.
        dtype: String,
    },
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Names come from files: control characters must not reach a terminal.
            Mismatch::Missing { name, shape } => {
                write!(f, "missing {} {shape:?}", name.escape_debug())
            }
            Mismatch::Extra { name } => write!(f, "unexpected {}", name.escape_debug()),
            Mismatch::Shape {
                name,
                got,
                expected,
            } => {
                write!(
                    f,
                    "{} has shape {got:?}, expected {expected:?}",
                    name.escape_debug()
                )
            }
            Mismatch::Dtype { name, dtype } => {
                write!(
                    f,
                    "{} has dtype {}, expected F32, F16 or BF16",
                    name.escape_debug(),
                    dtype.escape_debug()
                )
            }
        }
    }
}

/// A file of foreign make can differ in every name; what is printed stays readable, the error
/// itself holds all.
const MAX_LISTED: usize = 20;

fn list_mismatches(mismatches: &[Mismatch]) -> String {
    let tensors = if mismatches.len() == 1 {
        "tensor does"
    } else {
        "tensors do"
    };
    let mut text = format!("{} {tensors} not fit the model:", mismatches.len());
    for mismatch in mismatches.iter().take(MAX_LISTED) {
        text.push_str(&format!("\n  {mismatch}"));
    }
    if mismatches.len() > MAX_LISTED {
        text.push_str(&format!("\n  and {} more", mismatches.len() - MAX_LISTED));
    }
    text
}

impl From<kif_io::atomic::FileError> for ModelError {
    fn from(error: kif_io::atomic::FileError) -> Self {
        let kif_io::atomic::FileError { doing, path, error } = error;
        Self::Io {
            what: doing,
            path,
            error,
        }
    }
}

impl ModelError {
    pub(crate) fn io(what: &'static str, path: &Path, error: std::io::Error) -> Self {
        ModelError::Io {
            what,
            path: path.to_owned(),
            error,
        }
    }

    pub(crate) fn malformed(file: &Path, problem: impl Into<String>) -> Self {
        ModelError::Malformed {
            file: file.to_owned(),
            problem: problem.into(),
        }
    }
}

/// Refuses NaN and infinities.
pub(crate) fn check_finite(name: &str, values: &[f32]) -> Result<(), ModelError> {
    check_finite_from(name, values, 0)
}

/// As [`check_finite`], of values from number `start` of the tensor on.
pub(crate) fn check_finite_from(
    name: &str,
    values: &[f32],
    start: usize,
) -> Result<(), ModelError> {
    match values.iter().position(|v| !v.is_finite()) {
        None => Ok(()),
        Some(index) => Err(ModelError::NonFinite {
            name: name.to_owned(),
            index: start + index,
            value: values[index],
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_of_mismatches_ends_with_the_number_of_the_rest() {
        let mismatches = (0..1000).map(|i| Mismatch::Extra {
            name: format!("x{i}"),
        });
        let error = ModelError::Tensors {
            file: "m".into(),
            mismatches: mismatches.collect(),
        };
        let text = error.to_string();
        assert!(text.starts_with("m: 1000 tensors do not fit"), "{text}");
        let end = "\n  unexpected x19\n  and 980 more";
        assert!(text.ends_with(end), "{text}");
    }

    #[test]
    fn every_mismatch_of_a_few_is_printed() {
        let error = ModelError::Tensors {
            file: "m/model.safetensors".into(),
            mismatches: vec![
                Mismatch::Missing {
                    name: "a".into(),
                    shape: vec![2, 3],
                },
                Mismatch::Extra {
                    name: "b\u{1b}".into(),
                },
                Mismatch::Shape {
                    name: "c".into(),
                    got: vec![1],
                    expected: vec![],
                },
                Mismatch::Dtype {
                    name: "d".into(),
                    dtype: "I64".into(),
                },
            ],
        };
        assert_eq!(
            error.to_string(),
            "m/model.safetensors: 4 tensors do not fit the model:\n  missing a [2, 3]\n  unexpected b\\u{1b}\n  \
             c has shape [1], expected []\n  d has dtype I64, expected F32, F16 or BF16"
        );
    }
}
