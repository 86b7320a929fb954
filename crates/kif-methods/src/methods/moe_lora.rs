//! MoELoRA: LoRA experts side by side, of which a router chooses a few for every token, and a
//! contrastive loss that keeps them apart (Luo et al., *MoELoRA: Contrastive Learning Guided
//! Mixture of Experts on Parameter-Efficient Fine-Tuning for Large Language Models*, arXiv
//! 2402.12851).
//!
//! Every adapted layer has `n_experts` adapters of the run's rank and a router ([`Router::Token`]).
//! Tasks follow each other as in plain fine-tuning: nothing is frozen, and no memory is read. The
//! contrastive loss of a layer compares what its experts make of some tokens of the batch,
//! `z_(e,m) = B_e A_e x_m`, by the cosine s: outputs of one expert are alike, those of different
//! experts are not.
//!
//! ```text
//! - mean over (e,m) of 1/(M-1) sum over m' != m of
//!     log( exp(s((e,m),(e,m'))/t) / sum over (e',n) != (e,m) of exp(s((e,m),(e',n))/t) )
//! ```
//!
//! The inputs x of the layer are taken as given: the loss moves the experts and nothing below them.

use anyhow::Result;
use kif_data::Batch;
use kif_model::{LORA_A, LORA_B, ParamLayout, ParamSpec, Router};
use serde::{Deserialize, Serialize};

use super::{FORWARD_ONLY, Method, MethodSpec, Parts};
use crate::error::{SettingError, check_setting};
use crate::learner::Learner;

/// Experts, router and contrastive loss.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MoeLoraConfig {
    /// Experts of every layer, each of the run's rank (the published number is not known to us). At
    /// least 2.
    pub n_experts: usize,
    /// Experts of a token (the published number is not known to us). In `2..=n_experts`.
    pub top_k: usize,
    /// Weight of the contrastive loss (ours). At least 0.
    pub contrast: f64,
    /// Temperature t of the contrastive loss (ours). Positive.
    pub temperature: f64,
    /// Tokens M of a batch that a layer's experts are compared on (ours). At least 2.
    pub contrast_tokens: usize,
}

impl Default for MoeLoraConfig {
    fn default() -> Self {
        Self {
            n_experts: 4,
            top_k: 2,
            contrast: 0.1,
            temperature: 0.1,
            contrast_tokens: 8,
        }
    }
}

impl MethodSpec for MoeLoraConfig {
    fn presets() -> Vec<Self> {
        vec![Self::default()]
    }

    fn name(&self) -> &'static str {
        "moe_lora"
    }

    fn summary(&self) -> &'static str {
        "LoRA experts that a router chooses between for every token"
    }

    fn check(&self) -> Result<(), SettingError> {
        let Self {
            n_experts,
            top_k,
            contrast,
            temperature,
            contrast_tokens,
        } = *self;
        check_setting(n_experts >= 2, "n_experts", n_experts, "at least 2")?;
        let fits = (2..=n_experts).contains(&top_k);
        check_setting(fits, "top_k", top_k, "at least 2 and at most n_experts")?;
        let fine = contrast.is_finite() && contrast >= 0.0;
        check_setting(fine, "contrast", contrast, "a finite number, at least 0")?;
        let fine = temperature.is_finite() && temperature > 0.0;
        check_setting(fine, "temperature", temperature, "a positive number")?;
        let (field, fits) = ("contrast_tokens", contrast_tokens >= 2);
        check_setting(fits, field, contrast_tokens, "at least 2")
    }

    fn parts(&self, _: usize) -> Parts {
        Parts {
            n_slots: self.n_experts,
            router: Some(Router::Token { top_k: self.top_k }),
            ..Parts::default()
        }
    }

    fn added_steps(&self) -> f64 {
        // A pass forward.
        FORWARD_ONLY
    }

    fn build(&self, layout: &ParamLayout) -> Box<dyn Method> {
        Box::new(MoeLora::new(*self, layout))
    }
}

/// The contrastive loss of `outputs`, `[experts, tokens, width]`, and its derivatives by them. An
/// output of 0 is like nothing, and has no slope.
fn contrast(outputs: &[f32], n_tokens: usize, width: usize, temperature: f64) -> (f64, Vec<f32>) {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let outputs: Vec<f64> = outputs.iter().map(|&z| f64::from(z)).collect();
    let rows: Vec<&[f64]> = outputs.chunks_exact(width).collect();
    let lengths: Vec<f64> = rows.iter().map(|z| dot(z, z).sqrt()).collect();
    let units: Vec<Vec<f64>> = (rows.iter().zip(&lengths))
        .map(|(z, length)| {
            z.iter()
                .map(|z| z / length.max(f64::MIN_POSITIVE))
                .collect()
        })
        .collect();
    let (n, n_alike) = (rows.len(), n_tokens - 1);
    // By the cosine of each pair, over the temperature.
    let mut by_pair = vec![0.0; n * n];
    let mut loss = 0.0;
    for i in 0..n {
        let others = || (0..n).filter(|&j| j != i);
        let is_alike = |j: usize| i / n_tokens == j / n_tokens;
        let score: Vec<f64> = units
            .iter()
            .map(|unit| dot(&units[i], unit) / temperature)
            .collect();
        let largest = others().map(|j| score[j]).fold(f64::MIN, f64::max);
        let sum: f64 = others().map(|j| (score[j] - largest).exp()).sum();
        for j in others() {
            let (share, wanted) = (
                (score[j] - largest).exp() / sum,
                f64::from(u8::from(is_alike(j))) / n_alike as f64,
            );
            loss += wanted * (largest + sum.ln() - score[j]) / n as f64;
            by_pair[i * n + j] = (share - wanted) / n as f64;
        }
    }
    let mut slope = Vec::with_capacity(outputs.len());
    for i in 0..n {
        let mut by_unit = vec![0.0; width];
        for j in 0..n {
            let pull = (by_pair[i * n + j] + by_pair[j * n + i]) / temperature;
            by_unit
                .iter_mut()
                .zip(&units[j])
                .for_each(|(g, u)| *g += pull * u);
        }
        let along = dot(&by_unit, &units[i]);
        slope.extend(
            by_unit
                .iter()
                .zip(&units[i])
                .map(|(g, u)| match lengths[i] {
                    0.0 => 0.0,
                    length => ((g - along * u) / length) as f32,
                }),
        );
    }
    (loss, slope)
}

/// A and B of one layer.
struct Module {
    /// Index of A in the layout.
    place: usize,
    a: ParamSpec,
    b: ParamSpec,
    /// R of one expert.
    rank: usize,
}

impl Module {
    /// Adds `weight` times the gradient of the contrastive loss on the inputs `x`, `[tokens, in]`,
    /// to `grad`, `[P]`.
    fn add_contrast_gradient(
        &self,
        params: &[f32],
        x: &[f32],
        temperature: f64,
        weight: f64,
        grad: &mut [f32],
    ) {
        let (n_in, n_out, all_ranks) = (self.a.shape[1], self.b.shape[0], self.a.shape[0]);
        let n_tokens = x.len() / n_in;
        if n_tokens < 2 {
            return;
        }
        let (a, b) = (&params[self.a.range.clone()], &params[self.b.range.clone()]);
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let ranks = |expert: usize| expert * self.rank..(expert + 1) * self.rank;
        // `A x` of all experts, `[tokens, experts * R]`.
        let hidden: Vec<f32> = (x.chunks_exact(n_in))
            .flat_map(|x| a.chunks_exact(n_in).map(move |row| dot(row, x)))
            .collect();
        let mut outputs = Vec::new();
        for expert in 0..all_ranks / self.rank {
            for hidden in hidden.chunks_exact(all_ranks) {
                let of_row = |row: &[f32]| dot(&row[ranks(expert)], &hidden[ranks(expert)]);
                outputs.extend(b.chunks_exact(all_ranks).map(of_row));
            }
        }
        let (_, slope) = contrast(&outputs, n_tokens, n_out, temperature);
        for (i, slope) in slope.chunks_exact(n_out).enumerate() {
            let (expert, token) = (i / n_tokens, i % n_tokens);
            let (x, hidden) = (
                &x[token * n_in..][..n_in],
                &hidden[token * all_ranks..][..all_ranks],
            );
            for r in ranks(expert) {
                let mut by_hidden = 0.0;
                for (o, slope) in slope.iter().enumerate() {
                    let at = o * all_ranks + r;
                    grad[self.b.range.start + at] += weight as f32 * slope * hidden[r];
                    by_hidden += slope * b[at];
                }
                let row = &mut grad[self.a.range.start + r * n_in..][..n_in];
                row.iter_mut()
                    .zip(x)
                    .for_each(|(g, x)| *g += weight as f32 * by_hidden * x);
            }
        }
    }
}

/// Plain steps on all experts and routers, with the contrastive loss.
pub(super) struct MoeLora {
    config: MoeLoraConfig,
    modules: Vec<Module>,
}

impl MoeLora {
    pub(super) fn new(config: MoeLoraConfig, layout: &ParamLayout) -> Self {
        let specs = layout.specs();
        let module = |(place, a): (usize, &ParamSpec)| {
            let stem = a.name.strip_suffix(LORA_A)?;
            let b = specs
                .iter()
                .find(|b| b.name.strip_suffix(LORA_B) == Some(stem))?;
            Some(Module {
                place,
                a: a.clone(),
                b: b.clone(),
                rank: a.shape[0] / layout.n_slots(),
            })
        };
        Self {
            config,
            modules: specs.iter().enumerate().filter_map(module).collect(),
        }
    }

    /// The gradient of the mean contrastive loss of all layers, `[P]`, no longer than 1, times its
    /// weight.
    fn contrast_gradient(&self, learner: &mut Learner, batch: &Batch) -> Result<Option<Vec<f32>>> {
        let MoeLoraConfig {
            contrast,
            temperature,
            contrast_tokens,
            ..
        } = self.config;
        if contrast == 0.0 {
            return Ok(None);
        }
        let inputs = learner.model_mut().layer_inputs(batch, contrast_tokens)?;
        let mut grad = vec![0.0; learner.params().len()];
        let share = 1.0 / self.modules.len() as f64;
        for module in &self.modules {
            let x = &inputs[module.place];
            module.add_contrast_gradient(learner.params(), x, temperature, share, &mut grad);
        }
        let length = grad
            .iter()
            .map(|g| f64::from(*g).powi(2))
            .sum::<f64>()
            .sqrt();
        // Fresh experts all answer next to 0, where cosines have any slope.
        let factor = (contrast / length.max(1.0)) as f32;
        grad.iter_mut().for_each(|g| *g *= factor);
        Ok(Some(grad))
    }
}

impl Method for MoeLora {
    fn observe(&mut self, learner: &mut Learner, batch: &Batch) -> Result<f64> {
        let contrast = self.contrast_gradient(learner, batch)?;
        learner.step_with(batch, |_, grad| {
            for (g, pull) in grad.iter_mut().zip(contrast.iter().flatten()) {
                *g += pull;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference::{Case, distance};
    use super::*;

    #[test]
    fn loss_and_gradients_are_those_of_numpy() {
        let case = Case::read("moe_lora");
        let number = |name: &str| case.number(name) as usize;
        let (n_in, n_out, rank) = (number("n_in"), number("n_out"), number("rank"));
        let (n_experts, n_tokens) = (number("n_experts"), number("n_tokens"));
        let temperature = case.number("temperature");
        let (loss, slope) = contrast(&case.vector("outputs"), n_tokens, n_out, temperature);
        assert!((loss - case.number("loss")).abs() < 1e-5, "{loss}");
        assert!(distance(&slope, &case.vector("slope")) < 1e-5);
        let mut layout = ParamLayout::default();
        layout.push(format!("q{LORA_A}"), vec![n_experts * rank, n_in]);
        layout.push(format!("q{LORA_B}"), vec![n_out, n_experts * rank]);
        let layout = layout.with_slots(n_experts).unwrap();
        let method = MoeLora::new(MoeLoraConfig::default(), &layout);
        let params = [case.vector("a"), case.vector("b")].concat();
        let mut grad = vec![0.0; params.len()];
        method.modules[0].add_contrast_gradient(
            &params,
            &case.vector("x"),
            temperature,
            1.0,
            &mut grad,
        );
        let expected = [case.vector("a_gradient"), case.vector("b_gradient")].concat();
        assert!(distance(&grad, &expected) < 1e-5);
    }

    /// Two experts that answer in orthogonal directions lose least, two with one direction the
    /// logarithm of the others.
    #[test]
    fn experts_that_differ_lose_less() {
        let apart = contrast(&[1.0, 0.0, 2.0, 0.0, 0.0, 1.0, 0.0, 3.0], 2, 2, 0.1);
        let alike = contrast(&[1.0, 0.0, 2.0, 0.0, 1.0, 0.0, 3.0, 0.0], 2, 2, 0.1);
        assert!((alike.0 - 3f64.ln()).abs() < 1e-9, "{}", alike.0);
        assert!(apart.0 < 1e-3, "{}", apart.0);
    }

    #[test]
    fn outputs_of_nothing_have_no_slope() {
        let (loss, slope) = contrast(&[0.0; 8], 2, 2, 0.1);
        assert!((loss - 3f64.ln()).abs() < 1e-9);
        assert_eq!(slope, [0.0; 8]);
    }
}
