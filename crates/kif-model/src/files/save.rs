//! Writing safetensors files tensor by tensor.

use std::io::Write;
use std::path::Path;

use half::bf16;
use kif_io::atomic;
use serde_json::json;

use crate::ModelError;

/// How values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// 32-bit floating point: exact.
    F32,
    /// The upper half of an f32, rounded to nearest even.
    Bf16,
}

impl Dtype {
    /// As `config.json` spells it.
    pub fn torch_name(self) -> &'static str {
        match self {
            Dtype::F32 => "float32",
            Dtype::Bf16 => "bfloat16",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "F32",
            Dtype::Bf16 => "BF16",
        }
    }

    fn width(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::Bf16 => 2,
        }
    }
}

/// Writes the tensors `(name, shape)`, which must be sorted by name; `values` delivers them one by
/// one.
///
/// The same tensors give the same bytes, and the bytes are those of the `safetensors` library.
pub(crate) fn write_tensors(
    path: &Path,
    tensors: &[(&str, &[usize])],
    dtype: Dtype,
    mut values: impl FnMut(&str) -> Result<Vec<f32>, ModelError>,
) -> Result<(), ModelError> {
    let header = safetensors_header(tensors, dtype);
    atomic::write_with(path, |out| {
        let io = |e| ModelError::io("writing", path, e);
        out.write_all(&(header.len() as u64).to_le_bytes())
            .map_err(io)?;
        out.write_all(&header).map_err(io)?;
        for (name, shape) in tensors {
            let values = values(name)?;
            assert_eq!(
                values.len(),
                shape.iter().product::<usize>(),
                "{name} of shape {shape:?}"
            );
            for value in values {
                match dtype {
                    Dtype::F32 => out.write_all(&value.to_le_bytes()),
                    Dtype::Bf16 => out.write_all(&bf16::from_f32(value).to_le_bytes()),
                }
                .map_err(io)?;
            }
        }
        Ok(())
    })
}

/// The header of a safetensors file of these tensors in this order, without its length in front;
/// padded to whole words.
pub fn safetensors_header(tensors: &[(&str, &[usize])], dtype: Dtype) -> Vec<u8> {
    // transformers refuses files whose metadata does not name a framework.
    let mut text = String::from(r#"{"__metadata__":{"format":"pt"}"#);
    let mut at = 0;
    for (name, shape) in tensors {
        let end = at + shape.iter().product::<usize>() * dtype.width();
        let entry = format!(
            r#",{}:{{"dtype":"{}","shape":{},"data_offsets":[{at},{end}]}}"#,
            json!(name),
            dtype.name(),
            json!(shape)
        );
        text.push_str(&entry);
        at = end;
    }
    text.push('}');
    let mut bytes = text.into_bytes();
    bytes.resize(bytes.len().next_multiple_of(8), b' ');
    bytes
}
