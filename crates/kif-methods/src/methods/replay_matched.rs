//! KIF's exact schedule of inner and memory steps without importance, masks or fusion: the control
//! that shows what the fusion itself adds.
//!
//! The default has the settings of `kif-paper`, its own outer AdamW included, so the two differ in
//! the fusion alone. Our own control, in no paper; the closest published row is the ablation "- KI"
//! of Recurrent-KIF.

use kif_model::ParamLayout;
use serde::{Deserialize, Serialize};

use super::two_loop::{InSequence, StepsOn, TwoLoop, TwoLoopConfig};
use super::{Method, MethodSpec};
use crate::error::SettingError;

/// Steps of both loops.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReplayMatchedConfig(pub TwoLoopConfig);

impl MethodSpec for ReplayMatchedConfig {
    fn presets() -> Vec<Self> {
        vec![Self(TwoLoopConfig::paper())]
    }

    fn name(&self) -> &'static str {
        "replay_matched"
    }

    fn summary(&self) -> &'static str {
        "KIF's inner and memory steps without masks or fusion"
    }

    fn check(&self) -> Result<(), SettingError> {
        self.0.check()
    }

    fn added_steps(&self) -> f64 {
        self.0.added_steps()
    }

    fn without_accumulation(&mut self) {
        self.0.outer_loss_scale = 1.0;
    }

    fn keeps_memory(&self) -> bool {
        true
    }

    fn build(&self, _: &ParamLayout) -> Box<dyn Method> {
        Box::new(TwoLoop::new(self.0, StepsOn::Memory, InSequence))
    }
}
