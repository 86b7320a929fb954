//! General products of strided matrices, for operands that are not worth packing.

use gemm::Parallelism;

/// A readable matrix: element (i, j) is `data[i * row_stride + j * col_stride]`.
#[derive(Clone, Copy, Debug)]
pub struct MatRef<'a> {
    /// Holds every element.
    pub data: &'a [f32],
    /// Rows.
    pub n_rows: usize,
    /// Columns.
    pub n_cols: usize,
    /// Distance between rows.
    pub row_stride: usize,
    /// Distance between columns.
    pub col_stride: usize,
}

/// A writable matrix, addressed as [`MatRef`]; no two elements share a place.
#[derive(Debug)]
pub struct MatMut<'a> {
    /// Holds every element.
    pub data: &'a mut [f32],
    /// Rows.
    pub n_rows: usize,
    /// Columns.
    pub n_cols: usize,
    /// Distance between rows.
    pub row_stride: usize,
    /// Distance between columns.
    pub col_stride: usize,
}

impl<'a> MatRef<'a> {
    /// `data` as `[n_rows, n_cols]`.
    pub fn row_major(data: &'a [f32], n_rows: usize, n_cols: usize) -> Self {
        Self {
            data,
            n_rows,
            n_cols,
            row_stride: n_cols,
            col_stride: 1,
        }
    }

    /// The transpose, in place.
    pub fn transposed(self) -> Self {
        Self {
            n_rows: self.n_cols,
            n_cols: self.n_rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

impl<'a> MatMut<'a> {
    /// `data` as `[n_rows, n_cols]`.
    pub fn row_major(data: &'a mut [f32], n_rows: usize, n_cols: usize) -> Self {
        Self {
            data,
            n_rows,
            n_cols,
            row_stride: n_cols,
            col_stride: 1,
        }
    }

    /// The transpose, in place.
    pub fn transposed(self) -> Self {
        Self {
            n_rows: self.n_cols,
            n_cols: self.n_rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            data: self.data,
        }
    }
}

/// Floats that a matrix of these extents and strides reaches over.
fn reach(n_rows: usize, n_cols: usize, row_stride: usize, col_stride: usize) -> usize {
    if n_rows == 0 || n_cols == 0 {
        0
    } else {
        (n_rows - 1) * row_stride + (n_cols - 1) * col_stride + 1
    }
}

/// `c = alpha a b + beta c`, with `beta` 0 (`c` is not read) or 1; on all threads of the
/// pool when `parallel`.
///
/// The number of threads does not change the result; the number of rows may (unlike a
/// [`PackedWeight`](crate::PackedWeight)).
pub fn gemm(alpha: f32, a: MatRef, b: MatRef, beta: f32, c: MatMut, parallel: bool) {
    let (m, n, k) = (c.n_rows, c.n_cols, a.n_cols);
    assert_eq!(
        (a.n_rows, b.n_rows, b.n_cols),
        (m, k, n),
        "{} x {k} times {} x {}",
        a.n_rows,
        b.n_rows,
        b.n_cols
    );
    assert!(beta == 0.0 || beta == 1.0, "beta is {beta}, not 0 or 1");
    assert!(
        a.data.len() >= reach(m, k, a.row_stride, a.col_stride),
        "left side of {m} x {k}: {}",
        a.data.len()
    );
    assert!(
        b.data.len() >= reach(k, n, b.row_stride, b.col_stride),
        "right side of {k} x {n}: {}",
        b.data.len()
    );
    assert!(
        c.data.len() >= reach(m, n, c.row_stride, c.col_stride),
        "product of {m} x {n}: {}",
        c.data.len()
    );
    if m == 0 || n == 0 {
        return;
    }
    let inner = c.row_stride.min(c.col_stride)
        * if c.row_stride < c.col_stride {
            m - 1
        } else {
            n - 1
        };
    assert!(
        m == 1 || n == 1 || c.row_stride.max(c.col_stride) > inner,
        "rows of the product overlap"
    );
    let n_threads = rayon::current_num_threads();
    let parallelism = if parallel && n_threads > 1 {
        Parallelism::Rayon(n_threads)
    } else {
        Parallelism::None
    };
    // SAFETY: every element of the three matrices lies in its slice, as asserted; `c` is borrowed
    // exclusively and its elements do not overlap. The crate's `alpha` scales what is in the
    // product, its `beta` the new part.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.data.as_mut_ptr(),
            c.col_stride as isize,
            c.row_stride as isize,
            beta == 1.0,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            beta,
            alpha,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transposed_product_adds_to_what_is_there() {
        let (a, b) = ([1.0, 2.0, 3.0, 4.0], [1.0, 0.0, 1.0, 1.0]);
        let mut c = [10.0; 4];
        let (a, b) = (
            MatRef::row_major(&a, 2, 2).transposed(),
            MatRef::row_major(&b, 2, 2),
        );
        gemm(2.0, a, b, 1.0, MatMut::row_major(&mut c, 2, 2), false);
        assert_eq!(c, [18.0, 16.0, 22.0, 18.0]);
        gemm(1.0, a, b, 0.0, MatMut::row_major(&mut c, 2, 2), true);
        assert_eq!(c, [4.0, 3.0, 6.0, 4.0]);
    }
}
