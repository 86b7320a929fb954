//! Corpora that are token ids already: `.safetensors` shards, small enough to travel to a machine
//! that has no tokenizer's worth of time.
//!
//! A shard has three lists of texts, each as two U16 vectors: the ids of all texts one after the
//! other, and the length of each. `i` and `il` are the inputs of pairs, `o` and `ol` their targets,
//! both with their end tokens; `n` and `nl` are passages without. Pairs or passages may be left
//! out.

use std::path::Path;

use anyhow::Result;
use kif_data::Ragged;
use kif_io::failure::{BadInput, OrBadInput};
use safetensors::{Dtype, SafeTensors};

/// The texts of a shard.
#[derive(Debug, Default, PartialEq)]
pub struct Shard {
    /// Inputs of pairs.
    pub inputs: Ragged,
    /// Their targets.
    pub targets: Ragged,
    /// Passages, without end tokens.
    pub passages: Ragged,
}

/// Whether a corpus file is a shard.
pub fn is_shard(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "safetensors")
}

impl Shard {
    /// Reads a shard. Every id must be below `vocab_size`, every pair must have an input and a
    /// target.
    pub fn read(path: &Path, vocab_size: usize) -> Result<Self> {
        let reading = || format!("reading shard {}", path.display());
        let bytes = std::fs::read(path).or_bad_input(reading)?;
        let tensors = SafeTensors::deserialize(&bytes).or_bad_input(reading)?;
        let bad = |problem: String| BadInput(format!("{}: {problem}", path.display()));
        let list = |ids: &str, lengths: &str| -> Result<Ragged> {
            let [ids, lengths] = [ids, lengths].map(|name| vector(&tensors, name));
            ragged(&ids.map_err(&bad)?, &lengths.map_err(&bad)?, vocab_size)
                .map_err(|problem| bad(problem).into())
        };
        let shard = Self {
            inputs: list("i", "il")?,
            targets: list("o", "ol")?,
            passages: list("n", "nl")?,
        };
        if shard.inputs.n_rows() != shard.targets.n_rows() {
            let (inputs, targets) = (shard.inputs.n_rows(), shard.targets.n_rows());
            return Err(bad(format!(
                "{inputs} inputs and {targets} targets, expected as many"
            ))
            .into());
        }
        let empty = |rows: &Ragged| rows.rows().any(<[u32]>::is_empty);
        if empty(&shard.inputs) || empty(&shard.targets) {
            return Err(
                bad("a pair has an empty side, expected an end token at least".into()).into(),
            );
        }
        Ok(shard)
    }
}

/// A U16 vector; nothing where there is none of that name.
fn vector(tensors: &SafeTensors, name: &str) -> std::result::Result<Vec<u32>, String> {
    let Ok(tensor) = tensors.tensor(name) else {
        return Ok(Vec::new());
    };
    if tensor.dtype() != Dtype::U16 || tensor.shape().len() != 1 {
        let (dtype, shape) = (tensor.dtype(), tensor.shape());
        return Err(format!(
            "{name} is {dtype:?} {shape:?}, expected a U16 vector"
        ));
    }
    let values = tensor.data().as_chunks::<2>().0;
    Ok(values
        .iter()
        .map(|bytes| u16::from_le_bytes(*bytes).into())
        .collect())
}

fn ragged(ids: &[u32], lengths: &[u32], vocab_size: usize) -> std::result::Result<Ragged, String> {
    let total: u64 = lengths.iter().map(|&len| u64::from(len)).sum();
    if total != ids.len() as u64 {
        return Err(format!(
            "lengths add up to {total}, but there are {} ids",
            ids.len()
        ));
    }
    if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab_size) {
        return Err(format!("id {id} is outside the vocabulary of {vocab_size}"));
    }
    let mut rest = ids;
    let rows = lengths.iter().map(|&len| {
        let (row, after) = rest.split_at(len as usize);
        rest = after;
        row
    });
    Ok(Ragged::from_rows(rows))
}

#[cfg(test)]
mod tests {
    use safetensors::tensor::TensorView;

    use super::*;

    fn write(path: &Path, vectors: &[(&str, &[u16])]) {
        let bytes: Vec<(&str, Vec<u8>)> = vectors
            .iter()
            .map(|(name, values)| (*name, values.iter().flat_map(|x| x.to_le_bytes()).collect()))
            .collect();
        let views = bytes.iter().map(|(name, bytes)| {
            let view = TensorView::new(Dtype::U16, vec![bytes.len() / 2], bytes).unwrap();
            (*name, view)
        });
        safetensors::serialize_to_file(views, None, path).unwrap();
    }

    #[test]
    fn texts_are_cut_by_their_lengths() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        write(
            &path,
            &[
                ("i", &[5, 1, 6, 7, 1]),
                ("il", &[2, 3]),
                ("o", &[8, 1, 1]),
                ("ol", &[2, 1]),
            ],
        );
        let shard = Shard::read(&path, 9).unwrap();
        assert_eq!(
            shard.inputs,
            Ragged::from_rows([[5, 1].as_slice(), &[6, 7, 1]])
        );
        assert_eq!(shard.targets, Ragged::from_rows([[8, 1].as_slice(), &[1]]));
        assert_eq!(shard.passages.n_rows(), 0);
    }

    #[test]
    fn what_does_not_fit_is_said_with_its_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let pair: [(&str, &[u16]); 2] = [("i", &[5, 1]), ("il", &[2])];
        let with = |more: &[(&'static str, &'static [u16])]| {
            write(&path, &[pair.as_slice(), more].concat());
            Shard::read(&path, 9).unwrap_err().to_string()
        };
        assert!(with(&[]).contains("1 inputs and 0 targets"));
        assert!(with(&[("o", &[1]), ("ol", &[2])]).contains("add up to 2, but there are 1"));
        assert!(with(&[("o", &[9]), ("ol", &[1])]).contains("id 9 is outside the vocabulary of 9"));
        assert!(with(&[("o", &[]), ("ol", &[0])]).contains("empty side"));
    }
}
