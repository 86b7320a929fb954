//! Inverted dropout whose mask is a function of key, stream and place alone.

use crate::parallel::{SendPtr, for_each_task};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Values of one task: a whole number of cipher blocks.
const CHUNK: usize = 8192;

/// `y = x mask / (1 - p)`: each value is dropped with probability `p`, rounded to
/// a multiple of 2^-16.
///
/// `x` and `y` are `[n, n_cols]`. Value `i` of the tensor is dropped when the `i`-th 16-bit draw of
/// the ChaCha8 stream falls below `p`, so the same key and stream give the same mask again.
pub fn dropout(x: &[f32], n_cols: usize, p: f32, key: [u8; 32], stream: u64, y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "input and output");
    masked(x, n_cols, p, key, stream, y, |x, scale, _| x * scale);
}

/// The gradient of [`dropout`] of the same key and stream: `gx += gy mask / (1 - p)`.
pub fn dropout_backward(
    gy: &[f32],
    n_cols: usize,
    p: f32,
    key: [u8; 32],
    stream: u64,
    gx: &mut [f32],
) {
    assert_eq!(gy.len(), gx.len(), "gradients");
    masked(gy, n_cols, p, key, stream, gx, |gy, scale, gx| {
        gx + gy * scale
    });
}

/// `out = f(x, scale, out)` with a scale of 0 or `1 / (1 - p)`.
fn masked(
    x: &[f32],
    n_cols: usize,
    p: f32,
    key: [u8; 32],
    stream: u64,
    out: &mut [f32],
    f: impl Fn(f32, f32, f32) -> f32 + Sync,
) {
    assert!((0.0..1.0).contains(&p), "dropout of {p}");
    assert!(
        x.is_empty() || x.len().is_multiple_of(n_cols),
        "{} values in rows of {n_cols}",
        x.len()
    );
    let threshold = (p * 65536.0).round() as u32;
    let kept = 1.0 / (1.0 - p);
    let n = x.len();
    let out = SendPtr::new(out);
    for_each_task(n.div_ceil(CHUNK), 16 * n, |t| {
        let part = t * CHUNK..((t + 1) * CHUNK).min(n);
        let mut rng = ChaCha8Rng::from_seed(key);
        rng.set_stream(stream);
        rng.set_word_pos((part.start / 2) as u128);
        let mut draws = [0u8; 2 * CHUNK];
        rng.fill_bytes(&mut draws[..2 * part.len()]);
        // SAFETY: the task's own part.
        let out = unsafe { std::slice::from_raw_parts_mut(out.get().add(part.start), part.len()) };
        for ((out, x), draw) in out.iter_mut().zip(&x[part]).zip(draws.as_chunks::<2>().0) {
            let scale = if u32::from(u16::from_le_bytes(*draw)) < threshold {
                0.0
            } else {
                kept
            };
            *out = f(*x, scale, *out);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn about_a_share_of_p_is_dropped_and_the_rest_scaled() {
        let x = vec![1.0; 100_000];
        let mut y = vec![0.0; x.len()];
        dropout(&x, 100, 0.1, [7; 32], 3, &mut y);
        let dropped = y.iter().filter(|&&v| v == 0.0).count();
        assert!((9_500..10_500).contains(&dropped), "{dropped}");
        assert!(y.iter().all(|&v| v == 0.0 || v == 1.0 / 0.9));
        let mut g = vec![1.0; x.len()];
        dropout_backward(&x, 100, 0.1, [7; 32], 3, &mut g);
        assert!(g.iter().zip(&y).all(|(g, y)| *g == 1.0 + y));
    }
}
