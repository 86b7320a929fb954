//! From text to ids and back, with the tokenizer files that models ship.

use std::path::{Path, PathBuf};

use crate::batch::Encoded;
use crate::error::DataError;
use crate::json::read_limited;
use crate::task::{Content, Row};
use crate::template::{Prompt, Template};

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

/// How rows become ids for a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Format {
    /// What a prompt looks like.
    pub template: Template,
    /// The token that ends a target of a decoder-only model; none for an encoder-decoder,
    /// whose tokenizer knows it.
    pub end_id: Option<u32>,
}

/// A `tokenizer.json`, as Hugging Face's `tokenizers` reads it.
pub struct Tokenizer {
    path: PathBuf,
    inner: tokenizers::Tokenizer,
}

impl Tokenizer {
    /// Reads `tokenizer.json`. Truncation and padding that the file may set are switched off:
    /// limits are ours, and batches are ragged.
    pub fn from_file(path: &Path) -> Result<Self, DataError> {
        Self::from_bytes(path, &read_limited(path, MAX_FILE_BYTES)?)
    }

    /// As [`from_file`](Self::from_file), of the text of a `tokenizer.json`; `path` is for
    /// messages.
    pub fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Self, DataError> {
        let error = |e: tokenizers::Error| DataError::Tokenizer {
            path: path.into(),
            problem: e.to_string(),
        };
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(error)?;
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

    /// Number of tokens, added ones included. A model may have more rows than
    /// that in its embedding.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// As [`encode_row_as`](Self::encode_row_as), for an encoder-decoder that reads
    /// prompts as files have them.
    pub fn encode_row(&self, row: &Row, limits: Limits) -> Result<Encoded, DataError> {
        self.encode_row_as(row, limits, &Format::default())
    }

    /// Ids of a row's prompt and of its first reference. Rows of ids are taken as given,
    /// whatever the limits.
    ///
    /// An encoder-decoder gets both with the tokenizer's post-processing; text beyond a
    /// limit is cut from the end, and the special tokens that the tokenizer appends are
    /// within the limit and kept.
    ///
    /// A decoder-only model gets the special tokens that stand in front of the prompt, the prompt
    /// without any behind it, and a target without special tokens but for the end token, within its
    /// limit. Of a prompt that is too long the end of the row's input is cut, so that the template
    /// around it stays whole.
    pub fn encode_row_as(
        &self,
        row: &Row,
        limits: Limits,
        format: &Format,
    ) -> Result<Encoded, DataError> {
        let (prompt, references) = match &row.content {
            Content::Ids {
                input_ids,
                target_ids,
            } => {
                return Ok(Encoded {
                    input_ids: input_ids.clone(),
                    target_ids: target_ids.clone(),
                    cut: false,
                });
            }
            Content::Text { prompt, references } => (prompt, references),
        };
        let target = references.first().map_or("", String::as_str);
        let Format { template, end_id } = format;
        let (input_ids, cut, target_ids) = match end_id {
            None => {
                let text = template.render(prompt)?;
                let (input_ids, cut) =
                    self.encode_within(&text, limits.max_input, &row.id, "input")?;
                let (target_ids, _) =
                    self.encode_within(target, limits.max_target, &row.id, "target")?;
                (input_ids, cut, target_ids)
            }
            Some(end_id) => {
                let (input_ids, cut) =
                    self.prompt_within(prompt, limits.max_input, template, row)?;
                let mut target_ids = self.encode_continuation(target, *end_id)?;
                if target_ids.len() > limits.max_target {
                    target_ids.truncate(limits.max_target.saturating_sub(1));
                    target_ids.push(*end_id);
                }
                (input_ids, cut, target_ids)
            }
        };
        Ok(Encoded {
            input_ids,
            target_ids,
            cut,
        })
    }

    /// Ids of what a decoder-only model writes: the text without special tokens, and the end token.
    pub fn encode_continuation(&self, text: &str, end_id: u32) -> Result<Vec<u32>, DataError> {
        let encoding = self.inner.encode_fast(text, false);
        let mut ids = encoding.map_err(|e| self.error(e))?.get_ids().to_vec();
        ids.push(end_id);
        Ok(ids)
    }

    /// The id of a token by its name, if there is such a token.
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Ids of a prompt that is to be continued, at most `limit` of them, and whether its
    /// input was cut for that.
    fn prompt_within(
        &self,
        prompt: &Prompt,
        limit: usize,
        template: &Template,
        row: &Row,
    ) -> Result<(Vec<u32>, bool), DataError> {
        let side = "input";
        let ids_of = |n_bytes: usize| {
            let text = template.render(&prompt.with_input_cut(n_bytes))?;
            let encoding = self.encoding(&text)?;
            let special = encoding.get_special_tokens_mask();
            let n_end = special.iter().rev().take_while(|&&mask| mask == 1).count();
            let ids = encoding.get_ids();
            // A prompt of special tokens alone is all that there is.
            let n_kept = if n_end == ids.len() {
                n_end
            } else {
                ids.len() - n_end
            };
            Ok::<_, DataError>(ids[..n_kept].to_vec())
        };
        let whole = ids_of(prompt.input().len())?;
        if whole.is_empty() {
            return Err(DataError::NoTokens {
                id: row.id.clone(),
                side,
            });
        }
        if whole.len() <= limit {
            return Ok((whole, false));
        }
        // The longest beginning of the input that fits: more text has hardly ever fewer tokens.
        let (mut fits, mut too_long) = (0, prompt.input().len());
        let mut kept = ids_of(fits)?;
        let no_room = |n_around| DataError::NoRoom {
            id: row.id.clone(),
            side,
            limit,
            n_around,
        };
        if kept.len() > limit {
            return Err(no_room(kept.len()));
        }
        while too_long - fits > 1 {
            let middle = fits + (too_long - fits) / 2;
            let ids = ids_of(middle)?;
            if ids.len() <= limit {
                (fits, kept) = (middle, ids);
            } else {
                too_long = middle;
            }
        }
        if kept.is_empty() {
            return Err(no_room(0));
        }
        Ok((kept, true))
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
                n_around: n_end,
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
        Tokenizer::from_file(&tiny_path()).unwrap()
    }

    fn tiny_path() -> PathBuf {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden");
        golden.join("tiny-t5/tokenizer.json")
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
            "row `r`: at most 1 input tokens leave no room for text beside the 1 around it"
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
    fn a_prompt_to_be_continued_has_no_end_token_and_is_cut_in_its_input() {
        let format = Format {
            template: Template::Plain,
            end_id: Some(2),
        };
        let content = Content::Text {
            prompt: crate::template::superni("w3", "w4 w5 w6"),
            references: vec!["w7 w8 w9".into()],
        };
        let row = Row {
            id: "r".into(),
            content,
        };
        let encode = |max_input, max_target| {
            let limits = Limits {
                max_input,
                max_target,
            };
            tiny().encode_row_as(&row, limits, &format)
        };
        let whole = encode(99, 99).unwrap();
        let n = whole.input_ids.len();
        assert_eq!(
            (whole.cut, &whole.target_ids[..]),
            (false, &[7, 8, 9, 2][..])
        );
        assert!(whole.input_ids.iter().all(|id| *id != 1), "{whole:?}");
        let cut = encode(n - 1, 3).unwrap();
        // w6 is gone, what stands around the input is not, and the target keeps its end token.
        let mut expected = whole.input_ids.clone();
        expected.retain(|id| *id != 6);
        assert_eq!((cut.input_ids, cut.cut), (expected, true));
        assert_eq!(cut.target_ids, [7, 8, 2]);
        assert!(matches!(encode(1, 9), Err(DataError::NoRoom { .. })));
    }

    /// Tokenizers that add no token of their own, and rows that are all input.
    #[test]
    fn a_prompt_with_nothing_around_its_input_is_cut_too() {
        let text = std::fs::read_to_string(tiny_path()).unwrap();
        let mut fields: serde_json::Value = serde_json::from_str(&text).unwrap();
        fields["post_processor"] = serde_json::Value::Null;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        std::fs::write(&path, fields.to_string()).unwrap();
        let tokenizer = Tokenizer::from_file(&path).unwrap();
        let content = Content::Text {
            prompt: "w3 w4 w5".into(),
            references: vec!["w7".into()],
        };
        let row = Row {
            id: "r".into(),
            content,
        };
        let format = Format {
            template: Template::Plain,
            end_id: Some(2),
        };
        let encode = |max_input| {
            let limits = Limits {
                max_input,
                max_target: 9,
            };
            tokenizer.encode_row_as(&row, limits, &format)
        };
        let cut = encode(2).unwrap();
        assert_eq!((cut.input_ids, cut.cut), (vec![3, 4], true));
        assert!(matches!(encode(0), Err(DataError::NoRoom { .. })));
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
