//! Recurrent-KIF: Recurrent Knowledge Identification and Fusion (Feng et al., ACL 2025, arXiv 2502.17510).
//!
//! In every round the inner loop adapts to the task and the outer loop to the memory; both estimate on the way which
//! parameters matter to them. Then each update is kept where it matters: per parameter, the two masks choose one of
//! four pairs of weights. [`KifConfig::paper`] is what the paper states, [`KifConfig::released`] what the authors'
//! T5 code does; the field docs say where they differ. The variants of the paper's ablation are the paper's settings but for
//! one each ([`KifConfig::presets`]).

use std::ops::Range;

use anyhow::Result;
use kif_fusion::{FusionWeights, Regions, Scored, Update, delta, fuse_masked, fuse_soft};
use kif_importance::{Scope, Sensitivity, SensitivityConfig, mask_above_quantile};
use kif_model::ParamLayout;
use serde::{Deserialize, Serialize};

use super::Method;
use super::two_loop::{OuterOptimizer, Phase, Rule, Source, TwoLoop, TwoLoopConfig};
use crate::error::{SettingError, check_setting};
use crate::state::{State, StateError};
use crate::task_view::MemoryOrder;

/// Every setting of Recurrent-KIF.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KifConfig {
    /// Steps on the current task between two fusion rounds (paper's Q and released code: 8). At least 1.
    pub inner_steps: usize,
    /// Steps on the memory in every round (paper's M and released code: 4). At least 1.
    pub outer_steps: usize,
    /// Decay of the moving average of `|w g|`, inner and outer alike (paper's alpha1 = alpha2: 0.55; released code's
    /// beta1: 0.85).
    pub sensitivity_beta: f32,
    /// Decay of the moving average of its variation (released code's beta2: 0.85). With it the score is sensitivity
    /// times uncertainty, as in AdaLoRA; without (paper) it is the sensitivity.
    pub uncertainty_beta: Option<f32>,
    /// A parameter matters if its score is strictly above this quantile (both: 0.8, the top 20 %).
    pub quantile: f64,
    /// What the quantile is taken over (both: global).
    pub scope: KifScope,
    /// Weights of the inner and the outer update by what the masks say (paper: 1 where its mask is set, 0 elsewhere;
    /// released code: 0.4/0.6 where both are, 0.5/0.5 where none is).
    pub weights: FusionWeights,
    /// What makes the memory steps (paper: its own AdamW at a constant 1e-3; released T5 code: the inner one, which
    /// leaves its `outer_lr` unused).
    pub outer_optimizer: OuterOptimizer,
    /// The memory loss is multiplied by this before clipping (paper: 1; released code: 1/4, the divisor of its
    /// accumulation, although memory steps accumulate nothing).
    pub outer_loss_scale: f32,
    /// The weights in `|w g|` (paper: those that the gradient belongs to; released code: those after the update).
    pub importance_weights: ImportanceWeights,
    /// The averages that start anew with every round (paper: both; released code: the inner one).
    pub cleared: Cleared,
    /// How often the importance is estimated anew (both: in every round).
    #[serde(default)]
    pub estimated: Estimated,
    /// `Some`: soft weights with this temperature take the place of `weights`, `quantile` and `scope` (both: none;
    /// TaSL's counterpart: 0.25). Above 0.
    #[serde(default)]
    pub temperature: Option<f64>,
    /// As in [`TwoLoopConfig`].
    #[serde(default)]
    pub memory_order: MemoryOrder,
    /// As in [`TwoLoopConfig`].
    #[serde(default)]
    pub slow_average: Option<f64>,
}

/// How often the importance is estimated anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Estimated {
    /// In every round.
    #[default]
    EveryRound,
    /// In the first round of a task, for the whole task: importance that does not follow the training.
    FirstRound,
}

/// What the quantile is taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KifScope {
    /// All parameters together.
    Global,
    /// Every tensor for itself (in the released code, unused).
    PerTensor,
}

/// The weights that the importance is computed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImportanceWeights {
    /// Those before the step.
    Before,
    /// Those after it.
    After,
}

/// Averages that start anew with every round; all start anew with every task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cleared {
    /// Those of both loops.
    InnerAndOuter,
    /// Those of the inner loop; the outer ones run over the whole task.
    InnerOnly,
}

impl KifConfig {
    /// As the paper states it.
    pub fn paper() -> Self {
        let TwoLoopConfig {
            inner_steps,
            outer_steps,
            outer_optimizer,
            outer_loss_scale,
            memory_order,
            slow_average,
        } = TwoLoopConfig::paper();
        Self {
            inner_steps,
            outer_steps,
            sensitivity_beta: 0.55,
            uncertainty_beta: None,
            quantile: 0.8,
            scope: KifScope::Global,
            weights: FusionWeights::PAPER,
            outer_optimizer,
            outer_loss_scale,
            importance_weights: ImportanceWeights::Before,
            cleared: Cleared::InnerAndOuter,
            estimated: Estimated::EveryRound,
            temperature: None,
            memory_order,
            slow_average,
        }
    }

    /// As the released T5 code does it.
    pub fn released() -> Self {
        let TwoLoopConfig {
            inner_steps,
            outer_steps,
            outer_optimizer,
            outer_loss_scale,
            memory_order,
            slow_average,
        } = TwoLoopConfig::released();
        Self {
            inner_steps,
            outer_steps,
            sensitivity_beta: 0.85,
            uncertainty_beta: Some(0.85),
            quantile: 0.8,
            scope: KifScope::Global,
            weights: FusionWeights::RELEASED,
            outer_optimizer,
            outer_loss_scale,
            importance_weights: ImportanceWeights::After,
            cleared: Cleared::InnerOnly,
            estimated: Estimated::EveryRound,
            temperature: None,
            memory_order,
            slow_average,
        }
    }

    /// As the released LLaMA code does it: its T5 code, but for the memory steps. They are made by an optimizer of their
    /// own whose schedule is never stepped, so that its rate stays 0 and the memory only shapes the masks.
    pub fn released_llama() -> Self {
        Self {
            outer_optimizer: OuterOptimizer::Own { lr: 0.0 },
            ..Self::released()
        }
    }

    /// The best that was found on validation rows of the standard benchmark's first order, with a small base
    /// (`docs/reproduction.md` has the search): the released code's importance and weights, but memory steps by an AdamW
    /// of their own at a constant 5e-4, on the whole loss.
    pub fn ours() -> Self {
        Self {
            outer_optimizer: OuterOptimizer::Own { lr: 5e-4 },
            outer_loss_scale: 1.0,
            ..Self::released()
        }
    }

    /// All settings with a name: the paper's, the released code's for T5 and LLaMA, ours, and the variants of the paper's ablation (its
    /// table on the long benchmark), which differ from the paper's in one point each.
    pub fn presets() -> [(&'static str, Self); 10] {
        let paper = Self::paper();
        let weights = |weights: FusionWeights| Self { weights, ..paper };
        let without_shared = FusionWeights {
            both: (0.0, 0.0),
            ..FusionWeights::PAPER
        };
        [
            ("kif-paper", paper),
            ("kif-released", Self::released()),
            ("kif-released-llama", Self::released_llama()),
            ("kif-ours", Self::ours()),
            (
                "kif-static",
                Self {
                    estimated: Estimated::FirstRound,
                    ..paper
                },
            ),
            ("kif-no-masks", weights(FusionWeights::everywhere(1.0, 1.0))),
            ("kif-global", weights(FusionWeights::HALVES)),
            (
                "kif-soft",
                Self {
                    temperature: Some(0.25),
                    ..paper
                },
            ),
            ("kif-no-share", weights(without_shared)),
            (
                "kif-local",
                Self {
                    scope: KifScope::PerTensor,
                    ..paper
                },
            ),
        ]
    }

    /// The name of its preset, also without the divisor of accumulation; otherwise `kif-custom`.
    pub fn name(&self) -> &'static str {
        let is = |preset: &Self| {
            let outer_loss_scale = 1.0;
            *self == *preset
                || *self
                    == Self {
                        outer_loss_scale,
                        ..*preset
                    }
        };
        let named = Self::presets().into_iter().find(|(_, preset)| is(preset));
        named.map_or("kif-custom", |(name, _)| name)
    }

    /// One line for tables and help.
    pub fn summary(&self) -> &'static str {
        match self.name() {
            "kif-released-llama" => {
                "Recurrent-KIF as the released LLaMA code runs: the memory moves nothing"
            }
            "kif-ours" => "Recurrent-KIF, the best setting found on validation rows",
            "kif-static" => "Recurrent-KIF, masks of a task's first round for all of it (ablation)",
            "kif-no-masks" => "Recurrent-KIF, both updates in full everywhere (ablation)",
            "kif-global" => "Recurrent-KIF, half of both updates everywhere (ablation)",
            "kif-soft" => "Recurrent-KIF, weights by importance without masks (ablation)",
            "kif-no-share" => "Recurrent-KIF, parameters in both masks stay (ablation)",
            "kif-local" => "Recurrent-KIF, each matrix with its own threshold (ablation)",
            _ => "Recurrent-KIF: masked fusion of inner and memory updates",
        }
    }

    /// Whether every value is in its range.
    pub fn check(&self) -> Result<(), SettingError> {
        let decay = |beta: f32| (0.0..1.0).contains(&beta);
        self.two_loop().check()?;
        check_setting(
            decay(self.sensitivity_beta),
            "sensitivity_beta",
            self.sensitivity_beta,
            "a number in [0, 1)",
        )?;
        if let Some(beta) = self.uncertainty_beta {
            check_setting(decay(beta), "uncertainty_beta", beta, "a number in [0, 1)")?;
        }
        check_setting(
            (0.0..=1.0).contains(&self.quantile),
            "quantile",
            self.quantile,
            "a number in [0, 1]",
        )?;
        if let Some(tau) = self.temperature {
            let fine = tau.is_finite() && tau > 0.0;
            check_setting(fine, "temperature", tau, "a finite number above 0")?;
        }
        let finite = self.weights.check().is_ok();
        check_setting(
            finite,
            "weights",
            format!("{:?}", self.weights),
            "finite numbers",
        )
    }

    fn two_loop(&self) -> TwoLoopConfig {
        TwoLoopConfig {
            inner_steps: self.inner_steps,
            outer_steps: self.outer_steps,
            outer_optimizer: self.outer_optimizer,
            outer_loss_scale: self.outer_loss_scale,
            memory_order: self.memory_order,
            slow_average: self.slow_average,
        }
    }
}

/// The two loops, fused under their importance masks.
pub(super) fn method(config: KifConfig, layout: &ParamLayout) -> impl Method + use<> {
    TwoLoop::new(
        config.two_loop(),
        Source::Memory,
        MaskedFusion::new(config, layout),
    )
}

/// Importance of every parameter to both loops, and the fusion by it.
struct MaskedFusion {
    config: KifConfig,
    inner: Sensitivity,
    outer: Sensitivity,
    scope: Scope,
    /// Where each tensor lies.
    tensors: Vec<Range<usize>>,
    /// What the masks of the last round chose of each tensor.
    regions: Option<Vec<Regions>>,
    /// Inner and outer scores of the task's first round, where they stay for all of them.
    held: Option<[Vec<f32>; 2]>,
}

impl MaskedFusion {
    fn new(config: KifConfig, layout: &ParamLayout) -> Self {
        let KifConfig {
            sensitivity_beta,
            uncertainty_beta,
            ..
        } = config;
        let average = || {
            Sensitivity::new(
                SensitivityConfig {
                    sensitivity_beta,
                    uncertainty_beta,
                },
                layout.n_params(),
            )
        };
        let specs = layout.specs().iter();
        let tensors: Vec<Range<usize>> = specs.map(|spec| spec.range.clone()).collect();
        let scope = match config.scope {
            KifScope::Global => Scope::Global,
            KifScope::PerTensor => Scope::PerTensor(tensors.clone()),
        };
        Self {
            config,
            inner: average(),
            outer: average(),
            scope,
            tensors,
            regions: None,
            held: None,
        }
    }

    fn update(&mut self, phase: Phase, params: &[f32], grads: &[f32]) {
        if self.held.is_some() {
            return;
        }
        match phase {
            Phase::Inner => self.inner.update(params, grads),
            Phase::Outer => self.outer.update(params, grads),
        }
    }
}

impl Rule for MaskedFusion {
    fn begin_task(&mut self) {
        self.inner.reset();
        self.outer.reset();
        self.held = None;
    }

    fn before_update(&mut self, phase: Phase, params: &[f32], grads: &[f32]) {
        if self.config.importance_weights == ImportanceWeights::Before {
            self.update(phase, params, grads);
        }
    }

    fn after_update(&mut self, phase: Phase, params: &[f32], grads: &[f32]) {
        if self.config.importance_weights == ImportanceWeights::After {
            self.update(phase, params, grads);
        }
    }

    fn combine(&mut self, theta: &mut [f32], inner_end: &[f32], outer_end: &[f32]) -> Result<()> {
        let scores = self.held.take().unwrap_or_else(|| {
            [&self.inner, &self.outer].map(|average| {
                let mut scores = Vec::new();
                average.scores_into(&mut scores);
                scores
            })
        });
        let mut deltas = [vec![0.0; theta.len()], vec![0.0; theta.len()]];
        delta(inner_end, theta, &mut deltas[0]);
        delta(outer_end, inner_end, &mut deltas[1]);
        match self.config.temperature {
            Some(tau) => {
                let [inner, outer] = [0, 1].map(|i| Scored {
                    delta: &deltas[i],
                    scores: &scores[i],
                });
                fuse_soft(theta, inner, outer, tau)?;
            }
            None => {
                let mask = |scores| mask_above_quantile(scores, self.config.quantile, &self.scope);
                let masks = [mask(&scores[0])?, mask(&scores[1])?];
                let of = |at: &Range<usize>| {
                    let [inner, outer] = masks.each_ref().map(|mask| &mask.as_slice()[at.clone()]);
                    Regions::count(inner, outer)
                };
                self.regions = Some(self.tensors.iter().map(of).collect());
                let [inner, outer] = [0, 1].map(|i| Update {
                    delta: &deltas[i],
                    mask: masks[i].as_slice(),
                });
                fuse_masked(theta, inner, outer, &self.config.weights);
            }
        }
        if self.config.estimated == Estimated::FirstRound {
            self.held = Some(scores);
        }
        self.inner.reset();
        if self.config.cleared == Cleared::InnerAndOuter {
            self.outer.reset();
        }
        Ok(())
    }

    fn take_regions(&mut self) -> Option<Vec<Regions>> {
        self.regions.take()
    }

    fn save_state(&self, state: &mut State) {
        for (name, average) in [("inner", &self.inner), ("outer", &self.outer)] {
            state.put(format!("method.{name}_sensitivity"), average.sensitivity());
            if let Some(uncertainty) = average.uncertainty() {
                state.put(format!("method.{name}_uncertainty"), uncertainty);
            }
        }
        if self.config.estimated == Estimated::FirstRound {
            state.put_counter("method.is_held", u64::from(self.held.is_some()));
        }
        if let Some([inner, outer]) = &self.held {
            state.put("method.inner_held", inner);
            state.put("method.outer_held", outer);
        }
    }

    fn load_state(&mut self, state: &State) -> Result<()> {
        let n = self.inner.sensitivity().len();
        for (name, average) in [("inner", &mut self.inner), ("outer", &mut self.outer)] {
            let sensitivity = state.tensor(&format!("method.{name}_sensitivity"), n)?;
            let uncertainty = match self.config.uncertainty_beta {
                Some(_) => Some(state.tensor(&format!("method.{name}_uncertainty"), n)?),
                None => None,
            };
            average.restore(sensitivity, uncertainty)?;
        }
        self.held = None;
        if self.config.estimated == Estimated::FirstRound
            && state.counter_up_to("method.is_held", 1)? == 1
        {
            let of = |name| Ok::<_, StateError>(state.tensor(name, n)?.to_vec());
            self.held = Some([of("method.inner_held")?, of("method.outer_held")?]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference::{Case, distance};
    use super::*;

    #[test]
    fn soft_fusion_is_that_of_numpy() {
        let case = Case::read("kif_soft");
        let vector = |name: &str| case.vector(name);
        let (d_in, d_out) = (vector("inner_delta"), vector("outer_delta"));
        let (s_in, s_out) = (vector("inner_scores"), vector("outer_scores"));
        let mut theta = vector("theta");
        let inner = Scored {
            delta: &d_in,
            scores: &s_in,
        };
        let outer = Scored {
            delta: &d_out,
            scores: &s_out,
        };
        fuse_soft(&mut theta, inner, outer, case.number("temperature")).unwrap();
        assert!(distance(&theta, &vector("fused")) < 1e-6);
    }
}
