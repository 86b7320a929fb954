//! DER++: steps on the memory learn its answers and what the model predicted for its rows when they
//! were new (Buzzega et al., *Dark Experience for General Continual Learning: a Strong, Simple
//! Baseline*, NeurIPS 2020, arXiv 2004.07211).
//!
//! Theirs takes squared distances of all logits, in every step; here it is a divergence from the
//! likeliest tokens, in KIF's schedule of inner and memory steps: the default differs from
//! `replay_matched` in the kept predictions alone.

use kif_model::ParamLayout;
use serde::{Deserialize, Serialize};

use super::two_loop::{InSequence, StepsOn, TwoLoop, TwoLoopConfig};
use super::{Distillation, Method, MethodSpec};
use crate::error::{SettingError, check_setting};

/// Steps of both loops, with kept predictions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DerConfig(pub TwoLoopConfig);

impl MethodSpec for DerConfig {
    fn presets() -> Vec<Self> {
        vec![Self(TwoLoopConfig {
            distillation: Some(Distillation {
                share: 0.5,
                top_k: 32,
            }),
            ..TwoLoopConfig::paper()
        })]
    }

    fn name(&self) -> &'static str {
        "der"
    }

    fn summary(&self) -> &'static str {
        "memory steps on answers and on kept predictions (DER++)"
    }

    fn check(&self) -> Result<(), SettingError> {
        let expected = "some: without it this is `replay_matched`";
        let is_some = self.0.distillation.is_some();
        check_setting(is_some, "distillation", "none", expected)?;
        self.0.check()
    }

    fn added_steps(&self) -> f64 {
        self.0.added_steps()
    }

    fn without_accumulation(&mut self) {
        self.0.outer_loss_scale = 1.0;
    }

    fn needs_stream(&self) -> bool {
        true
    }

    fn keeps_memory(&self) -> bool {
        true
    }

    fn build(&self, _: &ParamLayout) -> Box<dyn Method> {
        Box::new(TwoLoop::new(self.0, StepsOn::Memory, InSequence))
    }
}
