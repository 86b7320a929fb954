//! Rotary position embedding (Su et al. 2021, arXiv 2104.09864), with the two halves of a head as
//! the pairs' members, as Hugging Face stores Llama's weights.

use crate::cpu::{instruction_set, versions};
use crate::lanes::madd;
use crate::parallel::{SendPtr, for_each_task};

/// Rows of one task.
const ROWS: usize = 64;

/// Turns every pair `(x[i], x[i + dim / 2])` of every head by the angle i of its row.
///
/// `x` and `y` are `[n, n_heads * dim]`, `cos` and `sin` `[n, dim / 2]`. Turned back by the
/// negative sine, which is the gradient, too.
pub fn rotate(x: &[f32], cos: &[f32], sin: &[f32], half: usize, y: &mut [f32]) {
    assert!(
        half > 0 && cos.len().is_multiple_of(half),
        "angles of {half} pairs"
    );
    let n_rows = cos.len() / half;
    assert_eq!(
        (sin.len(), y.len()),
        (cos.len(), x.len()),
        "angles, input and output"
    );
    let width = x.len().checked_div(n_rows).unwrap_or(0);
    assert!(
        x.len() == n_rows * width && width.is_multiple_of(2 * half),
        "{} values in {n_rows} rows of heads of {}",
        x.len(),
        2 * half
    );
    let set = instruction_set();
    let y = SendPtr::new(y);
    for_each_task(n_rows.div_ceil(ROWS), 4 * x.len(), |t| {
        for row in t * ROWS..((t + 1) * ROWS).min(n_rows) {
            // SAFETY: this row of `y`, which no other task touches.
            let y = unsafe { std::slice::from_raw_parts_mut(y.get().add(row * width), width) };
            let angles = row * half..(row + 1) * half;
            rotate_row(
                set,
                &x[row * width..][..width],
                &cos[angles.clone()],
                &sin[angles],
                y,
            );
        }
    });
}

versions! {
    fn rotate_row(x: &[f32], cos: &[f32], sin: &[f32], y: &mut [f32]) {
        let half = cos.len();
        for (x, y) in x.chunks_exact(2 * half).zip(y.chunks_exact_mut(2 * half)) {
            let (x1, x2) = x.split_at(half);
            let (y1, y2) = y.split_at_mut(half);
            for i in 0..half {
                y1[i] = madd::<FUSED>(x1[i], cos[i], -x2[i] * sin[i]);
                y2[i] = madd::<FUSED>(x2[i], cos[i], x1[i] * sin[i]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_turn_takes_the_first_half_into_the_second() {
        let mut y = [9.0; 8];
        let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
        rotate(&x, &[0.0, 1.0], &[1.0, 0.0], 2, &mut y);
        assert_eq!(y, [-3.0, 2.0, 1.0, 4.0, -7.0, 6.0, 5.0, 8.0]);
        let mut back = [9.0; 8];
        rotate(&y, &[0.0, 1.0], &[-1.0, 0.0], 2, &mut back);
        assert_eq!(back, x);
    }
}
