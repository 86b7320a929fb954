//! Slices of dfdx tensors without a copy: the one place of this crate with `unsafe`.
#![allow(unsafe_code)]

use dfdx::prelude::*;

use crate::engine::Act;

/// The values of a contiguous CPU tensor, `[rows * cols]`, row-major.
///
/// dfdx 0.13 keeps `Tensor::data` private; indexing hands out references into the same buffer.
pub(super) fn view<T>(tensor: &Act<Cpu, T>) -> &[f32] {
    let (n_rows, n_cols) = *tensor.shape();
    let len = n_rows * n_cols;
    if len == 0 {
        return &[];
    }
    let place = |row: usize, col: usize| -> usize { (&raw const tensor[[row, col]]) as usize };
    let first: *const f32 = &tensor[[0, 0]];
    let end_of_row = place(0, n_cols - 1) - place(0, 0);
    let last_row = place(n_rows - 1, 0) - place(0, 0);
    assert!(
        end_of_row == (n_cols - 1) * size_of::<f32>()
            && last_row == (n_rows - 1) * n_cols * size_of::<f32>(),
        "a strided tensor of {n_rows} x {n_cols} has no view"
    );
    // SAFETY: rows and columns have the strides of a contiguous tensor, so `len` values from
    // `first` on lie in the one `Vec<f32>` that the tensor keeps alive and that nobody can change
    // while the tensor is borrowed.
    unsafe { std::slice::from_raw_parts(first, len) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_shows_the_values_of_the_tensor() {
        let device = Cpu::default();
        let tensor: Act<Cpu> = device.tensor_from_vec(vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0], (2, 3));
        assert_eq!(view(&tensor), &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let empty: Act<Cpu> = device.tensor_from_vec(vec![], (0, 3));
        assert!(view(&empty).is_empty());
    }

    #[test]
    #[should_panic(expected = "strided")]
    fn a_transposed_tensor_has_no_view() {
        let device = Cpu::default();
        let tensor: Act<Cpu> = device.tensor_from_vec(vec![0.0; 6], (2, 3));
        view(&tensor.permute::<(usize, usize), Axes2<1, 0>>());
    }
}
