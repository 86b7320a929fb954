//! AdamW whose rate for a tensor is relative to the tensor's size.
//!
//! One rate for all weights blows up T5's small query matrices before its unit-variance embeddings
//! have moved. The relative step is Adafactor's (Shazeer and Stern 2018, section 8): the rate times
//! the tensor's root mean square, which never counts as less than [`FLOOR`], so that tensors of
//! zeros can leave zero.

use std::ops::Range;

use kif_methods::{AdamW, OptimizerConfig, State, StateError};
use kif_model::ParamLayout;

/// Smallest root mean square that a tensor is taken to have (Adafactor's epsilon 2).
pub const FLOOR: f64 = 1e-3;

/// One AdamW per tensor.
pub struct RelativeAdamW {
    tensors: Vec<(Range<usize>, AdamW)>,
}

impl RelativeAdamW {
    /// An optimizer that has taken no step.
    pub fn new(layout: &ParamLayout, betas: (f64, f64)) -> Self {
        let config = OptimizerConfig {
            betas,
            ..OptimizerConfig::default()
        };
        let of_tensor = |range: &Range<usize>| (range.clone(), AdamW::new(&config, range.len()));
        Self {
            tensors: layout
                .specs()
                .iter()
                .map(|spec| of_tensor(&spec.range))
                .collect(),
        }
    }

    /// One update of `params` by `grads`, both `[P]`; `lr` is the share of its size that a tensor
    /// may move.
    pub fn step(&mut self, params: &mut [f32], grads: &[f32], lr: f64) {
        for (range, adamw) in &mut self.tensors {
            let params = &mut params[range.clone()];
            let rate = lr * root_mean_square(params).max(FLOOR);
            adamw.step(params, &grads[range.clone()], rate);
        }
    }

    /// Writes moments and steps, `[P]` each.
    pub fn save(&self, state: &mut State) {
        let moments = |of: fn(&AdamW) -> &[f32]| {
            self.tensors
                .iter()
                .flat_map(|(_, a)| of(a))
                .copied()
                .collect::<Vec<_>>()
        };
        state.put("adamw.m", &moments(|adamw| adamw.moments().0));
        state.put("adamw.v", &moments(|adamw| adamw.moments().1));
        state.put_counter(
            "adamw.t",
            self.tensors
                .first()
                .map_or(0, |(_, adamw)| adamw.moments().2),
        );
    }

    /// Takes over what [`save`](Self::save) wrote.
    pub fn load(&mut self, state: &State) -> Result<(), StateError> {
        let n_params = self.tensors.last().map_or(0, |(range, _)| range.end);
        let (m, v) = (
            state.tensor("adamw.m", n_params)?,
            state.tensor("adamw.v", n_params)?,
        );
        let t = state.counter("adamw.t")?;
        for (range, adamw) in &mut self.tensors {
            adamw.restore(&m[range.clone()], &v[range.clone()], t);
        }
        Ok(())
    }
}

fn root_mean_square(values: &[f32]) -> f64 {
    let sum: f64 = values.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    (sum / values.len().max(1) as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_step_moves_each_tensor_by_its_own_size() {
        let mut layout = ParamLayout::default();
        layout.push("large".into(), vec![2]);
        layout.push("zero".into(), vec![1]);
        let mut optimizer = RelativeAdamW::new(&layout, (0.9, 0.98));
        let mut params = vec![2.0, -2.0, 0.0];
        // AdamW's first step is the rate in the direction of the gradient's sign, whatever its
        // size.
        optimizer.step(&mut params, &[5.0, -0.1, 3.0], 0.01);
        for (got, expected) in params.iter().zip([1.98, -1.98, -1e-5]) {
            assert!((got - expected).abs() < 1e-6, "{got} is not {expected}");
        }
    }
}
