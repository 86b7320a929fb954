//! The header of a safetensors file, checked before anything behind it is believed or allocated.
//!
//! A file is: length N of the header (8 bytes, little-endian), the header (JSON: name -> dtype,
//! shape, first and last byte), the values. Values of all tensors must follow each other without
//! holes or overlaps and end with the file.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::json::{parse_object, short};
use crate::ModelError;

/// Largest header that is read.
pub(crate) const MAX_HEADER: u64 = 16 << 20;

/// Where one tensor lies in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TensorInfo {
    pub(crate) name: String,
    /// As the file spells it: F32, BF16, ...
    pub(crate) dtype: String,
    pub(crate) shape: Vec<usize>,
    /// Place of the first byte, from the start of the file.
    pub(crate) at: u64,
    pub(crate) n_bytes: u64,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Entry {
    Tensor {
        dtype: String,
        shape: Vec<usize>,
        data_offsets: (u64, u64),
    },
    Other(Value),
}

/// Reads and checks the header of an open file; tensors come in the order of their values.
pub(crate) fn read_header(file: &mut File, path: &Path) -> Result<Vec<TensorInfo>, ModelError> {
    let io = |error| ModelError::io("reading", path, error);
    let bad = |problem: String| Err(ModelError::malformed(path, problem));
    let file_len = file.metadata().map_err(io)?.len();
    if file_len < 8 {
        return bad(format!(
            "truncated: the header's length takes 8 bytes, file has {file_len}"
        ));
    }
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(io)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER {
        return bad(format!(
            "header of {length} bytes is above the limit of {MAX_HEADER}"
        ));
    }
    let values_at = 8 + length;
    if values_at > file_len {
        return bad(format!(
            "truncated: header ends at byte {values_at}, file has {file_len}"
        ));
    }
    let mut header = vec![0; length as usize];
    file.read_exact(&mut header).map_err(io)?;

    let mut tensors = Vec::new();
    for (name, entry) in parse_object::<Entry>(path, &header)? {
        match entry {
            Entry::Other(_) if name == "__metadata__" => {}
            Entry::Other(value) => {
                return bad(format!("{name:?} is not a tensor: {}", short(&value)));
            }
            Entry::Tensor {
                dtype,
                shape,
                data_offsets: (start, end),
            } => {
                let Some(n_bytes) = end.checked_sub(start) else {
                    return bad(format!(
                        "{name:?} ends at byte {end} before it starts at {start}"
                    ));
                };
                if let Some(width) = width_of(&dtype) {
                    let promised = shape
                        .iter()
                        .try_fold(width, |n, &d| n.checked_mul(d as u64));
                    if promised != Some(n_bytes) {
                        return bad(format!(
                            "{name:?} is {dtype} {shape:?} but takes {n_bytes} bytes"
                        ));
                    }
                }
                let Some(at) = values_at.checked_add(start) else {
                    return bad(format!("{name:?} starts at byte {start} of its values"));
                };
                tensors.push(TensorInfo {
                    name,
                    dtype,
                    shape,
                    at,
                    n_bytes,
                });
            }
        }
    }
    check_cover(&mut tensors, values_at, file_len).map_or_else(bad, |()| Ok(tensors))
}

/// Sorts by place and demands that the tensors cover `start..end` exactly.
fn check_cover(tensors: &mut [TensorInfo], start: u64, end: u64) -> Result<(), String> {
    tensors.sort_by(|a, b| (a.at, a.n_bytes, &a.name).cmp(&(b.at, b.n_bytes, &b.name)));
    let mut next = start;
    for tensor in tensors.iter() {
        if tensor.at != next {
            let fault = if tensor.at < next {
                "overlaps the tensor before it"
            } else {
                "leaves a hole before it"
            };
            return Err(format!(
                "{:?} {fault}: starts at byte {}, expected {next}",
                tensor.name, tensor.at
            ));
        }
        next = next
            .checked_add(tensor.n_bytes)
            .ok_or_else(|| format!("{:?} is too long", tensor.name))?;
    }
    match next.cmp(&end) {
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => Err(format!(
            "truncated: header promises {next} bytes, file has {end}"
        )),
        std::cmp::Ordering::Less => Err(format!("header promises {next} bytes, file has {end}")),
    }
}

/// Bytes of one value; `None` for dtypes that are not known here and never read.
fn width_of(dtype: &str) -> Option<u64> {
    Some(match dtype {
        "F64" | "I64" | "U64" | "C64" => 8,
        "F32" | "I32" | "U32" => 4,
        "F16" | "BF16" | "I16" | "U16" => 2,
        "BOOL" | "U8" | "I8" | "F8_E4M3" | "F8_E5M2" | "F8_E8M0" => 1,
        _ => return None,
    })
}
