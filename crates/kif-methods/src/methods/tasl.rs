//! TaSL, hard consolidation: after a task every matrix is taken from before it or from after it, as
//! its importance to either says (Feng et al., *TaSL: Continual Dialog State Tracking via Task
//! Skill Localization and Consolidation*, ACL 2024, and its extension, arXiv 2408.05200).
//!
//! Units are matrices (`skills.rs`). A unit matters to the past, or to the present task, if its
//! importance is above the quantile of all units. Only to the past: it goes back to where the task
//! began. Only to the present: it stays. To both: 0.7 of the past and 0.3 of the present. To
//! neither: half of both. No memory; the first task is plain fine-tuning.

use anyhow::Result;
use kif_data::Batch;
use kif_importance::{SensitivityConfig, quantile};
use kif_model::ParamLayout;
use serde::{Deserialize, Serialize};

use super::skills::{Consolidated, Consolidation, Skills, Unit};
use super::{Method, MethodSpec};
use crate::error::{SettingError, check_setting};
use crate::learner::Learner;

/// How importance is smoothed, and what makes a unit important.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaslConfig {
    /// Decay of sensitivity and uncertainty (published code: 0.85). In `[0, 1)`.
    pub beta: f32,
    /// Units matter above this quantile of all units (published: 0.8). In `[0, 1]`.
    pub quantile: f64,
    /// Weight of the past, in the importance that is carried on and in units that matter to both
    /// (published: 0.7). In `[0, 1]`.
    pub past_share: f64,
}

impl Default for TaslConfig {
    fn default() -> Self {
        Self {
            beta: 0.85,
            quantile: 0.8,
            past_share: 0.7,
        }
    }
}

impl MethodSpec for TaslConfig {
    fn presets() -> Vec<Self> {
        vec![Self::default()]
    }

    fn name(&self) -> &'static str {
        "tasl"
    }

    fn summary(&self) -> &'static str {
        "matrices from before or after a task, by importance"
    }

    fn check(&self) -> Result<(), SettingError> {
        check_beta(self.beta)?;
        let shares = [("quantile", self.quantile), ("past_share", self.past_share)];
        for (field, value) in shares {
            let fine = (0.0..=1.0).contains(&value);
            check_setting(fine, field, value, "a number in [0, 1]")?;
        }
        Ok(())
    }

    fn needs_stream(&self) -> bool {
        true
    }

    fn build(&self, layout: &ParamLayout) -> Box<dyn Method> {
        let skills = Skills::new(
            Unit::matrices(layout),
            averages(self.beta),
            layout.n_params(),
        );
        Box::new(Consolidated::new(*self, skills))
    }
}

/// Whether importance is smoothed.
pub(super) fn check_beta(beta: f32) -> Result<(), SettingError> {
    let fine = (0.0..1.0).contains(&beta);
    check_setting(fine, "beta", beta, "a number in [0, 1)")
}

/// Sensitivity times uncertainty, both smoothed alike.
pub(super) fn averages(beta: f32) -> SensitivityConfig {
    SensitivityConfig {
        sensitivity_beta: beta,
        uncertainty_beta: Some(beta),
    }
}

/// The weight of the present in every unit, by importance to the present and to the past,
/// `[units]`.
fn weights(present: &[f32], past: &[f32], config: &TaslConfig) -> Result<Vec<f32>> {
    let thresholds = (
        quantile(present, config.quantile)?,
        quantile(past, config.quantile)?,
    );
    let both = (1.0 - config.past_share) as f32;
    let weight = |(now, before): (&f32, &f32)| match (*now > thresholds.0, *before > thresholds.1) {
        (true, true) => both,
        (true, false) => 1.0,
        (false, true) => 0.0,
        (false, false) => 0.5,
    };
    Ok(present.iter().zip(past).map(weight).collect())
}

impl Consolidation for TaslConfig {
    fn step(&self, skills: &mut Skills, learner: &mut Learner, batch: &Batch) -> Result<f64> {
        let loss = learner.gradient(batch)?;
        skills.update(learner.params(), learner.grad());
        learner.apply()?;
        Ok(loss)
    }

    fn weights(&self, present: &[f32], past: &[f32]) -> Result<Vec<f32>> {
        weights(present, past, self)
    }

    fn past_share(&self) -> f64 {
        self.past_share
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference::{Case, distance};
    use super::*;

    #[test]
    fn hard_weights_are_those_of_numpy() {
        let case = Case::read("skills");
        let config = TaslConfig {
            quantile: case.number("quantile"),
            past_share: case.number("share"),
            ..TaslConfig::default()
        };
        let found = weights(&case.vector("present"), &case.vector("past"), &config).unwrap();
        let expected = case.vector("hard");
        assert!(distance(&found, &expected) < 1e-6);
        for kind in [0.0, 0.5, 1.0, 0.3] {
            let n = expected
                .iter()
                .filter(|w| (**w - kind).abs() < 1e-6)
                .count();
            assert!(n > 0, "no unit has the weight {kind}");
        }
    }
}
