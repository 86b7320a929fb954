//! Recurrent-KIF: Recurrent Knowledge Identification and Fusion (Feng et al., ACL 2025, arXiv
//! 2502.17510).
//!
//! In every round the inner loop adapts to the task and the outer loop to the memory; both estimate
//! on the way which parameters matter to them. Then each update is kept where it matters: per
//! parameter, the two masks choose one of four pairs of weights. [`KifConfig::paper`] is what the
//! paper states, [`KifConfig::released`] what the authors' T5 code does; the field docs say where
//! they differ. The variants of the paper's ablation are the paper's settings but for one each.

mod stored;

use std::ops::Range;

use anyhow::Result;
use kif_fusion::{FusionWeights, Regions, Scored, Update, delta, fuse_masked, fuse_soft};
use kif_importance::{Scope, Sensitivity, SensitivityConfig, mask_above_quantile};
use kif_model::ParamLayout;
use serde::{Deserialize, Serialize};

use super::two_loop::{Loop, OuterOptimizer, Rule, StepsOn, TwoLoop, TwoLoopConfig};
use super::{Method, MethodSpec};
use crate::error::{SettingError, check_setting};
use crate::state::{State, StateError};

/// Every setting of Recurrent-KIF.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "stored::StoredKif")]
pub struct KifConfig {
    /// The steps of both loops (paper's Q and M, and released code: 8 and 4).
    pub two_loop: TwoLoopConfig,
    /// Decay of the moving average of `|w g|`, inner and outer alike (paper's alpha1 = alpha2:
    /// 0.55; released code's beta1: 0.85).
    pub sensitivity_beta: f32,
    /// Decay of the moving average of its variation (released code's beta2: 0.85). With it the
    /// score is sensitivity times uncertainty, as in AdaLoRA; without (paper) it is the
    /// sensitivity.
    pub uncertainty_beta: Option<f32>,
    /// How a round's two updates become one (both: masked).
    pub fusion: KifFusion,
    /// The weights in `|w g|` (paper: those that the gradient belongs to; released code: those
    /// after the update).
    pub importance_weights: ImportanceWeights,
    /// The averages that start anew with every round (paper: both; released code: the inner one).
    pub cleared: ClearedAverages,
    /// How often the importance is estimated anew (both: in every round).
    pub estimated: EstimatedIn,
}

/// How a round's two updates become one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum KifFusion {
    /// By two masks, of what matters to either loop.
    Masked {
        /// A parameter matters if its score is strictly above this quantile (both: 0.8, the top 20
        /// %).
        quantile: f64,
        /// What the quantile is taken over (both: global).
        scope: KifScope,
        /// Weights of the inner and the outer update by what the masks say (paper: 1 where its mask
        /// is set, 0 elsewhere; released code: 0.4/0.6 where both are, 0.5/0.5 where none is).
        weights: FusionWeights,
    },
    /// By a softmax over the two scores of a parameter, without masks.
    Soft {
        /// Temperature of the softmax (TaSL's counterpart: 0.25). Above 0.
        temperature: f64,
    },
}

/// How often the importance is estimated anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EstimatedIn {
    /// In every round.
    #[default]
    EveryRound,
    /// In the first round of a task, for the whole task: importance that does not follow the
    /// training.
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
pub enum ClearedAverages {
    /// Those of both loops.
    InnerAndOuter,
    /// Those of the inner loop; the outer ones run over the whole task.
    InnerOnly,
}

impl KifConfig {
    /// As the paper states it.
    pub fn paper() -> Self {
        Self {
            two_loop: TwoLoopConfig::paper(),
            sensitivity_beta: 0.55,
            uncertainty_beta: None,
            fusion: KifFusion::PAPER,
            importance_weights: ImportanceWeights::Before,
            cleared: ClearedAverages::InnerAndOuter,
            estimated: EstimatedIn::EveryRound,
        }
    }

    /// As the released T5 code does it.
    pub fn released() -> Self {
        Self {
            two_loop: TwoLoopConfig::released(),
            sensitivity_beta: 0.85,
            uncertainty_beta: Some(0.85),
            fusion: KifFusion::PAPER.with_weights(FusionWeights::RELEASED),
            importance_weights: ImportanceWeights::After,
            cleared: ClearedAverages::InnerOnly,
            estimated: EstimatedIn::EveryRound,
        }
    }

    /// As the released LLaMA code does it: its T5 code, but for the memory steps. They are made by
    /// an optimizer of their own whose schedule is never stepped, so that its rate stays 0 and the
    /// memory only shapes the masks.
    pub fn released_llama() -> Self {
        let mut config = Self::released();
        config.two_loop.outer_optimizer = OuterOptimizer::Own { lr: 0.0 };
        config
    }

    /// The best that was found on validation rows of the standard benchmark's first order, with a
    /// small base (`docs/reproduction.md` has the search): the released code's importance and
    /// weights, but memory steps by an AdamW of their own at a constant 5e-4, on the whole loss.
    pub fn ours() -> Self {
        let mut config = Self::released();
        config.two_loop.outer_optimizer = OuterOptimizer::Own { lr: 5e-4 };
        config.two_loop.outer_loss_scale = 1.0;
        config
    }
}

impl KifFusion {
    /// As the paper states it.
    pub const PAPER: Self = Self::Masked {
        quantile: 0.8,
        scope: KifScope::Global,
        weights: FusionWeights::PAPER,
    };

    /// The same masks with other weights; soft fusion has none.
    pub fn with_weights(self, weights: FusionWeights) -> Self {
        match self {
            Self::Masked {
                quantile, scope, ..
            } => Self::Masked {
                quantile,
                scope,
                weights,
            },
            Self::Soft { .. } => self,
        }
    }

    fn check(&self) -> Result<(), SettingError> {
        match *self {
            Self::Masked {
                quantile, weights, ..
            } => {
                let fine = (0.0..=1.0).contains(&quantile);
                check_setting(fine, "quantile", quantile, "a number in [0, 1]")?;
                let finite = weights.check().is_ok();
                check_setting(finite, "weights", format!("{weights:?}"), "finite numbers")
            }
            Self::Soft { temperature: tau } => {
                let fine = tau.is_finite() && tau > 0.0;
                check_setting(fine, "temperature", tau, "a finite number above 0")
            }
        }
    }
}

/// All settings with a name: the paper's, the released code's for T5 and LLaMA, ours, and the
/// variants of the paper's ablation (its table on the long benchmark), which differ from the
/// paper's in one point each. Beside each its line for tables and help.
fn named() -> [(&'static str, KifConfig, &'static str); 10] {
    const FUSED: &str = "Recurrent-KIF: masked fusion of inner and memory updates";
    let paper = KifConfig::paper();
    let fused = |fusion| KifConfig { fusion, ..paper };
    let weighted = |weights| fused(KifFusion::PAPER.with_weights(weights));
    let without_shared = FusionWeights {
        both: (0.0, 0.0),
        ..FusionWeights::PAPER
    };
    let from_first_round = KifConfig {
        estimated: EstimatedIn::FirstRound,
        ..paper
    };
    let local = KifFusion::Masked {
        quantile: 0.8,
        scope: KifScope::PerTensor,
        weights: FusionWeights::PAPER,
    };
    [
        ("kif-paper", paper, FUSED),
        ("kif-released", KifConfig::released(), FUSED),
        (
            "kif-released-llama",
            KifConfig::released_llama(),
            "Recurrent-KIF as the released LLaMA code runs: the memory moves nothing",
        ),
        (
            "kif-ours",
            KifConfig::ours(),
            "Recurrent-KIF, the best setting found on validation rows",
        ),
        (
            "kif-static",
            from_first_round,
            "Recurrent-KIF, masks of a task's first round for all of it (ablation)",
        ),
        (
            "kif-no-masks",
            weighted(FusionWeights::everywhere(1.0, 1.0)),
            "Recurrent-KIF, both updates in full everywhere (ablation)",
        ),
        (
            "kif-global",
            weighted(FusionWeights::HALVES),
            "Recurrent-KIF, half of both updates everywhere (ablation)",
        ),
        (
            "kif-soft",
            fused(KifFusion::Soft { temperature: 0.25 }),
            "Recurrent-KIF, weights by importance without masks (ablation)",
        ),
        (
            "kif-no-share",
            weighted(without_shared),
            "Recurrent-KIF, parameters in both masks stay (ablation)",
        ),
        (
            "kif-local",
            fused(local),
            "Recurrent-KIF, each matrix with its own threshold (ablation)",
        ),
    ]
}

/// Name and line of the preset that `config` is, also without the divisor of accumulation.
fn preset(config: &KifConfig) -> Option<(&'static str, &'static str)> {
    let is = |preset: KifConfig| {
        let mut whole = preset;
        whole.without_accumulation();
        *config == preset || *config == whole
    };
    let found = named().into_iter().find(|(_, preset, _)| is(*preset));
    found.map(|(name, _, summary)| (name, summary))
}

impl MethodSpec for KifConfig {
    fn presets() -> Vec<Self> {
        named().map(|(_, config, _)| config).to_vec()
    }

    /// The name of its preset; otherwise `kif-custom`.
    fn name(&self) -> &'static str {
        preset(self).map_or("kif-custom", |(name, _)| name)
    }

    fn summary(&self) -> &'static str {
        let [(_, _, of_any), ..] = named();
        preset(self).map_or(of_any, |(_, summary)| summary)
    }

    fn check(&self) -> Result<(), SettingError> {
        let decay = |beta: f32| (0.0..1.0).contains(&beta);
        self.two_loop.check()?;
        check_setting(
            decay(self.sensitivity_beta),
            "sensitivity_beta",
            self.sensitivity_beta,
            "a number in [0, 1)",
        )?;
        if let Some(beta) = self.uncertainty_beta {
            check_setting(decay(beta), "uncertainty_beta", beta, "a number in [0, 1)")?;
        }
        self.fusion.check()
    }

    fn keeps_memory(&self) -> bool {
        true
    }

    fn added_steps(&self) -> f64 {
        self.two_loop.added_steps()
    }

    fn without_accumulation(&mut self) {
        self.two_loop.outer_loss_scale = 1.0;
    }

    fn build(&self, layout: &ParamLayout) -> Box<dyn Method> {
        let rule = KifRule::new(*self, layout);
        Box::new(TwoLoop::new(self.two_loop, StepsOn::Memory, rule))
    }
}

/// Importance of every parameter to both loops, and the fusion by it.
struct KifRule {
    config: KifConfig,
    inner: Sensitivity,
    outer: Sensitivity,
    /// Where each tensor lies.
    tensors: Vec<Range<usize>>,
    /// What the masks of the last round chose of each tensor.
    regions: Option<Vec<Regions>>,
    /// Inner and outer scores of the task's first round, where they stay for all of them.
    held: Option<[Vec<f32>; 2]>,
}

impl KifRule {
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
        Self {
            config,
            inner: average(),
            outer: average(),
            tensors,
            regions: None,
            held: None,
        }
    }

    fn update(&mut self, which: Loop, params: &[f32], grads: &[f32]) {
        if self.held.is_some() {
            return;
        }
        match which {
            Loop::Inner => self.inner.update(params, grads),
            Loop::Outer => self.outer.update(params, grads),
        }
    }
}

impl Rule for KifRule {
    fn begin_task(&mut self) {
        self.inner.reset();
        self.outer.reset();
        self.held = None;
    }

    fn before_update(&mut self, which: Loop, params: &[f32], grads: &[f32]) {
        if self.config.importance_weights == ImportanceWeights::Before {
            self.update(which, params, grads);
        }
    }

    fn after_update(&mut self, which: Loop, params: &[f32], grads: &[f32]) {
        if self.config.importance_weights == ImportanceWeights::After {
            self.update(which, params, grads);
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
        let [inner, outer] = &deltas;
        match self.config.fusion {
            KifFusion::Soft { temperature } => {
                let of = |delta, i: usize| Scored {
                    delta,
                    scores: &scores[i],
                };
                fuse_soft(theta, of(inner, 0), of(outer, 1), temperature)?;
            }
            KifFusion::Masked {
                quantile,
                scope,
                weights,
            } => {
                let scope = match scope {
                    KifScope::Global => Scope::Global,
                    KifScope::PerTensor => Scope::PerTensor(self.tensors.clone()),
                };
                let mask = |scores| mask_above_quantile(scores, quantile, &scope);
                let masks = [mask(&scores[0])?, mask(&scores[1])?];
                let of = |at: &Range<usize>| {
                    let [inner, outer] = masks.each_ref().map(|mask| &mask.as_slice()[at.clone()]);
                    Regions::count(inner, outer)
                };
                self.regions = Some(self.tensors.iter().map(of).collect());
                let update = |delta, i: usize| Update {
                    delta,
                    mask: masks[i].as_slice(),
                };
                fuse_masked(theta, update(inner, 0), update(outer, 1), &weights);
            }
        }
        if self.config.estimated == EstimatedIn::FirstRound {
            self.held = Some(scores);
        }
        self.inner.reset();
        if self.config.cleared == ClearedAverages::InnerAndOuter {
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
        if self.config.estimated == EstimatedIn::FirstRound {
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
        if self.config.estimated == EstimatedIn::FirstRound
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
