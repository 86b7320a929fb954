//! Weights stored in the order in which the product kernels read them.

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_bf16;
mod bf16;
mod int8;
mod multiply;
mod pack;
mod portable;
mod product;
mod rows;
mod strip;
mod transpose;

use crate::cpu::instruction_set;
use crate::parallel::{SendPtr, for_each_task};
use pack::Pack;
use product::Side;
use rows::RowMajor;

pub(crate) use multiply::PanelProduct;
pub(crate) use pack::{panels_of, panels_of_transposed};
pub use rows::Rows;
pub(crate) use strip::{DEPTH_BLOCK, panels_len};

/// Rows that a task reads off a pack.
const ROWS_READ: usize = 16;

/// How a packed weight is stored. Sums are kept in f32 either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// As given.
    F32,
    /// Rounded to BF16, in half the memory. Where the processor multiplies BF16 in tiles, or in
    /// pairs at full rate, the activations are rounded too and a product takes a quarter to half of
    /// the time; elsewhere the weight is widened on the fly, which costs a little.
    Bf16,
    /// Whole numbers of -127 ..= 127 with a scale for every row of the weight, in a quarter of the
    /// memory. They are widened on the fly, to BF16 where its products are at full rate.
    Int8,
}

/// A weight `W[n_out, n_in]` packed for `y = x W^T`; `gx = gy W` turns the panels that
/// it needs as it goes.
///
/// Every output element is summed over the inner extent in one fixed order, whatever the
/// number of rows or threads.
pub struct PackedWeight {
    n_out: usize,
    n_in: usize,
    precision: Precision,
    pack: Pack,
}

impl PackedWeight {
    /// Packs a row-major weight.
    pub fn pack(weight: &[f32], n_out: usize, n_in: usize, precision: Precision) -> Self {
        assert_eq!(weight.len(), n_out * n_in, "a weight of {n_out} x {n_in}");
        let rows = RowMajor {
            values: weight,
            width: n_in,
        };
        Self::pack_rows(&rows, n_out, n_in, precision)
    }

    /// Packs a weight whose rows are asked for a few at a time.
    pub fn pack_rows(weight: &impl Rows, n_out: usize, n_in: usize, precision: Precision) -> Self {
        Self {
            n_out,
            n_in,
            precision,
            pack: Pack::of_transposed(weight, (n_in, n_out), precision),
        }
    }

    /// Takes new values of the same extents into the memory at hand.
    pub fn repack(&mut self, weight: &[f32]) {
        let (n_out, n_in) = (self.n_out, self.n_in);
        assert_eq!(weight.len(), n_out * n_in, "a weight of {n_out} x {n_in}");
        self.pack.fill_transposed(&RowMajor {
            values: weight,
            width: n_in,
        });
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
        self.pack.bytes()
    }

    /// Rows of the weight as it is stored, one for each of `ids`, into `rows[ids, n_in]`.
    pub fn read_rows(&self, ids: &[u32], rows: &mut [f32]) {
        let (n_out, n_in) = (self.n_out, self.n_in);
        let n = ids.len();
        assert_eq!(
            rows.len(),
            n * n_in,
            "{n} rows of a weight of {n_out} x {n_in}"
        );
        let to = SendPtr::new(rows);
        // A value lies a whole line from the next: reading it costs as much as many operations.
        for_each_task(n.div_ceil(ROWS_READ), 32 * n * n_in, |t| {
            for i in t * ROWS_READ..((t + 1) * ROWS_READ).min(n) {
                let j = ids[i] as usize;
                assert!(j < n_out, "row {j} of a weight of {n_out} x {n_in}");
                // SAFETY: row i of `rows`, which no other task touches.
                let row = unsafe { std::slice::from_raw_parts_mut(to.get().add(i * n_in), n_in) };
                self.pack.read_column(j, row);
            }
        });
    }

    /// `y[n_rows, n_out] = x[n_rows, n_in] W^T`, added to `y` when `accumulate`.
    pub fn forward(&self, n_rows: usize, x: &[f32], y: &mut [f32], accumulate: bool) {
        let set = instruction_set();
        self.pack
            .multiply(set, Side::AsPacked, n_rows, x, y, accumulate);
    }

    /// `gx[n_rows, n_in] = gy[n_rows, n_out] W`, added to `gx` when `accumulate`.
    pub fn backward(&self, n_rows: usize, gy: &[f32], gx: &mut [f32], accumulate: bool) {
        let set = instruction_set();
        self.pack
            .multiply(set, Side::Transposed, n_rows, gy, gx, accumulate);
    }
}
