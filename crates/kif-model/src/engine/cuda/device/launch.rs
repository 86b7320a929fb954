//! What the launch of a kernel is given: places in memory, arguments and a grid.

use std::fmt::Write;

use cudarc::driver::{CudaSlice, DevicePtr, sys};
use dfdx::prelude::*;

use super::TensorMemory;

/// A place in device memory. Who launches with it keeps its owner until after the launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address(pub(super) sys::CUdeviceptr);

impl Address {
    /// For arguments that a kernel accepts as absent.
    pub(crate) const NULL: Self = Self(0);

    /// Of memory that we own.
    pub(crate) fn of<E>(memory: &CudaSlice<E>) -> Self {
        Self(*memory.device_ptr())
    }

    /// Of a gradient in dfdx's store.
    pub(crate) fn of_gradient(memory: &TensorMemory) -> Self {
        Self(*memory.device_ptr())
    }

    /// Of a tensor, which must be contiguous.
    pub(crate) fn of_tensor<S: Shape>(tensor: &Tensor<S, f32, Cuda>) -> Self {
        /// Reads the number behind the field's name and then stops the formatting.
        #[derive(Default)]
        struct Reader {
            seen: String,
            address: Option<sys::CUdeviceptr>,
        }
        impl Write for Reader {
            fn write_str(&mut self, text: &str) -> std::fmt::Result {
                const FIELD: &str = "cu_device_ptr: ";
                self.seen.push_str(text);
                let Some(at) = self.seen.find(FIELD) else {
                    return Ok(());
                };
                let digits = &self.seen[at + FIELD.len()..];
                match digits.find(|c: char| !c.is_ascii_digit()) {
                    None => Ok(()),
                    Some(end) => {
                        self.address = digits[..end].parse().ok();
                        Err(std::fmt::Error)
                    }
                }
            }
        }
        let mut reader = Reader::default();
        // The error is our own signal to stop.
        let _ = write!(reader, "{tensor:?}");
        Self(
            reader
                .address
                .expect("dfdx and cudarc are pinned, and their debug text has an address"),
        )
    }

    /// `n` values of `E` further on.
    pub(crate) fn offset<E>(self, n: usize) -> Self {
        Self(self.0 + (n * size_of::<E>()) as u64)
    }
}

/// An argument of a kernel, by its type there.
#[derive(Clone, Copy)]
pub(crate) enum Argument {
    /// A pointer.
    Address(Address),
    /// `u64`
    Size(u64),
    /// `u32`
    Word(u32),
    /// `long long`
    Signed(i64),
    /// `float`
    Real(f32),
}

impl Argument {
    /// The bytes that the driver copies, in the lowest places of a word.
    pub(super) fn bits(self) -> u64 {
        match self {
            Self::Address(Address(at)) => at,
            Self::Size(n) => n,
            Self::Word(n) => n.into(),
            Self::Signed(n) => n.cast_unsigned(),
            Self::Real(x) => x.to_bits().into(),
        }
    }
}

macro_rules! argument_from {
    ($($from:ty => $variant:ident $convert:expr),+ $(,)?) => {
        $(impl From<$from> for Argument {
            fn from(value: $from) -> Self {
                Self::$variant($convert(value))
            }
        })+
    };
}
argument_from! {
    Address => Address |at| at,
    usize => Size |n| n as u64,
    u64 => Size |n| n,
    u32 => Word |n| n,
    bool => Word u32::from,
    i64 => Signed |n| n,
    f32 => Real |x| x,
}

/// Arguments of a launch, each converted to what the kernel takes.
macro_rules! arguments {
    ($($argument:expr),+ $(,)?) => {
        &[$(crate::engine::cuda::device::Argument::from($argument)),+]
    };
}
pub(crate) use arguments;

/// How many blocks of how many threads.
#[derive(Clone, Copy)]
pub(crate) struct Grid {
    pub(super) blocks: (u32, u32),
    pub(super) threads: (u32, u32),
}

impl Grid {
    /// Threads for `n` elements; kernels loop where there are more.
    pub(crate) fn elements(n: usize) -> Self {
        let blocks = n.div_ceil(256).min(1 << 20) as u32;
        Self {
            blocks: (blocks, 1),
            threads: (256, 1),
        }
    }

    /// A block for each of `n` rows of `width` values.
    pub(crate) fn rows(n: usize, width: usize) -> Self {
        Self::blocks((n, 1), width)
    }

    /// Blocks in two dimensions, each of which works on a row of `width` values.
    pub(crate) fn blocks((x, y): (usize, usize), width: usize) -> Self {
        let threads = width.next_multiple_of(32).clamp(32, 256) as u32;
        Self {
            blocks: (x as u32, y as u32),
            threads: (threads, 1),
        }
    }

    /// Exactly so many blocks of so many threads.
    pub(crate) fn exactly(blocks: usize, threads: (u32, u32)) -> Self {
        Self {
            blocks: (blocks as u32, 1),
            threads,
        }
    }
}
