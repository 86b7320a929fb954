//! Which token ends a text, as the tokenizer's settings say.

use std::io::ErrorKind;
use std::path::Path;

use serde_json::{Map, Value};

use crate::error::DataError;
use crate::json::read_limited;
use crate::tokenizer::Tokenizer;

/// The most bytes of a `tokenizer_config.json`; the largest published ones have a hundredth of it.
const MAX_BYTES: u64 = 16 << 20;

/// The id of the end token that the `tokenizer_config.json` at `path` names; nothing where
/// there is no such file, or it names none. A file that cannot be read is an error, and so is a
/// name that is no token.
pub fn end_token(path: &Path, tokenizer: &Tokenizer) -> Result<Option<u32>, DataError> {
    let bytes = match read_limited(path, MAX_BYTES) {
        Err(DataError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
            return Ok(None);
        }
        bytes => bytes?,
    };
    end_token_of(path, &bytes, tokenizer)
}

/// As [`end_token`], of the text of a `tokenizer_config.json`; `path` is for messages.
pub fn end_token_of(
    path: &Path,
    bytes: &[u8],
    tokenizer: &Tokenizer,
) -> Result<Option<u32>, DataError> {
    let error = |problem: String| DataError::Tokenizer {
        path: path.into(),
        problem,
    };
    let settings: Map<String, Value> =
        serde_json::from_slice(bytes).map_err(|e| error(e.to_string()))?;
    let name = match settings.get("eos_token") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(name)) => Some(name.as_str()),
        Some(token) => token["content"].as_str(),
    };
    let expected = "expected a token's name, or an object with the name as `content`";
    let name = name.ok_or_else(|| error(format!("`eos_token` is no name: {expected}")))?;
    let no_token = || error(format!("`eos_token`: the tokenizer has no token {name:?}"));
    tokenizer.id_of(name).map(Some).ok_or_else(no_token)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a file says to a tokenizer of the words w3..w511 and `</s>`.
    fn read_file(path: &Path) -> Result<Option<u32>, String> {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden");
        let tokenizer = Tokenizer::from_file(&golden.join("tiny-t5/tokenizer.json")).unwrap();
        end_token(path, &tokenizer).map_err(|error| error.to_string())
    }

    /// The same of a file with this text, or of none.
    fn read(text: Option<&str>) -> Result<Option<u32>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer_config.json");
        if let Some(text) = text {
            std::fs::write(&path, text).unwrap();
        }
        read_file(&path)
    }

    #[test]
    fn the_name_stands_by_itself_or_in_an_object() {
        assert_eq!(
            read(Some(r#"{"eos_token": "</s>", "x": [1]}"#)),
            Ok(Some(1))
        );
        assert_eq!(
            read(Some(r#"{"eos_token": {"content": "w7", "lstrip": false}}"#)),
            Ok(Some(7))
        );
        for none in [None, Some("{}"), Some(r#"{"eos_token": null}"#)] {
            assert_eq!(read(none), Ok(None), "{none:?}");
        }
    }

    #[test]
    fn what_is_no_name_of_a_token_is_an_error_with_file_and_expectation() {
        let broken = [
            ("", "line 1 column 0"),
            (r#"{"eos_token": "</s>""#, "line 1 column 20"),
            ("[]", "expected a map at line 1"),
            (r#"{"eos_token": 2}"#, "expected a token's name"),
            (
                r#"{"eos_token": {"content": 2}}"#,
                "expected a token's name",
            ),
            (r#"{"eos_token": "<end>"}"#, r#"no token "<end>""#),
        ];
        for (text, said) in broken {
            let error = read(Some(text)).expect_err(text);
            assert!(error.contains("tokenizer_config.json: "), "{error}");
            assert!(error.contains(said), "{text}: {error}");
        }
        let folder = tempfile::tempdir().unwrap();
        let error = read_file(folder.path()).unwrap_err();
        assert!(error.contains("cannot read"), "{error}");
    }
}
