//! The texts beside the weights of a model, whether they are files or made from a GGUF file.

use std::io::ErrorKind;
use std::path::Path;

use super::gguf::{Gguf, is_gguf};
use super::json::read_limited;
use crate::ModelError;

/// The largest text that is read; the largest published tokenizers have a fifth of it.
const MAX_BYTES: u64 = 256 << 20;

/// The text `name` of a model: a file of its directory, or what stands for it in a GGUF file, which
/// has a `tokenizer.json`, `tokenizer_config.json`, `generation_config.json` and, if it brings one,
/// a `chat_template.jinja`. Nothing where there is no such text.
pub fn model_text(model: &Path, name: &str) -> Result<Option<Vec<u8>>, ModelError> {
    if is_gguf(model) {
        return Gguf::open(model)?.text_file(name);
    }
    match read_limited(&model.join(name), MAX_BYTES) {
        Err(ModelError::Io { error, .. }) if error.kind() == ErrorKind::NotFound => Ok(None),
        bytes => bytes.map(Some),
    }
}
