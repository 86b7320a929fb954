//! From blocks of few bits to f32.

use std::borrow::Cow;

use candle_core::CpuStorage;
use candle_core::quantized::GgmlDType;
use rayon::prelude::*;

use crate::files::values::StoredDtype;

/// Blocks that are widened together.
const CHUNK: usize = 512;

/// How the values of a tensor are stored: blocks of a few values, each in the same number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlockType {
    /// As llama.cpp spells it.
    pub(super) name: &'static str,
    number: u32,
    /// Values of a block.
    pub(super) n_values: usize,
    /// Bytes of a block.
    pub(super) n_bytes: usize,
    layout: Layout,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    Plain(StoredDtype),
    Blocks(GgmlDType),
}

/// All that are read.
const TYPES: [BlockType; 13] = [
    plain("F32", 0, 4, StoredDtype::F32),
    plain("F16", 1, 2, StoredDtype::F16),
    blocks("Q4_0", 2, 32, 18, GgmlDType::Q4_0),
    blocks("Q4_1", 3, 32, 20, GgmlDType::Q4_1),
    blocks("Q5_0", 6, 32, 22, GgmlDType::Q5_0),
    blocks("Q5_1", 7, 32, 24, GgmlDType::Q5_1),
    blocks("Q8_0", 8, 32, 34, GgmlDType::Q8_0),
    blocks("Q2_K", 10, 256, 84, GgmlDType::Q2K),
    blocks("Q3_K", 11, 256, 110, GgmlDType::Q3K),
    blocks("Q4_K", 12, 256, 144, GgmlDType::Q4K),
    blocks("Q5_K", 13, 256, 176, GgmlDType::Q5K),
    blocks("Q6_K", 14, 256, 210, GgmlDType::Q6K),
    plain("BF16", 30, 2, StoredDtype::Bf16),
];

/// Names of those that are not read, for messages.
const OTHERS: [(u32, &str); 19] = [
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
];

const fn plain(name: &'static str, number: u32, n_bytes: usize, dtype: StoredDtype) -> BlockType {
    BlockType {
        name,
        number,
        n_values: 1,
        n_bytes,
        layout: Layout::Plain(dtype),
    }
}

const fn blocks(
    name: &'static str,
    number: u32,
    n_values: usize,
    n_bytes: usize,
    dtype: GgmlDType,
) -> BlockType {
    BlockType {
        name,
        number,
        n_values,
        n_bytes,
        layout: Layout::Blocks(dtype),
    }
}

impl BlockType {
    /// By its number in a file; the error names it and those that are read.
    pub(super) fn numbered(number: u32) -> Result<Self, String> {
        let known = TYPES.into_iter().find(|t| t.number == number);
        known.ok_or_else(|| {
            let other = OTHERS.iter().find(|(n, _)| *n == number);
            let name = other.map_or_else(|| number.to_string(), |(_, name)| (*name).to_owned());
            let names: Vec<&str> = TYPES.iter().map(|t| t.name).collect();
            format!(
                "type {name} is not supported, expected one of {}",
                names.join(", ")
            )
        })
    }

    /// The values of whole blocks, in parallel. `bytes` start at an even address, as tensors of a
    /// mapped file do.
    pub(super) fn widen(self, bytes: &[u8]) -> Vec<f32> {
        let mut floats = vec![0.0; bytes.len() / self.n_bytes * self.n_values];
        (floats.par_chunks_mut(CHUNK * self.n_values))
            .zip(bytes.par_chunks(CHUNK * self.n_bytes))
            .for_each(|(floats, bytes)| match self.layout {
                Layout::Plain(dtype) => dtype.widen(bytes, floats),
                Layout::Blocks(dtype) => {
                    let widened = dtype
                        .from_data(Cow::Borrowed(bytes))
                        .dequantize(floats.len());
                    let Ok(CpuStorage::F32(widened)) = widened else {
                        unreachable!("blocks of {} become f32", self.name);
                    };
                    floats.copy_from_slice(&widened);
                }
            });
        floats
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_as_long_as_the_library_has_them() {
        for t in TYPES {
            if let Layout::Blocks(dtype) = t.layout {
                assert_eq!(
                    (t.n_values, t.n_bytes),
                    (dtype.block_size(), dtype.type_size()),
                    "{}",
                    t.name
                );
            }
        }
    }
}
