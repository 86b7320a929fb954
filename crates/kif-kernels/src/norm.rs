//! Root-mean-square normalisation (Zhang and Sennrich 2019), without a shift, as
//! T5 and Llama use it.

use crate::cpu::{instruction_set, versions};
use crate::lanes::{self, LANES, dot, madd};
use crate::parallel::{SendPtr, for_each_task};

/// Rows of one task; also the chunk of the gain gradient's sum, and so part of its bits.
const ROWS: usize = 64;

/// `y = x gain / rms(x)` row by row, with `rms(x) = sqrt(mean(x^2) + eps)`.
///
/// `x` and `y` are `[n, D]`, `gain` is `[D]`; `inv_rms[n]` receives `1 / rms` for the backward
/// pass. A row whose squares overflow has no finite `rms` and becomes not-a-number: the zeros of
/// the formula would pass for a result.
pub fn rms_norm(x: &[f32], gain: &[f32], eps: f32, y: &mut [f32], inv_rms: &mut [f32]) {
    let (n_rows, width) = (inv_rms.len(), gain.len());
    assert_eq!(
        (x.len(), y.len()),
        (n_rows * width, n_rows * width),
        "{n_rows} rows of {width}"
    );
    let set = instruction_set();
    let (y, inv_rms) = (SendPtr::new(y), SendPtr::new(inv_rms));
    for_each_task(n_rows.div_ceil(ROWS), 8 * x.len(), |t| {
        let rows = t * ROWS..((t + 1) * ROWS).min(n_rows);
        // SAFETY: the task's rows of `y` and `inv_rms`, which no other task touches.
        let (y, inv_rms) = unsafe {
            (
                std::slice::from_raw_parts_mut(y.get().add(rows.start * width), rows.len() * width),
                std::slice::from_raw_parts_mut(inv_rms.get().add(rows.start), rows.len()),
            )
        };
        norm_rows(
            set,
            &x[rows.start * width..rows.end * width],
            gain,
            eps,
            y,
            inv_rms,
        );
    });
}

versions! {
    fn norm_rows(x: &[f32], gain: &[f32], eps: f32, y: &mut [f32], inv_rms: &mut [f32]) {
        let width = gain.len();
        for (i, inverse) in inv_rms.iter_mut().enumerate() {
            let (x, y) = (&x[i * width..(i + 1) * width], &mut y[i * width..(i + 1) * width]);
            let mean_square = dot::<FUSED>(x, x) / width as f32 + eps;
            *inverse = if mean_square == f32::INFINITY { f32::NAN } else { 1.0 / mean_square.sqrt() };
            for ((y, x), g) in y.iter_mut().zip(x).zip(gain) {
                *y = x * *inverse * g;
            }
        }
    }
}

/// The gradients of [`rms_norm`], given its `inv_rms`: both `gx[n, D]` and `ggain[D]` are added to.
pub fn rms_norm_backward(
    x: &[f32],
    gain: &[f32],
    inv_rms: &[f32],
    gy: &[f32],
    gx: &mut [f32],
    ggain: Option<&mut [f32]>,
) {
    let (n_rows, width) = (inv_rms.len(), gain.len());
    let n = n_rows * width;
    assert_eq!(
        (x.len(), gy.len(), gx.len()),
        (n, n, n),
        "{n_rows} rows of {width}"
    );
    let set = instruction_set();
    let n_tasks = n_rows.div_ceil(ROWS);
    let mut partial = vec![0f32; if ggain.is_some() { n_tasks * width } else { 0 }];
    let with_gain = ggain.is_some();
    let (gx, parts) = (SendPtr::new(gx), SendPtr::new(&mut partial));
    for_each_task(n_tasks, 16 * n, |t| {
        let rows = t * ROWS..((t + 1) * ROWS).min(n_rows);
        let part = rows.start * width..rows.end * width;
        // SAFETY: the task's rows of `gx` and its own partial sum, which no other task touches.
        let (gx, partial) = unsafe {
            (
                std::slice::from_raw_parts_mut(gx.get().add(part.start), part.len()),
                std::slice::from_raw_parts_mut(
                    parts.get().add(if with_gain { t * width } else { 0 }),
                    if with_gain { width } else { 0 },
                ),
            )
        };
        backward_rows(
            set,
            &x[part.clone()],
            gain,
            &inv_rms[rows],
            &gy[part],
            gx,
            partial,
        );
    });
    if let Some(ggain) = ggain {
        assert_eq!(ggain.len(), width, "gradient of a gain of {width}");
        for part in partial.chunks_exact(width.max(1)) {
            for (g, p) in ggain.iter_mut().zip(part) {
                *g += p;
            }
        }
    }
}

versions! {
    fn backward_rows(x: &[f32], gain: &[f32], inv_rms: &[f32], gy: &[f32], gx: &mut [f32], ggain: &mut [f32]) {
        let width = gain.len();
        for (i, &inverse) in inv_rms.iter().enumerate() {
            let row = i * width..(i + 1) * width;
            let (x, gy, gx) = (&x[row.clone()], &gy[row.clone()], &mut gx[row]);
            // gx = inverse (gy gain) - x inverse^3 mean(gy gain x)
            let mut sums = [0f32; LANES];
            for ((gy, g), x) in gy.chunks(LANES).zip(gain.chunks(LANES)).zip(x.chunks(LANES)) {
                for (((sum, gy), g), x) in sums.iter_mut().zip(gy).zip(g).zip(x) {
                    *sum = madd::<FUSED>(gy * g, *x, *sum);
                }
            }
            let pull = lanes::sum(sums) * inverse * inverse * inverse / width as f32;
            for (((gx, gy), g), x) in gx.iter_mut().zip(gy).zip(gain).zip(x) {
                *gx += gy * g * inverse - x * pull;
            }
            for ((gg, gy), x) in ggain.iter_mut().zip(gy).zip(x) {
                *gg += gy * x * inverse;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_three_and_four_has_the_rms_of_their_mean_square() {
        let (mut y, mut inv_rms) = ([0.0; 2], [0.0; 1]);
        rms_norm(&[3.0, 4.0], &[1.0, 2.0], 0.0, &mut y, &mut inv_rms);
        let rms = 12.5f32.sqrt();
        assert!((y[0] - 3.0 / rms).abs() < 1e-6 && (y[1] - 8.0 / rms).abs() < 1e-6);
        assert!((inv_rms[0] - 1.0 / rms).abs() < 1e-7);
    }

    #[test]
    fn a_row_that_overflows_is_not_zero() {
        let (mut y, mut inv_rms) = ([0.0; 4], [0.0; 2]);
        rms_norm(&[1e30, 1.0, 3.0, 4.0], &[1.0; 2], 0.0, &mut y, &mut inv_rms);
        assert!(y[..2].iter().all(|y| y.is_nan()));
        assert!(y[2..].iter().all(|y| y.is_finite()));
    }
}
