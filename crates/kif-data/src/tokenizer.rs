//! From text to ids and back, with the tokenizer files that models ship.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::batch::Encoded;
use crate::error::DataError;
use crate::task::{Content, Row};

/// The most bytes of a tokenizer file; the largest published ones have a fifth of it.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// The most tokens of a row, end token included. Both at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Of a prompt (published runs: 1024).
    pub max_input: usize,
    /// Of a target (published runs: 128).
    pub max_target: usize,
}

/// A `tokenizer.json`, as Hugging Face's `tokenizers` reads it.
pub struct Tokenizer {
    path: PathBuf,
    inner: tokenizers::Tokenizer,
}

impl Tokenizer {
    /// Reads `tokenizer.json`. Truncation and padding that the file may set are switched off: limits are ours, and
    /// batches are ragged.
    pub fn from_file(path: &Path) -> Result<Self, DataError> {
        let io = |source| DataError::Io {
            path: path.into(),
            source,
        };
        let mut bytes = Vec::new();
        File::open(path)
            .map_err(io)?
            .take(MAX_FILE_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(io)?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(DataError::FileTooLarge {
                path: path.into(),
                limit: MAX_FILE_BYTES,
            });
        }
        let error = |e: tokenizers::Error| DataError::Tokenizer {
            path: path.into(),
            problem: e.to_string(),
        };
        let mut inner = tokenizers::Tokenizer::from_bytes(&bytes).map_err(error)?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(error)?;
        Ok(Self {
            path: path.into(),
            inner,
        })
    }

    /// Ids of a text with the tokenizer's own post-processing (T5 appends `</s>`).
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, DataError> {
        Ok(self.encoding(text)?.get_ids().to_vec())
    }

    /// Text of ids, special tokens left out.
    pub fn decode(&self, ids: &[u32]) -> Result<String, DataError> {
        self.inner.decode(ids, true).map_err(|e| self.error(e))
    }

    /// Number of tokens, added ones included. A model may have more rows than that in its embedding.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Ids of a row's prompt and of its first reference.
    ///
    /// Text beyond a limit is cut from the end; the special tokens that the tokenizer appends are within the limit
    /// and kept. Rows of ids are taken as given, whatever the limits.
    pub fn encode_row(&self, row: &Row, limits: Limits) -> Result<Encoded, DataError> {
        match &row.content {
            Content::Ids {
                input_ids,
                target_ids,
            } => Ok(Encoded {
                input_ids: input_ids.clone(),
                target_ids: target_ids.clone(),
                cut: false,
            }),
            Content::Text { prompt, references } => {
                let target = references.first().map_or("", String::as_str);
                let (input_ids, cut) =
                    self.encode_within(prompt, limits.max_input, &row.id, "input")?;
                let (target_ids, _) =
                    self.encode_within(target, limits.max_target, &row.id, "target")?;
                Ok(Encoded {
                    input_ids,
                    target_ids,
                    cut,
                })
            }
        }
    }

    /// Ids of a text, at most `limit` of them, and whether any were cut off.
    fn encode_within(
        &self,
        text: &str,
        limit: usize,
        id: &str,
        side: &'static str,
    ) -> Result<(Vec<u32>, bool), DataError> {
        let encoding = self.encoding(text)?;
        let ids = encoding.get_ids();
        if ids.is_empty() {
            return Err(DataError::NoTokens {
                id: id.into(),
                side,
            });
        }
        if ids.len() <= limit {
            return Ok((ids.to_vec(), false));
        }
        // Set by the post-processor alone: an end token written out in the text is text.
        let special = encoding.get_special_tokens_mask();
        let n_end = special.iter().rev().take_while(|&&mask| mask == 1).count();
        if n_end >= limit {
            return Err(DataError::NoRoom {
                id: id.into(),
                side,
                limit,
                n_special: n_end,
            });
        }
        let (kept, end) = (&ids[..limit - n_end], &ids[ids.len() - n_end..]);
        Ok(([kept, end].concat(), true))
    }

    fn encoding(&self, text: &str) -> Result<tokenizers::Encoding, DataError> {
        self.inner
            .encode_fast(text, true)
            .map_err(|e| self.error(e))
    }

    fn error(&self, error: tokenizers::Error) -> DataError {
        DataError::Tokenizer {
            path: self.path.clone(),
            problem: error.to_string(),
        }
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words w3..w511, ids 3..511; `</s>` (1) is appended.
    fn tiny() -> Tokenizer {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden");
        Tokenizer::from_file(&golden.join("tiny-t5/tokenizer.json")).unwrap()
    }

    fn row(prompt: &str, reference: &str) -> Row {
        let content = Content::Text {
            prompt: prompt.into(),
            references: vec![reference.into(), "w9".into()],
        };
        Row {
            id: "r".into(),
            content,
        }
    }

    #[test]
    fn texts_become_ids_with_an_end_token_and_come_back() {
        let tokenizer = tiny();
        assert_eq!(tokenizer.vocab_size(), 512);
        let ids = tokenizer.encode("w5 w7").unwrap();
        assert_eq!(ids, [5, 7, 1]);
        assert_eq!(tokenizer.decode(&ids).unwrap(), "w5 w7");
        assert_eq!(tokenizer.encode("").unwrap(), [1]);
    }

    #[test]
    fn long_rows_are_cut_from_the_end_and_keep_the_end_token() {
        let tokenizer = tiny();
        let limits = Limits {
            max_input: 3,
            max_target: 2,
        };
        let encoded = tokenizer
            .encode_row(&row("w3 w4 w5 w6", "w7"), limits)
            .unwrap();
        assert_eq!(
            encoded,
            Encoded {
                input_ids: vec![3, 4, 1],
                target_ids: vec![7, 1],
                cut: true
            }
        );
        let encoded = tokenizer
            .encode_row(&row("w3 w4", "w7 w8"), limits)
            .unwrap();
        assert_eq!(
            encoded,
            Encoded {
                input_ids: vec![3, 4, 1],
                target_ids: vec![7, 1],
                cut: false
            }
        );
    }

    #[test]
    fn a_limit_without_room_for_text_is_an_error() {
        let error = tiny()
            .encode_row(
                &row("w3 w4", "w7"),
                Limits {
                    max_input: 1,
                    max_target: 9,
                },
            )
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "row `r`: at most 1 input tokens leave no room for text beside 1 special tokens"
        );
    }

    #[test]
    fn an_empty_reference_is_an_end_token() {
        let encoded = tiny()
            .encode_row(
                &row("w3", ""),
                Limits {
                    max_input: 9,
                    max_target: 9,
                },
            )
            .unwrap();
        assert_eq!(encoded.target_ids, [1]);
    }

    #[test]
    fn ids_are_taken_as_given() {
        let content = Content::Ids {
            input_ids: vec![9, 8, 7],
            target_ids: vec![6, 5],
        };
        let row = Row {
            id: "r".into(),
            content,
        };
        let encoded = tiny()
            .encode_row(
                &row,
                Limits {
                    max_input: 1,
                    max_target: 1,
                },
            )
            .unwrap();
        assert_eq!(
            encoded,
            Encoded {
                input_ids: vec![9, 8, 7],
                target_ids: vec![6, 5],
                cut: false
            }
        );
    }

    #[test]
    fn a_file_that_is_no_tokenizer_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "{\"version\": \"1.0\"").unwrap();
        assert!(matches!(
            Tokenizer::from_file(file.path()),
            Err(DataError::Tokenizer { .. })
        ));
        assert!(matches!(
            Tokenizer::from_file(Path::new("/nonesuch")),
            Err(DataError::Io { .. })
        ));
    }
}
