//! The kernels once more, in `f64` and as the formulas are written.

use kif_kernels::{AttentionShape, RelativeBias};

/// Reproducible values in -1 .. 1.
pub(crate) fn noise(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let draw = |state: &mut u64| {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        (*state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    for _ in 0..8 {
        draw(&mut state);
    }
    (0..n).map(|_| draw(&mut state)).collect()
}

pub(crate) fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

pub(crate) fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// `a[m, k] b[k, n]` and, per element, the sum of the magnitudes that rounding
/// errors are measured by.
pub(crate) fn product(
    m: usize,
    k: usize,
    n: usize,
    a: impl Fn(usize, usize) -> f32,
    b: impl Fn(usize, usize) -> f32,
) -> Vec<(f64, f64)> {
    let element = |i: usize, j: usize| {
        (0..k).fold((0.0, 0.0), |(sum, size), l| {
            let term = f64::from(a(i, l)) * f64::from(b(l, j));
            (sum + term, size + term.abs())
        })
    };
    (0..m * n).map(|at| element(at / n, at % n)).collect()
}

pub(crate) fn rms_norm(x: &[f64], gain: &[f64], eps: f64) -> Vec<f64> {
    let row = |x: &[f64]| {
        let rms = (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64 + eps).sqrt();
        x.iter()
            .zip(gain)
            .map(|(x, g)| x * g / rms)
            .collect::<Vec<_>>()
    };
    x.chunks(gain.len()).flat_map(row).collect()
}

pub(crate) fn gated_gelu(gate: &[f64], up: &[f64]) -> Vec<f64> {
    let gelu = |x: f64| {
        0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
    };
    gate.iter().zip(up).map(|(&x, up)| gelu(x) * up).collect()
}

pub(crate) fn gated_silu(gate: &[f64], up: &[f64]) -> Vec<f64> {
    let pairs = gate.iter().zip(up);
    pairs.map(|(x, up)| x / (1.0 + (-x).exp()) * up).collect()
}

pub(crate) fn nll(logits: &[f64], targets: &[u32]) -> Vec<f64> {
    let vocab = logits.len() / targets.len();
    let row = |(row, &t): (&[f64], &u32)| {
        let max = row.iter().cloned().fold(f64::MIN, f64::max);
        max + row.iter().map(|x| (x - max).exp()).sum::<f64>().ln() - row[t as usize]
    };
    logits.chunks(vocab).zip(targets).map(row).collect()
}

/// The inputs of attention in `f64`; the spans and the rest come from a shape.
#[derive(Clone)]
pub(crate) struct Attention {
    pub(crate) q: Vec<f64>,
    pub(crate) k: Vec<f64>,
    pub(crate) v: Vec<f64>,
    pub(crate) bias: Vec<f64>,
}

impl Attention {
    /// Outputs, zero where no query span lies.
    pub(crate) fn outputs(&self, shape: &AttentionShape) -> Vec<f64> {
        let (width, kv_width) = (
            shape.n_heads * shape.head_dim,
            shape.n_kv_heads * shape.head_dim,
        );
        let mut y = vec![0.0; self.q.len()];
        for (queries, keys) in shape.queries.iter().zip(shape.keys) {
            for head in 0..shape.n_heads {
                let at = |row: usize| {
                    row * width + head * shape.head_dim..row * width + (head + 1) * shape.head_dim
                };
                let kv_head = head / (shape.n_heads / shape.n_kv_heads);
                let at_key = |row: usize| {
                    let first = row * kv_width + kv_head * shape.head_dim;
                    first..first + shape.head_dim
                };
                for i in 0..queries.len {
                    let q = &self.q[at(queries.start + i)];
                    let position = i as isize + keys.len as isize - queries.len as isize;
                    let end = if shape.causal {
                        position + 1
                    } else {
                        keys.len as isize
                    };
                    let first = shape.window.map_or(0, |window| end - window as isize);
                    let seen = (0..keys.len).filter(|&j| (first..end).contains(&(j as isize)));
                    let weights: Vec<(usize, f64)> = seen
                        .map(|j| {
                            let k = &self.k[at_key(keys.start + j)];
                            let score: f64 = q.iter().zip(k).map(|(q, k)| q * k).sum();
                            let bias = self.bias_at(shape, head, j as isize - position);
                            (j, (f64::from(shape.scale) * score + bias).exp())
                        })
                        .collect();
                    let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
                    for &(j, weight) in &weights {
                        for (y, v) in y[at(queries.start + i)]
                            .iter_mut()
                            .zip(&self.v[at_key(keys.start + j)])
                        {
                            *y += weight / total * v;
                        }
                    }
                }
            }
        }
        y
    }

    fn bias_at(&self, shape: &AttentionShape, head: usize, distance: isize) -> f64 {
        shape.bias.map_or(
            0.0,
            |RelativeBias {
                 by_distance,
                 min_distance,
             }| {
                self.bias[head * (by_distance.len() / shape.n_heads)
                    + (distance - min_distance) as usize]
            },
        )
    }
}

/// The gradient of `f` at `x` by central differences.
pub(crate) fn differences(x: &[f64], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    const STEP: f64 = 1e-4;
    let mut x = x.to_vec();
    (0..x.len())
        .map(|i| {
            let at = x[i];
            x[i] = at + STEP;
            let above = f(&x);
            x[i] = at - STEP;
            let below = f(&x);
            x[i] = at;
            (above - below) / (2.0 * STEP)
        })
        .collect()
}

pub(crate) fn inner(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
