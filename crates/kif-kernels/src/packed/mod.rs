//! Weights stored in the order in which the product kernels read them.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod bf16;
mod pack;
mod portable;
mod product;
mod strip;

use crate::cpu::instruction_set;
use pack::Pack;

pub(crate) use pack::{panels_of, panels_of_transposed};
pub(crate) use strip::{multiply_panels, panels_len};

/// How a packed weight is stored. Sums are kept in f32 either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// As given.
    F32,
    /// Rounded to BF16, in half the memory. Where the processor multiplies BF16 pairs at full rate the activations are
    /// rounded too and a product takes about half the time; elsewhere the weight is widened on the fly, which costs a
    /// little.
    Bf16,
}

/// A weight `W[n_out, n_in]` packed once for `y = x W^T` and once for `gx = gy W`.
///
/// Every output element is summed over the inner extent in one fixed order, whatever the number of rows or threads.
pub struct PackedWeight {
    n_out: usize,
    n_in: usize,
    precision: Precision,
    forward: Pack,
    backward: Option<Pack>,
}

impl PackedWeight {
    /// Packs a row-major weight for both directions.
    pub fn pack(weight: &[f32], n_out: usize, n_in: usize, precision: Precision) -> Self {
        let mut packed = Self::pack_forward(weight, n_out, n_in, precision);
        packed.backward = Some(Pack::of(weight, (n_out, n_in), false, precision));
        packed
    }

    /// Packs for `forward` alone, in half the memory; `backward` then panics.
    pub fn pack_forward(weight: &[f32], n_out: usize, n_in: usize, precision: Precision) -> Self {
        assert_eq!(weight.len(), n_out * n_in, "a weight of {n_out} x {n_in}");
        let forward = Pack::of(weight, (n_in, n_out), true, precision);
        Self {
            n_out,
            n_in,
            precision,
            forward,
            backward: None,
        }
    }

    /// Takes new values of the same extents into the memory at hand.
    pub fn repack(&mut self, weight: &[f32]) {
        let (n_out, n_in) = (self.n_out, self.n_in);
        assert_eq!(weight.len(), n_out * n_in, "a weight of {n_out} x {n_in}");
        self.forward.fill(weight, true);
        if let Some(backward) = &mut self.backward {
            backward.fill(weight, false);
        }
    }

    /// Columns of `y`.
    pub fn n_out(&self) -> usize {
        self.n_out
    }

    /// Columns of `x`.
    pub fn n_in(&self) -> usize {
        self.n_in
    }

    /// How the values are stored.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Memory of the packed values, padding included.
    pub fn bytes(&self) -> usize {
        self.forward.bytes() + self.backward.as_ref().map_or(0, Pack::bytes)
    }

    /// `y[n_rows, n_out] = x[n_rows, n_in] W^T`, added to `y` when `accumulate`.
    pub fn forward(&self, n_rows: usize, x: &[f32], y: &mut [f32], accumulate: bool) {
        self.forward
            .multiply(instruction_set(), n_rows, x, y, accumulate);
    }

    /// `gx[n_rows, n_in] = gy[n_rows, n_out] W`, added to `gx` when `accumulate`.
    ///
    /// # Panics
    /// When the weight was packed by [`pack_forward`](Self::pack_forward).
    pub fn backward(&self, n_rows: usize, gy: &[f32], gx: &mut [f32], accumulate: bool) {
        let (n_out, n_in) = (self.n_out, self.n_in);
        let Some(backward) = &self.backward else {
            panic!("the weight of {n_out} x {n_in} is packed for the forward product only");
        };
        backward.multiply(instruction_set(), n_rows, gy, gx, accumulate);
    }
}
