//! A start that reads content from the first step.
//!
//! Embeddings are the leading factors of the corpus's positive pointwise mutual information, so
//! words that are used alike start alike. Residual branches start quiet, and what reads the input
//! in the upper half of the layers (a T5's cross-attention, a decoder-only model's attention)
//! passes values on unchanged: the first prediction is made of what the input is made of.

use kif_data::chance::{self, Purpose};
use kif_model::{DecoderConfig, ModelConfig, ParamLayout, T5Config};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

/// Factors beyond those that are kept, and rounds of subspace iteration: both make the kept ones
/// more exact.
const EXTRA: usize = 24;
const ROUNDS: usize = 6;

/// Changes the architecture's own initialisation, `params` in `layout`'s order, into the start
/// described above.
///
/// `embeddings` is `[V, D]`. The identity needs heads that together are as wide as the model;
/// otherwise values keep their random ones.
pub fn quiet_reader(
    config: &ModelConfig,
    layout: &ParamLayout,
    params: &mut [f32],
    embeddings: &[f32],
) {
    for spec in layout.specs() {
        let (name, values) = (spec.name.as_str(), &mut params[spec.range.clone()]);
        match config {
            ModelConfig::T5(config) => t5(config, name, values, embeddings),
            ModelConfig::Decoder(config) => decoder(config, name, values, embeddings),
        }
    }
}

/// The start of one tensor of a T5. What starts the decoder is quiet, so that cross-attention
/// speaks.
fn t5(config: &T5Config, name: &str, values: &mut [f32], embeddings: &[f32]) {
    let d_model = config.d_model;
    if name == "shared.weight" {
        values.copy_from_slice(embeddings);
        let start = config.decoder_start_token_id as usize * d_model;
        scale(&mut values[start..start + d_model], 0.05);
    } else if name.ends_with(".o.weight") || name.ends_with(".wo.weight") {
        let quiet = if name.starts_with("encoder") {
            0.2
        } else {
            0.05
        };
        scale(values, quiet);
    }
    let n_layers = config.num_decoder_layers;
    let upper = (n_layers / 2..n_layers)
        .any(|layer| name.starts_with(&format!("decoder.block.{layer}.layer.1.EncDecAttention.")));
    if upper && config.inner_dim() == d_model {
        match name.rsplit('.').nth(1) {
            Some("v") => identity(values, d_model, 1.0),
            Some("o") => identity(values, d_model, 2.0),
            _ => {}
        }
    }
}

/// The start of one tensor of a decoder-only model. Its logits are not scaled, so its embedding is.
fn decoder(config: &DecoderConfig, name: &str, values: &mut [f32], embeddings: &[f32]) {
    let width = config.hidden_size;
    if name == "model.embed_tokens.weight" {
        values.copy_from_slice(embeddings);
        scale(values, (width as f32).sqrt().recip());
    } else if name.ends_with(".o_proj.weight") || name.ends_with(".down_proj.weight") {
        scale(values, 0.2);
    }
    let n_layers = config.num_hidden_layers;
    let upper = (n_layers / 2..n_layers)
        .any(|layer| name.starts_with(&format!("model.layers.{layer}.self_attn.")));
    let heads = [config.num_attention_heads, config.num_key_value_heads];
    if upper && heads.iter().all(|n| n * config.head_dim == width) {
        match name.rsplit('.').nth(1) {
            Some("v_proj") => identity(values, width, 1.0),
            Some("o_proj") => identity(values, width, 1.0),
            _ => {}
        }
    }
}

fn scale(values: &mut [f32], factor: f32) {
    values.iter_mut().for_each(|x| *x *= factor);
}

fn identity(values: &mut [f32], n: usize, scale: f32) {
    for (i, x) in values.iter_mut().enumerate() {
        *x = if i / n == i % n { scale } else { 0.0 };
    }
}

/// Embeddings `[V, D]` of standard deviation 1 from how often tokens stand within `window` of each
/// other.
///
/// Tokens that never occur get small random values.
pub fn co_occurrence<'a>(
    texts: impl Iterator<Item = &'a [u32]>,
    vocab_size: usize,
    d_model: usize,
    window: usize,
    seed: u64,
) -> Vec<f32> {
    let pmi = Sparse::pmi(texts, vocab_size, window);
    let mut rng = chance::stream(seed, Purpose::Init, 1, 0);
    let n_factors = (d_model + EXTRA).min(vocab_size);
    let mut basis: Vec<Vec<f64>> = (0..n_factors)
        .map(|_| (0..vocab_size).map(|_| normal(&mut rng)).collect())
        .collect();
    for _ in 0..ROUNDS {
        orthonormalize(&mut basis);
        basis = basis.par_iter().map(|column| pmi.times(column)).collect();
    }
    // Columns are now factors times their eigenvalues, strongest first; the root of an eigenvalue
    // is its share.
    let norms: Vec<f64> = basis
        .iter()
        .map(|column| dot(column, column).sqrt())
        .collect();
    orthonormalize(&mut basis);
    let mut embeddings = vec![0.0f32; vocab_size * d_model];
    for (factor, (column, norm)) in basis.iter().zip(&norms).take(d_model).enumerate() {
        let mean = column.iter().sum::<f64>() / vocab_size as f64;
        for (token, value) in column.iter().enumerate() {
            embeddings[token * d_model + factor] = ((value - mean) * norm.sqrt()) as f32;
        }
    }
    for (token, row) in embeddings.chunks_exact_mut(d_model).enumerate() {
        if pmi.is_empty(token) {
            row.iter_mut()
                .for_each(|x| *x = (0.5 * normal(&mut rng)) as f32);
            continue;
        }
        let norm = row
            .iter()
            .map(|x| f64::from(*x).powi(2))
            .sum::<f64>()
            .sqrt();
        let scale = 1.0 / (norm / (d_model as f64).sqrt() + 0.15);
        row.iter_mut()
            .for_each(|x| *x = (f64::from(*x) * scale) as f32);
    }
    embeddings
}

/// A symmetric matrix by rows of (column, value).
struct Sparse {
    rows: Vec<Vec<(u32, f64)>>,
}

impl Sparse {
    /// Positive pointwise mutual information; a neighbour at distance k counts 1/k.
    fn pmi<'a>(texts: impl Iterator<Item = &'a [u32]>, vocab_size: usize, window: usize) -> Self {
        let mut counts: Vec<std::collections::BTreeMap<u32, f64>> =
            vec![Default::default(); vocab_size];
        for ids in texts {
            for (at, &id) in ids.iter().enumerate() {
                for (distance, &near) in ids[at + 1..].iter().take(window).enumerate() {
                    let weight = 1.0 / (distance + 1) as f64;
                    *counts[id as usize].entry(near).or_default() += weight;
                    *counts[near as usize].entry(id).or_default() += weight;
                }
            }
        }
        let totals: Vec<f64> = counts.iter().map(|row| row.values().sum()).collect();
        // Rare neighbours count for more than their share would say (Levy, Goldberg and Dagan
        // 2015).
        let smooth: Vec<f64> = totals.iter().map(|n| n.powf(0.75)).collect();
        let all_smooth = smooth.iter().sum::<f64>();
        let pmi =
            |count: f64, a: usize, b: usize| (count * all_smooth / (totals[a] * smooth[b])).ln();
        let value = |count: f64, a: usize, b: usize| {
            0.5 * (pmi(count, a, b).max(0.0) + pmi(count, b, a).max(0.0))
        };
        let row = |(a, row): (usize, &std::collections::BTreeMap<u32, f64>)| {
            row.iter()
                .map(|(&b, &count)| (b, value(count, a, b as usize)))
                .filter(|&(_, v)| v > 0.0)
                .collect()
        };
        Self {
            rows: counts.iter().enumerate().map(row).collect(),
        }
    }

    fn is_empty(&self, row: usize) -> bool {
        self.rows[row].is_empty()
    }

    fn times(&self, vector: &[f64]) -> Vec<f64> {
        self.rows
            .iter()
            .map(|row| {
                row.iter()
                    .map(|&(column, value)| value * vector[column as usize])
                    .sum()
            })
            .collect()
    }
}

/// Gram-Schmidt, each column twice against all before it; a column that depends on them becomes
/// zero.
fn orthonormalize(columns: &mut [Vec<f64>]) {
    for at in 0..columns.len() {
        let (before, rest) = columns.split_at_mut(at);
        let column = &mut rest[0];
        let length = dot(column, column).sqrt();
        for _ in 0..2 {
            let shares: Vec<f64> = before.par_iter().map(|other| dot(other, column)).collect();
            for (other, share) in before.iter().zip(shares) {
                column
                    .iter_mut()
                    .zip(other)
                    .for_each(|(x, y)| *x -= share * y);
            }
        }
        let norm = dot(column, column).sqrt();
        let scale = if norm > 1e-9 * length {
            1.0 / norm
        } else {
            0.0
        };
        column.iter_mut().for_each(|x| *x *= scale);
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// A standard normal number (Box and Muller).
fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let u = 1.0 - f64::from(chance::uniform(rng));
    let v = f64::from(chance::uniform(rng));
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_that_are_used_alike_start_alike() {
        // 10 and 11 stand between 3 and 4, 20 and 21 between 5 and 6.
        let texts: Vec<Vec<u32>> = (0..40)
            .map(|i| {
                if i % 2 == 0 {
                    vec![3, 10 + i / 2 % 2, 4]
                } else {
                    vec![5, 20 + i / 2 % 2, 6]
                }
            })
            .collect();
        let d = 8;
        let e = co_occurrence(texts.iter().map(Vec::as_slice), 32, d, 2, 1);
        let row = |id: usize| {
            e[id * d..(id + 1) * d]
                .iter()
                .map(|&x| f64::from(x))
                .collect::<Vec<_>>()
        };
        let cosine = |a: usize, b: usize| {
            dot(&row(a), &row(b)) / (dot(&row(a), &row(a)) * dot(&row(b), &row(b))).sqrt()
        };
        assert!(cosine(10, 11) > 0.99, "{}", cosine(10, 11));
        assert!(cosine(10, 20) < 0.5, "{}", cosine(10, 20));
        assert!(e.iter().all(|x| x.is_finite()));
    }
}
