//! The header of a GGUF file: metadata, and where each tensor lies. Nothing is believed before it
//! was held against the size of the file.
//!
//! A file is: `GGUF`, version (u32), numbers of tensors and of metadata entries (u64 each), the
//! entries (key, type, value), the tensors' names, extents, types and places, padding up to a
//! multiple of `general.alignment`, the values. Numbers are little-endian, a text is its length
//! (u64) and its bytes. Texts and lists stay in the file: what is kept of one is its place, so a
//! header takes no more memory than a few times its own size.

use std::collections::BTreeMap;
use std::ops::Range;

use super::values::BlockType;

/// More metadata entries or tensors than any model has.
const MAX_ENTRIES: u64 = 1 << 16;
/// The longest key or name, in bytes.
const MAX_NAME: usize = 1 << 16;
/// The key of the distance that values are aligned to, and what it is by default.
pub(super) const ALIGNMENT: &str = "general.alignment";
const DEFAULT_ALIGNMENT: u64 = 32;

/// What stands in front of the values.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) metadata: BTreeMap<String, Meta>,
    pub(super) tensors: BTreeMap<String, Place>,
}

/// A value of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Meta {
    Whole(i128),
    Number(f64),
    Flag(bool),
    /// Bytes of a text, by their place in the file.
    Text(Range<usize>),
    /// Elements of one kind, by their place in the file; each text of a list of texts has its
    /// length in front.
    List {
        kind: Kind,
        len: usize,
        at: Range<usize>,
    },
}

/// Where a tensor lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Row-major, the other way round than in the file.
    pub(super) shape: Vec<usize>,
    pub(super) dtype: BlockType,
    /// The first byte, from the start of the file.
    pub(super) at: u64,
    pub(super) n_bytes: usize,
}

/// Types of metadata, by their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Flag,
    Text,
    List,
    U64,
    I64,
    F64,
}

impl Kind {
    const ALL: [Self; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Flag,
        Self::Text,
        Self::List,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    /// Bytes of a value; of a text the least.
    pub(super) fn width(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Flag => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::Text | Self::List => 8,
        }
    }

    /// A value of this kind from its `width` bytes; nothing for texts and lists.
    pub(super) fn value(self, bytes: &[u8]) -> Option<Meta> {
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        let low = u64::from_le_bytes(word);
        Some(match self {
            Self::U8 | Self::U16 | Self::U32 | Self::U64 => Meta::Whole(low.into()),
            Self::I8 => Meta::Whole((low as i8).into()),
            Self::I16 => Meta::Whole((low as i16).into()),
            Self::I32 => Meta::Whole((low as i32).into()),
            Self::I64 => Meta::Whole((low as i64).into()),
            Self::F32 => Meta::Number(f32::from_bits(low as u32).into()),
            Self::F64 => Meta::Number(f64::from_bits(low)),
            Self::Flag => Meta::Flag(low != 0),
            Self::Text | Self::List => return None,
        })
    }
}

/// Reads and checks the header of a file that is `bytes`; an error says what is wrong and where.
pub(super) fn read_header(bytes: &[u8]) -> Result<Header, String> {
    let mut reader = Reader { bytes, at: 0 };
    if reader.take(4, "the magic number")? != b"GGUF" {
        return Err("is no GGUF file: it does not begin with \"GGUF\"".into());
    }
    let version = reader.u32("the version")?;
    if !(2..=3).contains(&version) {
        return Err(format!(
            "version {version} is not supported, expected 2 or 3"
        ));
    }
    let n_tensors = reader.u64("the number of tensors")?;
    let n_entries = reader.u64("the number of metadata entries")?;
    reader.check_count(n_tensors, "tensors", 24)?;
    reader.check_count(n_entries, "metadata entries", 13)?;
    let mut metadata = BTreeMap::new();
    for _ in 0..n_entries {
        let key = reader.name("a key of the metadata")?;
        let value = reader.value(&key)?;
        if metadata.contains_key(&key) {
            return Err(format!("key {key:?} stands twice"));
        }
        metadata.insert(key, value);
    }
    let alignment = match metadata.get(ALIGNMENT) {
        None => DEFAULT_ALIGNMENT,
        Some(Meta::Whole(n @ 8..=65_536)) if (*n as u64).is_power_of_two() => *n as u64,
        Some(_) => {
            return Err(format!("{ALIGNMENT}: expected a power of two in 8..=65536"));
        }
    };
    let mut tensors = BTreeMap::new();
    for _ in 0..n_tensors {
        let name = reader.name("the name of a tensor")?;
        let place = reader.place(&name, alignment)?;
        if tensors.contains_key(&name) {
            return Err(format!("tensor {name:?} stands twice"));
        }
        tensors.insert(name, place);
    }
    put_behind(
        &mut tensors,
        (reader.at as u64).next_multiple_of(alignment),
        bytes.len() as u64,
    )?;
    Ok(Header { metadata, tensors })
}

/// Moves the tensors behind the header, and demands that they lie in the file and apart.
fn put_behind(
    tensors: &mut BTreeMap<String, Place>,
    start: u64,
    file_len: u64,
) -> Result<(), String> {
    let mut spans = Vec::with_capacity(tensors.len());
    for (name, place) in tensors.iter_mut() {
        let end = (place.at.checked_add(start))
            .and_then(|at| Some((at, at.checked_add(place.n_bytes as u64)?)));
        let Some((at, end)) = end.filter(|&(_, end)| end <= file_len) else {
            return Err(format!(
                "truncated: {name:?} takes {} bytes from byte {} of the values on, file has {file_len} bytes",
                place.n_bytes, place.at
            ));
        };
        place.at = at;
        spans.push((at, end, name.as_str()));
    }
    spans.sort_unstable();
    match spans.windows(2).find(|pair| pair[1].0 < pair[0].1) {
        None => Ok(()),
        Some(pair) => Err(format!("{:?} overlaps {:?}", pair[1].2, pair[0].2)),
    }
}

/// The elements of a list that was read before.
pub(super) fn elements(bytes: &[u8], kind: Kind, len: usize) -> impl Iterator<Item = &[u8]> {
    let mut reader = Reader { bytes, at: 0 };
    (0..len).map_while(move |_| {
        let n = match kind {
            Kind::Text => reader.u64("a length").ok()? as usize,
            kind => kind.width(),
        };
        reader.take(n, "an element").ok()
    })
}

/// What is left of a file.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take(&mut self, n: usize, what: &str) -> Result<&'a [u8], String> {
        if n > self.left() {
            return Err(format!(
                "truncated: {what} takes {n} bytes from byte {} on, file has {}",
                self.at,
                self.bytes.len()
            ));
        }
        let taken = &self.bytes[self.at..self.at + n];
        self.at += n;
        Ok(taken)
    }

    fn u32(&mut self, what: &str) -> Result<u32, String> {
        let mut word = [0; 4];
        word.copy_from_slice(self.take(4, what)?);
        Ok(u32::from_le_bytes(word))
    }

    fn u64(&mut self, what: &str) -> Result<u64, String> {
        let mut word = [0; 8];
        word.copy_from_slice(self.take(8, what)?);
        Ok(u64::from_le_bytes(word))
    }

    /// Demands that `n` things, of which each takes `width` bytes or more, fit into what is left.
    fn check_count(&self, n: u64, what: &str, width: u64) -> Result<(), String> {
        if n > MAX_ENTRIES {
            return Err(format!("{n} {what} are above the limit of {MAX_ENTRIES}"));
        }
        if n * width > self.left() as u64 {
            return Err(format!(
                "truncated: {n} {what} take at least {} bytes from byte {} on, file has {}",
                n * width,
                self.at,
                self.bytes.len()
            ));
        }
        Ok(())
    }

    /// The place of a text's bytes.
    fn text(&mut self, what: &str) -> Result<Range<usize>, String> {
        let len = self.u64(what)?;
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        self.take(len, what)?;
        Ok(self.at - len..self.at)
    }

    fn name(&mut self, what: &str) -> Result<String, String> {
        let place = self.text(what)?;
        if place.len() > MAX_NAME {
            return Err(format!(
                "{what} has {} bytes, above the limit of {MAX_NAME}",
                place.len()
            ));
        }
        let start = place.start;
        let text = std::str::from_utf8(&self.bytes[place]);
        text.map(str::to_owned)
            .map_err(|_| format!("{what} at byte {start} is not UTF-8"))
    }

    fn kind(&mut self, key: &str) -> Result<Kind, String> {
        let number = self.u32(key)?;
        let kind = Kind::ALL.get(number as usize).copied();
        kind.ok_or_else(|| format!("{key}: type {number} is not known, expected 0..=12"))
    }

    fn value(&mut self, key: &str) -> Result<Meta, String> {
        let kind = self.kind(key)?;
        match kind {
            Kind::Text => Ok(Meta::Text(self.text(key)?)),
            Kind::List => self.list(key),
            _ => {
                let value = kind.value(self.take(kind.width(), key)?);
                value.ok_or_else(|| format!("{key}: has no value"))
            }
        }
    }

    fn list(&mut self, key: &str) -> Result<Meta, String> {
        let kind = self.kind(key)?;
        if kind == Kind::List {
            return Err(format!("{key}: a list of lists is not supported"));
        }
        let len = self.u64(key)?;
        let fits = |n: &usize| *n <= self.left() / kind.width();
        let Some(len) = usize::try_from(len).ok().filter(fits) else {
            return Err(format!(
                "truncated: {key} has {len} elements from byte {} on, file has {}",
                self.at,
                self.bytes.len()
            ));
        };
        let start = self.at;
        if kind == Kind::Text {
            for _ in 0..len {
                self.text(key)?;
            }
        } else {
            self.take(len * kind.width(), key)?;
        }
        Ok(Meta::List {
            kind,
            len,
            at: start..self.at,
        })
    }

    /// Where a tensor lies, from the start of the values on.
    fn place(&mut self, name: &str, alignment: u64) -> Result<Place, String> {
        let n_dims = self.u32(name)?;
        if !(1..=4).contains(&n_dims) {
            return Err(format!("{name:?} has {n_dims} extents, expected 1..=4"));
        }
        let mut shape = Vec::new();
        for _ in 0..n_dims {
            shape.push(self.u64(name)?);
        }
        let (number, at) = (self.u32(name)?, self.u64(name)?);
        let dtype =
            BlockType::numbered(number).map_err(|problem| format!("{name:?}: {problem}"))?;
        let per_block = dtype.n_values as u64;
        let whole = !shape.contains(&0) && shape[0].is_multiple_of(per_block);
        let n_values = shape.iter().try_fold(1_u64, |n, &d| n.checked_mul(d));
        let n_bytes = n_values.filter(|_| whole).and_then(|n| {
            let n = (n / per_block).checked_mul(dtype.n_bytes as u64)?;
            usize::try_from(n).ok()
        });
        let Some(n_bytes) = n_bytes else {
            return Err(format!(
                "{name:?} is {} of extents {shape:?}, expected the first to be a multiple of {per_block}, and none 0 or absurd",
                dtype.name
            ));
        };
        if !at.is_multiple_of(alignment) {
            return Err(format!(
                "{name:?} starts at byte {at} of the values, expected a multiple of {alignment}"
            ));
        }
        // Each is a factor of a number that fits.
        let shape = shape.into_iter().rev().map(|d| d as usize).collect();
        Ok(Place {
            shape,
            dtype,
            at,
            n_bytes,
        })
    }
}
