//! AdamW as PyTorch computes it, over flat slices.
//!
//! Loshchilov and Hutter, *Decoupled Weight Decay Regularization* (ICLR 2019). The order of
//! operations is that of `torch.optim.AdamW`'s single-tensor path: bias corrections in f64, epsilon
//! outside the bias-corrected root.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::{SettingError, check_setting};

/// Values that a thread updates at a time; elements do not depend on each other, so it only matters
/// for speed.
const CHUNK: usize = 1 << 15;

/// Settings of the optimizer; the defaults are the published ones.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerConfig {
    /// Largest norm of the gradient; a longer one is scaled down (published: 1).
    pub clip: f32,
    /// Decay of the first and second moment (published: 0.9, 0.999).
    pub betas: (f64, f64),
    /// Added to the denominator outside the root (published: 1e-8).
    pub eps: f64,
    /// Decoupled weight decay per unit of learning rate (published: 0).
    pub weight_decay: f64,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            clip: 1.0,
            betas: (0.9, 0.999),
            eps: 1e-8,
            weight_decay: 0.0,
        }
    }
}

impl OptimizerConfig {
    /// Whether every value is in its range.
    pub fn check(&self) -> Result<(), SettingError> {
        let unit = |x: f64| (0.0..1.0).contains(&x);
        check_setting(self.clip > 0.0, "clip", self.clip, "a number above 0")?;
        check_setting(
            unit(self.betas.0) && unit(self.betas.1),
            "betas",
            format!("{:?}", self.betas),
            "two in [0, 1)",
        )?;
        check_setting(
            self.eps.is_finite() && self.eps > 0.0,
            "eps",
            self.eps,
            "a finite number above 0",
        )?;
        let decay = self.weight_decay;
        check_setting(
            decay.is_finite() && decay >= 0.0,
            "weight_decay",
            decay,
            "a finite number, at least 0",
        )
    }
}

/// Moments of P parameters and the number of steps taken.
#[derive(Clone, Debug, PartialEq)]
pub struct AdamW {
    betas: (f64, f64),
    eps: f64,
    weight_decay: f64,
    m: Vec<f32>,
    v: Vec<f32>,
    t: u64,
}

impl AdamW {
    /// An optimizer that has taken no step; `clip` of `config` is not its business.
    pub fn new(config: &OptimizerConfig, n_params: usize) -> Self {
        let OptimizerConfig {
            betas,
            eps,
            weight_decay,
            ..
        } = *config;
        Self {
            betas,
            eps,
            weight_decay,
            m: vec![0.0; n_params],
            v: vec![0.0; n_params],
            t: 0,
        }
    }

    /// One update of `params` by `grads`, both `[P]`, at the rate `lr`.
    pub fn step(&mut self, params: &mut [f32], grads: &[f32], lr: f64) {
        let n = self.m.len();
        assert!(
            params.len() == n && grads.len() == n,
            "{} params, {} grads, {n} moments",
            params.len(),
            grads.len()
        );
        self.t += 1;
        let t = self.t as f64;
        let (beta1, beta2) = self.betas;
        let decay = (self.weight_decay != 0.0).then_some((1.0 - lr * self.weight_decay) as f32);
        let rates = Rates {
            decay,
            one_minus_beta1: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            one_minus_beta2: (1.0 - beta2) as f32,
            root_correction: (1.0 - beta2.powf(t)).sqrt() as f32,
            eps: self.eps as f32,
            minus_step: -(lr / (1.0 - beta1.powf(t))) as f32,
        };
        (
            params.par_chunks_mut(CHUNK),
            grads.par_chunks(CHUNK),
            self.m.par_chunks_mut(CHUNK),
            self.v.par_chunks_mut(CHUNK),
        )
            .into_par_iter()
            .for_each(|(params, grads, m, v)| rates.update(params, grads, m, v));
    }

    /// Forgets everything, as at the start of a task.
    pub fn reset(&mut self) {
        self.m.fill(0.0);
        self.v.fill(0.0);
        self.t = 0;
    }

    /// First moments, second moments (`[P]` each) and steps taken.
    pub fn moments(&self) -> (&[f32], &[f32], u64) {
        (&self.m, &self.v, self.t)
    }

    /// Takes over what [`moments`](Self::moments) gave.
    pub fn restore(&mut self, m: &[f32], v: &[f32], t: u64) {
        self.m.copy_from_slice(m);
        self.v.copy_from_slice(v);
        self.t = t;
    }
}

/// What one step multiplies by, rounded to f32 where PyTorch rounds it.
struct Rates {
    decay: Option<f32>,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    root_correction: f32,
    eps: f32,
    minus_step: f32,
}

impl Rates {
    fn update(&self, params: &mut [f32], grads: &[f32], m: &mut [f32], v: &mut [f32]) {
        for (((p, &g), m), v) in params.iter_mut().zip(grads).zip(m).zip(v) {
            if let Some(decay) = self.decay {
                *p *= decay;
            }
            *m += self.one_minus_beta1 * (g - *m);
            *v = *v * self.beta2 + self.one_minus_beta2 * g * g;
            let denominator = v.sqrt() / self.root_correction + self.eps;
            *p += self.minus_step * *m / denominator;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_step_moves_every_parameter_by_the_rate() {
        let mut adamw = AdamW::new(&OptimizerConfig::default(), 3);
        let mut params = [1.0, 2.0, 3.0];
        adamw.step(&mut params, &[0.5, -4.0, 0.0], 0.1);
        for (p, expected) in params.iter().zip([0.9, 2.1, 3.0]) {
            assert!((p - expected).abs() < 1e-6, "{p} {expected}");
        }
    }

    /// Three steps of `torch.optim.AdamW` (PyTorch 2.15, float32, CPU, `foreach=False`), met bit
    /// for bit.
    #[test]
    fn three_steps_are_those_of_pytorch() {
        let config = OptimizerConfig {
            weight_decay: 0.1,
            ..OptimizerConfig::default()
        };
        let mut adamw = AdamW::new(&config, 4);
        let mut params = [0.5, -1.25, 3.0, 1e-3];
        let steps: [(f64, [f32; 4], [u32; 4]); 3] = [
            (
                1e-2,
                [0.1, -2.0, 1e-6, 0.0],
                [0x3efa9fbf, 0xbf9e8f5c, 0x403f2ca1, 0x3a82f0e1],
            ),
            (
                5e-3,
                [0.3, 1.0, -1e-6, 5e-4],
                [0x3ef82630, 0xbf9e4f6d, 0x403f186d, 0xbb3264e5],
            ),
            (
                3e-4,
                [-0.7, 0.25, 2e-6, -3.0],
                [0x3ef82fb2, 0xbf9e4ce6, 0x403f1487, 0xbb25d4c0],
            ),
        ];
        for (lr, grads, bits) in steps {
            adamw.step(&mut params, &grads, lr);
            assert_eq!(params.map(f32::to_bits), bits, "{params:?}");
        }
    }
}
