#![doc = include_str!("../README.md")]
//!
//! # What to rely on
//!
//! Tensors are row-major `f32` slices. Two promises hold for everything except [`gemm`] and
//! [`dropout`], which draws by an element's place in the call; these make only the first:
//!
//! * the number of threads never changes a bit of a result;
//! * neither does company: a row's result has the same bits whatever other rows stand in the call,
//!   so scoring one sequence and scoring a batch of sequences agree exactly.
//!
//! Which instructions a call uses is what [`instruction_set`] says: AVX-512 (with and without
//! BF16), AVX2 with FMA, or none beyond portable Rust. The bits differ between them, by rounding.
//!
//! Extents are the caller's to get right: a wrong length is a broken precondition and
//! panics with its numbers.
// Intrinsics, and writes of disjoint parts from several threads; each block says why it is sound.
#![allow(unsafe_code)]

mod activation;
mod attention;
mod cpu;
mod dropout;
mod exp;
mod gemm;
mod lanes;
mod loss;
mod norm;
mod packed;
mod parallel;
mod rotate;

pub use activation::{
    gated_gelu, gated_gelu_backward, gated_silu, gated_silu_backward, relu, relu_backward,
};
pub use attention::{
    AttentionShape, RelativeBias, Span, StepShape, attention, attention_backward, attention_step,
};
pub use cpu::{InstructionSet, instruction_set, with_instruction_set};
pub use dropout::{dropout, dropout_backward};
pub use gemm::{MatMut, MatRef, gemm};
pub use loss::{argmax, cross_entropy, divergence, linear_cross_entropy, log_softmax_at};
pub use norm::{rms_norm, rms_norm_backward};
pub use packed::{PackedWeight, Precision, Rows};
pub use rotate::rotate;
