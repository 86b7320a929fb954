//! TasLoRA, TaSL's adaptive consolidation: after a task every rank of a LoRA is averaged between
//! before and after it, by a softmax over its importance to either (Feng et al., the extension of
//! TaSL, arXiv 2408.05200).
//!
//! Units are rows of A with their columns of B (`skills.rs`). The sensitivity is of second order,
//! `|w g - (w g)^2 / 2|`. While a task is learned, a penalty keeps ranks apart: the mean over all
//! matrices of `||A A^T - I||` and `||B^T B - I||` (Frobenius). No memory; the first task is plain
//! fine-tuning with the penalty.

use anyhow::Result;
use kif_data::Batch;
use kif_model::{LORA_A, ParamLayout, ParamSpec};
use serde::{Deserialize, Serialize};

use super::skills::{Consolidated, Consolidation, Skills, Unit};
use super::tasl::{averages, check_beta};
use super::{Method, MethodSpec};
use crate::error::{SettingError, check_setting};
use crate::learner::Learner;

/// How importance is smoothed, how soft the choice is, and how strong the penalty.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TasLoraConfig {
    /// Decay of sensitivity and uncertainty (published code: 0.85). In `[0, 1)`.
    pub beta: f32,
    /// Temperature of the softmax (published: 0.25). Above 0.
    pub temperature: f64,
    /// Weight of the past in the importance that is carried on (published: 0.7). In `[0, 1]`.
    pub past_share: f64,
    /// Weight of the penalty (published: 0.1). At least 0.
    pub orthogonality: f64,
}

impl Default for TasLoraConfig {
    fn default() -> Self {
        Self {
            beta: 0.85,
            temperature: 0.25,
            past_share: 0.7,
            orthogonality: 0.1,
        }
    }
}

impl MethodSpec for TasLoraConfig {
    fn presets() -> Vec<Self> {
        vec![Self::default()]
    }

    fn name(&self) -> &'static str {
        "tas_lora"
    }

    fn summary(&self) -> &'static str {
        "ranks averaged between before and after a task, by importance"
    }

    fn check(&self) -> Result<(), SettingError> {
        check_beta(self.beta)?;
        let (tau, weight) = (self.temperature, self.orthogonality);
        let fine = tau.is_finite() && tau > 0.0;
        check_setting(fine, "temperature", tau, "a finite number above 0")?;
        let fine = (0.0..=1.0).contains(&self.past_share);
        check_setting(fine, "past_share", self.past_share, "a number in [0, 1]")?;
        let fine = weight.is_finite() && weight >= 0.0;
        check_setting(fine, "orthogonality", weight, "a finite number, at least 0")
    }

    fn needs_stream(&self) -> bool {
        true
    }

    fn build(&self, layout: &ParamLayout) -> Box<dyn Method> {
        let skills = Skills::new(Unit::ranks(layout), averages(self.beta), layout.n_params());
        let rule = TasLora {
            config: *self,
            specs: layout.specs().to_vec(),
        };
        Box::new(Consolidated::new(rule, skills))
    }
}

/// The weight of the present in every unit: the softmax at temperature `tau` of the importances in
/// 0..1, `[units]`.
fn weights(present: &[f32], past: &[f32], tau: f64) -> Vec<f32> {
    let lead = |(now, before): (&f32, &f32)| f64::from(*now) - f64::from(*before);
    let weight = |lead: f64| (1.0 / (1.0 + (-lead / tau).exp())) as f32;
    present.iter().zip(past).map(lead).map(weight).collect()
}

/// Adds to `grad` the gradient of `weight * ||X X^T - I||` with respect to X, where X has `rank`
/// rows: A as it is, B transposed. `at(r, i)` says where entry i of row r lies; rows have `width`
/// entries.
fn add_gram_gradient(
    params: &[f32],
    (rank, width): (usize, usize),
    at: impl Fn(usize, usize) -> usize,
    weight: f64,
    grad: &mut [f32],
) {
    let x = |r: usize, i: usize| f64::from(params[at(r, i)]);
    let mut gram = vec![0.0; rank * rank];
    for r in 0..rank {
        for s in 0..rank {
            let product: f64 = (0..width).map(|i| x(r, i) * x(s, i)).sum();
            gram[r * rank + s] = product - f64::from(u8::from(r == s));
        }
    }
    let norm = gram.iter().map(|m| m * m).sum::<f64>().sqrt();
    if norm == 0.0 {
        return;
    }
    for r in 0..rank {
        for i in 0..width {
            let pull: f64 = (0..rank).map(|s| gram[r * rank + s] * x(s, i)).sum();
            grad[at(r, i)] += (weight * 2.0 * pull / norm) as f32;
        }
    }
}

/// Adds the gradient of the penalty on every A and B.
fn add_orthogonality_gradient(specs: &[ParamSpec], weight: f64, params: &[f32], grad: &mut [f32]) {
    let share = weight / specs.len().max(1) as f64;
    for spec in specs {
        let (Some(rank), start) = (spec.rank(), spec.range.start) else {
            continue;
        };
        let width = spec.range.len() / rank;
        if spec.name.ends_with(LORA_A) {
            let at = |r: usize, i: usize| start + r * width + i;
            add_gram_gradient(params, (rank, width), at, share, grad);
        } else {
            let at = |r: usize, i: usize| start + i * rank + r;
            add_gram_gradient(params, (rank, width), at, share, grad);
        }
    }
}

/// Steps with the penalty.
struct TasLora {
    config: TasLoraConfig,
    specs: Vec<ParamSpec>,
}

impl Consolidation for TasLora {
    fn step(&self, skills: &mut Skills, learner: &mut Learner, batch: &Batch) -> Result<f64> {
        let (specs, weight) = (&self.specs, self.config.orthogonality);
        let loss = learner.gradient_with(batch, |params, grad| {
            add_orthogonality_gradient(specs, weight, params, grad);
        })?;
        // `w g' = w g - (w g)^2 / 2`
        let pairs = learner.params().iter().zip(learner.grad());
        let second: Vec<f32> = pairs.map(|(w, g)| g - 0.5 * w * g * g).collect();
        skills.update(learner.params(), &second);
        learner.apply()?;
        Ok(loss)
    }

    fn weights(&self, present: &[f32], past: &[f32]) -> Result<Vec<f32>> {
        Ok(weights(present, past, self.config.temperature))
    }

    fn past_share(&self) -> f64 {
        self.config.past_share
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference::{Case, distance};
    use super::*;
    use kif_model::LORA_B;

    #[test]
    fn soft_weights_are_those_of_numpy() {
        let case = Case::read("skills");
        let (now, past) = (case.vector("present"), case.vector("past"));
        let found = weights(&now, &past, case.number("temperature"));
        assert!(distance(&found, &case.vector("soft")) < 1e-6);
    }

    #[test]
    fn the_penalty_has_the_gradient_of_numpy() {
        let case = Case::read("tas_lora");
        let mut layout = ParamLayout::default();
        layout.push(format!("q{LORA_A}"), vec![2, 3]);
        layout.push(format!("q{LORA_B}"), vec![4, 2]);
        let params = case.vector("params");
        let mut grad = vec![0.0; params.len()];
        let weight = case.number("orthogonality");
        add_orthogonality_gradient(layout.specs(), weight, &params, &mut grad);
        assert!(distance(&grad, &case.vector("gradient")) < 1e-5);
    }

    #[test]
    fn a_zero_matrix_is_left_alone() {
        let mut layout = ParamLayout::default();
        layout.push(format!("q{LORA_B}"), vec![2, 1]);
        let mut grad = [0.0; 2];
        add_orthogonality_gradient(layout.specs(), 1.0, &[0.0; 2], &mut grad);
        assert_eq!(grad, [0.0; 2]);
    }
}
