//! Angles of rotary position embedding.

use crate::engine::Angles;
use crate::files::{Llama3Scaling, Rope};

/// The angle per position of every pair of a head, `[head_dim / 2]`.
pub(super) fn frequencies(rope: Rope, head_dim: usize) -> Vec<f32> {
    let frequency = |i: usize| {
        let exponent = (2 * i) as f64 / head_dim as f64;
        let frequency = f64::from(rope.theta).powf(-exponent);
        rope.scaling
            .map_or(frequency, |scaling| scaled(frequency, scaling)) as f32
    };
    (0..head_dim / 2).map(frequency).collect()
}

/// Rope type `llama3`: long waves slowed down, short ones left alone, and a passage between them.
fn scaled(frequency: f64, scaling: Llama3Scaling) -> f64 {
    let [factor, low, high] = [
        scaling.factor,
        scaling.low_freq_factor,
        scaling.high_freq_factor,
    ]
    .map(f64::from);
    let original = scaling.original_max_position_embeddings as f64;
    // Waves that fit into the original length.
    let n_waves = original * frequency / std::f64::consts::TAU;
    let smooth = ((n_waves - low) / (high - low)).clamp(0.0, 1.0);
    (1.0 - smooth) * frequency / factor + smooth * frequency
}

/// The angles of tokens at these positions.
pub(super) fn angles(frequencies: &[f32], positions: impl Iterator<Item = usize>) -> Angles {
    // In f32 up to the sine, as transformers computes them: at far positions that is more than its
    // last bit.
    let all: Vec<f32> = positions
        .flat_map(|position| frequencies.iter().map(move |f| position as f32 * f))
        .collect();
    let of =
        |function: fn(f64) -> f64| all.iter().map(|a| function(f64::from(*a)) as f32).collect();
    Angles {
        cos: of(f64::cos),
        sin: of(f64::sin),
        half: frequencies.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequencies_fall_from_one_by_powers_of_theta() {
        let rope = Rope {
            theta: 100.0,
            scaling: None,
        };
        let found = frequencies(rope, 4);
        assert_eq!(found[0], 1.0);
        assert!((found[1] - 0.1).abs() < 1e-7);
        let angles = angles(&found, [0, 2].into_iter());
        assert_eq!(angles.cos[..2], [1.0, 1.0]);
        assert!((angles.sin[2] - 2f32.sin()).abs() < 1e-6);
        assert!((angles.sin[3] - 0.2f32.sin()).abs() < 1e-6);
    }

    #[test]
    fn llama3_slows_long_waves_down_and_leaves_short_ones_alone() {
        let scaling = Llama3Scaling {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        };
        let wave = |length: f64| std::f64::consts::TAU / length;
        assert_eq!(scaled(wave(100.0), scaling), wave(100.0));
        assert!((scaled(wave(10_000.0), scaling) - wave(80_000.0)).abs() < 1e-12);
        // Two waves in the original length: a third of the way from slow to fast.
        let middle = wave(4096.0);
        let expected = 2.0 / 3.0 * middle / 8.0 + middle / 3.0;
        assert!((scaled(middle, scaling) - expected).abs() < 1e-12);
    }
}
