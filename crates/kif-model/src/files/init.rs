//! Random weights to train a base from, as Hugging Face draws them.

use std::f64::consts::TAU;

use kif_data::chance::{self, Purpose};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;
use rayon::prelude::*;

use super::config::ModelConfig;
use super::t5_config::T5Config;
use super::weights::Weights;

/// Fresh weights. Every tensor has a stream of its own, keyed by the seed and its name: adding a
/// layer changes no other layer.
///
/// Standard deviations of T5, before `initializer_factor`: embeddings and head 1, q
/// `(D d_kv)^-0.5`, k, v, inputs of the feed-forward layers and relative biases `D^-0.5`, o
/// `(H d_kv)^-0.5`, outputs of the feed-forward layers `d_ff^-0.5`. Those of decoder-only models
/// are `initializer_range` throughout, with biases of 0. Gains of norms are 1.
pub fn random_weights(config: &ModelConfig, seed: u64) -> Weights {
    let draw = |(name, shape): (String, Vec<usize>)| {
        let n = shape.iter().product::<usize>();
        let values = match initial(config, &name) {
            Initial::Constant(value) => vec![value; n],
            Initial::Normal(std) => normal(
                &mut chance::stream(seed, Purpose::Init, name_key(&name), 1),
                n,
                std,
            ),
        };
        (name, shape, values)
    };
    let drawn: Vec<_> = config.tensors().into_par_iter().map(draw).collect();
    let mut weights = Weights::new();
    for (name, shape, values) in drawn {
        weights.insert(name, shape, values);
    }
    weights
}

/// What a tensor begins as.
enum Initial {
    Constant(f32),
    /// Of that standard deviation.
    Normal(f64),
}

fn initial(config: &ModelConfig, name: &str) -> Initial {
    match config {
        ModelConfig::T5(t5) => match standard_deviation(t5, name) {
            None => Initial::Constant(t5.initializer_factor),
            Some(std) => Initial::Normal(std * f64::from(t5.initializer_factor)),
        },
        ModelConfig::Decoder(decoder) if name.ends_with("norm.weight") => {
            Initial::Constant(1.0 - decoder.family.norm_offset())
        }
        ModelConfig::Decoder(_) if name.ends_with(".bias") => Initial::Constant(0.0),
        ModelConfig::Decoder(decoder) => Initial::Normal(f64::from(decoder.initializer_range)),
    }
}

/// `None` for the gains of norms.
fn standard_deviation(config: &T5Config, name: &str) -> Option<f64> {
    let (d_model, d_kv, n_heads) = (
        config.d_model as f64,
        config.d_kv as f64,
        config.num_heads as f64,
    );
    let module = name.strip_suffix(".weight").unwrap_or(name);
    let module = module.rsplit('.').next().unwrap_or(module);
    let variance = match module {
        "shared" | "lm_head" => 1.0,
        "q" => 1.0 / (d_model * d_kv),
        "k" | "v" | "relative_attention_bias" | "wi" | "wi_0" | "wi_1" => 1.0 / d_model,
        "o" => 1.0 / (n_heads * d_kv),
        "wo" => 1.0 / config.d_ff as f64,
        "layer_norm" | "final_layer_norm" => return None,
        _ => unreachable!("{name} is not a tensor of a T5"),
    };
    Some(variance.sqrt())
}

/// FNV-1a: a number for a name that no compiler or library version changes.
fn name_key(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// `n` normal numbers of mean 0 (Box-Muller, two at a time).
fn normal(rng: &mut ChaCha8Rng, n: usize, std: f64) -> Vec<f32> {
    let mut values = Vec::with_capacity(n + 1);
    while values.len() < n {
        // In (0, 1]: its logarithm is finite.
        let u = ((rng.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64;
        let v = (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        let radius = std * (-2.0 * u.ln()).sqrt();
        let (sin, cos) = (TAU * v).sin_cos();
        values.push((radius * cos) as f32);
        values.push((radius * sin) as f32);
    }
    values.truncate(n);
    values
}
