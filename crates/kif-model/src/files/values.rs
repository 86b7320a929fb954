//! The values of a tensor, in memory or mapped from their file, where they are read a few rows at a
//! time.

use std::ops::Range;

use half::{bf16, f16};
use memmap2::Mmap;
use rayon::prelude::*;

use crate::ModelError;
use crate::error::{check_finite, check_finite_from};

/// Values that are looked at together.
const CHUNK: usize = 1 << 16;

/// The values of a dense tensor, row-major.
#[derive(Debug)]
pub(crate) enum Values {
    /// In memory.
    Memory(Vec<f32>),
    /// In their file, of which only what is read takes memory, and none once this is dropped.
    Mapped(Mapped),
}

/// Values in their file.
#[derive(Debug)]
pub(crate) struct Mapped {
    pub(super) bytes: Mmap,
    pub(super) dtype: StoredDtype,
}

/// How a value is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoredDtype {
    F32,
    F16,
    Bf16,
}

impl StoredDtype {
    /// By its name in a file's header.
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "F32" => Some(Self::F32),
            "F16" => Some(Self::F16),
            "BF16" => Some(Self::Bf16),
            _ => None,
        }
    }

    /// Bytes of a value.
    fn width(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// Widens values into `floats`.
    pub(super) fn widen(self, bytes: &[u8], floats: &mut [f32]) {
        let (words, _) = bytes.as_chunks::<4>();
        let (halves, _) = bytes.as_chunks::<2>();
        match self {
            Self::F32 => {
                (floats.iter_mut().zip(words)).for_each(|(x, b)| *x = f32::from_le_bytes(*b))
            }
            Self::F16 => (floats.iter_mut().zip(halves))
                .for_each(|(x, b)| *x = f16::from_le_bytes(*b).to_f32()),
            Self::Bf16 => {
                (floats.iter_mut().zip(halves))
                    .for_each(|(x, b)| *x = bf16::from_le_bytes(*b).to_f32());
            }
        }
    }
}

impl Mapped {
    fn len(&self) -> usize {
        self.bytes.len() / self.dtype.width()
    }

    /// Widens the values from `start` on, as many as `floats` takes.
    fn read(&self, start: usize, floats: &mut [f32]) {
        let width = self.dtype.width();
        let bytes = &self.bytes[start * width..(start + floats.len()) * width];
        self.dtype.widen(bytes, floats);
    }

    /// See [`Values::check_finite`].
    fn check_finite(&self, name: &str) -> Result<(), ModelError> {
        let starts: Vec<usize> = (0..self.len()).step_by(CHUNK).collect();
        let of_chunk = |floats: &mut Vec<f32>, start: usize| {
            floats.resize(CHUNK.min(self.len() - start), 0.0);
            self.read(start, floats);
            check_finite_from(name, floats, start)
        };
        // Collected in order: the first value of several is the one that is named.
        let checks = starts.into_par_iter().map_init(Vec::new, of_chunk);
        checks.collect::<Vec<_>>().into_iter().collect()
    }
}

impl Values {
    /// Their number.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Memory(values) => values.len(),
            Self::Mapped(mapped) => mapped.len(),
        }
    }

    /// The values of `range`, where they lie or widened into `scratch`.
    pub(crate) fn range<'a>(&'a self, range: Range<usize>, scratch: &'a mut Vec<f32>) -> &'a [f32] {
        match self {
            Self::Memory(values) => &values[range],
            Self::Mapped(mapped) => {
                scratch.resize(range.len(), 0.0);
                mapped.read(range.start, scratch);
                scratch
            }
        }
    }

    /// As rows of `width` values.
    pub(crate) fn rows(&self, width: usize) -> impl kif_kernels::Rows {
        RowsOf {
            values: self,
            width,
        }
    }

    /// All of them.
    pub(crate) fn into_vec(self) -> Vec<f32> {
        match self {
            Self::Memory(values) => values,
            Self::Mapped(mapped) => {
                let mut values = vec![0.0; mapped.len()];
                let chunks = values.par_chunks_mut(CHUNK).enumerate();
                chunks.for_each(|(i, chunk)| mapped.read(i * CHUNK, chunk));
                values
            }
        }
    }

    /// Refuses values that are not finite; `name` is the tensor's.
    pub(crate) fn check_finite(&self, name: &str) -> Result<(), ModelError> {
        match self {
            Self::Memory(values) => check_finite(name, values),
            Self::Mapped(mapped) => mapped.check_finite(name),
        }
    }
}

impl PartialEq for Values {
    fn eq(&self, other: &Self) -> bool {
        let same = |start: usize| {
            let range = start..(start + CHUNK).min(self.len());
            let (mut mine, mut theirs) = (Vec::new(), Vec::new());
            self.range(range.clone(), &mut mine) == other.range(range, &mut theirs)
        };
        self.len() == other.len() && (0..self.len()).step_by(CHUNK).all(same)
    }
}

/// Values as rows of equal width.
struct RowsOf<'a> {
    values: &'a Values,
    width: usize,
}

impl kif_kernels::Rows for RowsOf<'_> {
    fn rows<'a>(&'a self, range: Range<usize>, scratch: &'a mut Vec<f32>) -> &'a [f32] {
        self.values
            .range(range.start * self.width..range.end * self.width, scratch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dtype_is_widened() {
        let mut floats = [0.0; 2];
        StoredDtype::F32.widen(&[0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0], &mut floats);
        assert_eq!(floats, [1.0, -2.0]);
        StoredDtype::F16.widen(&[0, 0x3c, 0, 0xc0], &mut floats);
        assert_eq!(floats, [1.0, -2.0]);
        StoredDtype::Bf16.widen(&[0x80, 0x3f, 0, 0xc0], &mut floats);
        assert_eq!(floats, [1.0, -2.0]);
    }
}
