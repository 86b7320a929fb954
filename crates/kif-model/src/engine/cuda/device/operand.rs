//! What a product of matrices is given: operands, a factor, and what becomes of the result.

use cudarc::cublas::sys as cublas_sys;

use super::launch::Address;

/// How the numbers of an operand lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    F32,
    F16,
}

/// A matrix `[rows, columns]` of a product, row-major.
#[derive(Clone, Copy)]
pub(crate) struct Operand {
    pub(super) at: Address,
    pub(super) format: Format,
    pub(super) columns: usize,
    /// From one matrix of a batch to the next, in values.
    pub(super) stride: usize,
    transposed: bool,
}

impl Operand {
    pub(crate) fn new(at: Address, format: Format, (rows, columns): (usize, usize)) -> Self {
        Self {
            at,
            format,
            columns,
            stride: rows * columns,
            transposed: false,
        }
    }

    pub(crate) fn f32(at: Address, shape: (usize, usize)) -> Self {
        Self::new(at, Format::F32, shape)
    }

    pub(crate) fn transposed(self) -> Self {
        Self {
            transposed: !self.transposed,
            ..self
        }
    }

    pub(super) fn operation(self) -> cublas_sys::cublasOperation_t {
        if self.transposed {
            cublas_sys::cublasOperation_t::CUBLAS_OP_T
        } else {
            cublas_sys::cublasOperation_t::CUBLAS_OP_N
        }
    }

    pub(super) fn data_type(self) -> cublas_sys::cudaDataType_t {
        match self.format {
            Format::F32 => cublas_sys::cudaDataType_t::CUDA_R_32F,
            Format::F16 => cublas_sys::cudaDataType_t::CUDA_R_16F,
        }
    }
}

/// What a product is multiplied by.
#[derive(Clone, Copy)]
pub(crate) enum Factor {
    /// A number known here.
    Host(f32),
    /// A number that a kernel computes.
    Device(Address),
}

/// What becomes of the values that lie where a product goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Store {
    Replace,
    Add,
}
