//! GGUF files: configuration, weights and tokenizer in one, as llama.cpp has them.
//!
//! A file is read as if it were the Hugging Face directory that it was made from: `config` and
//! `tokenizer` make the texts that stood there, `names` says what became of the tensors, `values`
//! widens their blocks, one tensor at a time, when a model takes it.

mod config;
mod header;
mod names;
mod pre_tokenizers;
mod tokenizer;
mod values;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;

use self::header::{Header, Kind, Meta, Place};
use self::names::Change;
pub(super) use self::tokenizer::TEXTS;
use super::fields::bad;
use super::stored::map_file;
use super::values::Values;
use crate::ModelError;

/// Whether `path` is a GGUF file: no folder, and called or beginning so.
pub fn is_gguf(path: &Path) -> bool {
    let begins = || {
        let mut magic = [0; 4];
        File::open(path)
            .and_then(|mut file| file.read_exact(&mut magic))
            .is_ok_and(|()| magic == *b"GGUF")
    };
    let called = || {
        path.extension()
            .is_some_and(|e| e.eq_ignore_ascii_case("gguf"))
    };
    !path.is_dir() && (called() || begins())
}

/// An open file with its header.
pub(super) struct Gguf {
    file: Arc<Blocks>,
    /// The whole file, of which only the header is looked at.
    bytes: Mmap,
    header: Header,
}

impl Gguf {
    /// Opens a file and reads its header. Files of which this is one of several parts are refused.
    pub(super) fn open(path: &Path) -> Result<Self, ModelError> {
        let file = File::open(path).map_err(|e| ModelError::io("opening", path, e))?;
        let length = file
            .metadata()
            .map_err(|e| ModelError::io("reading", path, e))?
            .len();
        if length == 0 {
            return Err(ModelError::malformed(
                path,
                "is empty, expected a GGUF file",
            ));
        }
        let bytes = map_file(&file, path, 0, length)?;
        let header = header::read_header(&bytes).map_err(|e| ModelError::malformed(path, e))?;
        let file = Arc::new(Blocks {
            path: path.to_owned(),
            file,
        });
        let gguf = Self {
            file,
            bytes,
            header,
        };
        match gguf.whole("split.count")? {
            Some(n) if n > 1 => {
                let problem = format!("the model is spread over {n} files, which is not supported");
                Err(gguf.bad("split.count", problem))
            }
            _ => Ok(gguf),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.file.path
    }

    fn bad(&self, key: &str, problem: impl Into<String>) -> ModelError {
        bad(self.path(), key, problem.into())
    }

    fn missing(&self, key: &str, expected: &str) -> ModelError {
        self.bad(key, format!("is missing, expected {expected}"))
    }

    /// The text of a key, if it is there.
    fn text(&self, key: &str) -> Result<Option<&str>, ModelError> {
        match self.header.metadata.get(key) {
            None => Ok(None),
            Some(Meta::Text(place)) => {
                let text = std::str::from_utf8(&self.bytes[place.clone()]);
                text.map(Some).map_err(|_| self.bad(key, "is not UTF-8"))
            }
            Some(_) => Err(self.bad(key, "is no text")),
        }
    }

    /// The whole number of a key, not below 0.
    fn whole(&self, key: &str) -> Result<Option<u64>, ModelError> {
        let expected = "expected a whole number of 0 or more";
        match self.header.metadata.get(key) {
            None => Ok(None),
            Some(Meta::Whole(n)) => match u64::try_from(*n) {
                Ok(n) => Ok(Some(n)),
                Err(_) => Err(self.bad(key, format!("is {n}, {expected}"))),
            },
            Some(Meta::List { .. }) => Err(self.bad(key, format!("is a list, {expected}"))),
            Some(_) => Err(self.bad(key, expected)),
        }
    }

    /// The number of a key.
    fn number(&self, key: &str) -> Result<Option<f32>, ModelError> {
        match self.header.metadata.get(key) {
            None => Ok(None),
            Some(Meta::Number(x)) => Ok(Some(*x as f32)),
            Some(Meta::Whole(n)) => Ok(Some(*n as f32)),
            Some(_) => Err(self.bad(key, "expected a number")),
        }
    }

    /// The truth of a key.
    fn flag(&self, key: &str) -> Result<Option<bool>, ModelError> {
        match self.header.metadata.get(key) {
            None => Ok(None),
            Some(Meta::Flag(flag)) => Ok(Some(*flag)),
            Some(_) => Err(self.bad(key, "expected true or false")),
        }
    }

    /// The list of a key.
    fn list(&self, key: &str) -> Result<Option<List<'_>>, ModelError> {
        match self.header.metadata.get(key) {
            None => Ok(None),
            Some(Meta::List { kind, len, at }) => Ok(Some(List {
                kind: *kind,
                len: *len,
                bytes: &self.bytes[at.clone()],
            })),
            Some(_) => Err(self.bad(key, "is no list")),
        }
    }

    /// The texts of a key.
    fn texts(&self, key: &str) -> Result<Option<Vec<&str>>, ModelError> {
        let Some(list) = self.list(key)? else {
            return Ok(None);
        };
        if list.kind != Kind::Text {
            return Err(self.bad(key, "is no list of texts"));
        }
        let text = |(i, bytes)| {
            let text = std::str::from_utf8(bytes);
            text.map_err(|_| self.bad(key, format!("element {i} is not UTF-8")))
        };
        let texts = list.elements().enumerate().map(text);
        texts.collect::<Result<_, _>>().map(Some)
    }

    /// The numbers of a key, whole or not.
    fn numbers(&self, key: &str) -> Result<Option<Vec<f32>>, ModelError> {
        let Some(list) = self.list(key)? else {
            return Ok(None);
        };
        let number = |bytes: &[u8]| match list.kind.value(bytes) {
            Some(Meta::Number(x)) => Ok(x as f32),
            Some(Meta::Whole(n)) => Ok(n as f32),
            _ => Err(self.bad(key, "is no list of numbers")),
        };
        let numbers = list.elements().map(number);
        numbers.collect::<Result<_, _>>().map(Some)
    }

    /// All values of a tensor, as they are stored.
    fn stored(&self, name: &str) -> Result<Option<Vec<f32>>, ModelError> {
        let place = self.header.tensors.get(name);
        place.map(|place| self.file.widen(place)).transpose()
    }

    /// The tensors of the model under Hugging Face's names, to be read when they are taken.
    pub(super) fn tensors(&self) -> Result<Vec<(String, Quantised)>, ModelError> {
        let config = self.config()?;
        let tensor = |(name, place, change)| {
            let file = self.file.clone();
            let tensor = Quantised {
                file,
                place,
                change,
            };
            (name, tensor)
        };
        let tensors = names::tensors(self, &config).into_iter();
        Ok(tensors.map(tensor).collect())
    }

    /// What becomes of the file.
    pub(super) fn summary(&self) -> Result<Summary, ModelError> {
        let arch = self.architecture()?;
        let known = |key: &str| {
            let of_arch = key
                .strip_prefix(arch)
                .and_then(|rest| rest.strip_prefix('.'));
            let key = of_arch.map_or_else(|| key.to_owned(), |field| format!("ARCH.{field}"));
            config::KEYS.contains(&key.as_str()) || tokenizer::KEYS.contains(&key.as_str())
        };
        let Header { metadata, tensors } = &self.header;
        let mut stored = BTreeMap::new();
        for place in tensors.values() {
            *stored.entry(place.dtype.name).or_default() += 1;
        }
        let dropped = names::DROPPED.iter().copied();
        Ok(Summary {
            n_tokens: self.n_tokens()?,
            stored,
            dropped_keys: metadata.keys().filter(|key| !known(key)).cloned().collect(),
            dropped_tensors: dropped.filter(|name| tensors.contains_key(*name)).collect(),
        })
    }
}

/// What a file has, and what of it has no counterpart in a directory.
pub(super) struct Summary {
    /// Number of tokens; 0 without a tokenizer.
    pub(super) n_tokens: usize,
    /// Number of tensors by type.
    pub(super) stored: BTreeMap<&'static str, usize>,
    pub(super) dropped_keys: Vec<String>,
    pub(super) dropped_tensors: Vec<&'static str>,
}

/// A list of the metadata.
struct List<'a> {
    kind: Kind,
    len: usize,
    bytes: &'a [u8],
}

impl<'a> List<'a> {
    /// Bytes of each element.
    fn elements(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        header::elements(self.bytes, self.kind, self.len)
    }
}

/// The part of a file behind its header.
#[derive(Debug)]
struct Blocks {
    path: PathBuf,
    file: File,
}

impl Blocks {
    fn widen(&self, place: &Place) -> Result<Vec<f32>, ModelError> {
        let bytes = map_file(&self.file, &self.path, place.at, place.n_bytes as u64)?;
        Ok(place.dtype.widen(&bytes))
    }
}

/// A tensor in a file.
#[derive(Clone, Debug)]
pub(super) struct Quantised {
    file: Arc<Blocks>,
    place: Place,
    change: Change,
}

impl Quantised {
    pub(super) fn shape(&self) -> &[usize] {
        &self.place.shape
    }

    /// All values, as the model has them.
    pub(super) fn values(&self) -> Result<Values, ModelError> {
        let width = self.place.shape.last().copied().unwrap_or(1);
        let values = self.file.widen(&self.place)?;
        Ok(Values::Memory(self.change.undo(values, width)))
    }
}
