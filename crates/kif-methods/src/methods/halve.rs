//! KIF's schedule of steps, then half of both updates everywhere, without importance or masks: the
//! control that shows what the masks add to the released code.
//!
//! The released code gives (0.5, 0.5) to parameters that neither loop finds important, 60 to 80 %
//! of all, so most of its effect could be that of halved steps. The default has the settings of
//! `kif-released`, so the two differ in the masks alone. Our own control, in no paper.

use anyhow::Result;
use kif_fusion::{FusionWeights, Update, delta, fuse_masked};
use kif_model::ParamLayout;
use serde::{Deserialize, Serialize};

use super::two_loop::{Rule, StepsOn, TwoLoop, TwoLoopConfig};
use super::{Method, MethodSpec};
use crate::error::SettingError;

/// Steps of both loops.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HalveConfig(pub TwoLoopConfig);

impl MethodSpec for HalveConfig {
    fn presets() -> Vec<Self> {
        vec![Self(TwoLoopConfig::released())]
    }

    fn name(&self) -> &'static str {
        "halve"
    }

    fn summary(&self) -> &'static str {
        "KIF's steps, then half of both updates everywhere"
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
        Box::new(TwoLoop::new(self.0, StepsOn::Memory, HalfOfBoth))
    }
}

/// `theta + delta_in / 2 + delta_out / 2`.
struct HalfOfBoth;

impl Rule for HalfOfBoth {
    fn combine(&mut self, theta: &mut [f32], inner_end: &[f32], outer_end: &[f32]) -> Result<()> {
        let mut deltas = [vec![0.0; theta.len()], vec![0.0; theta.len()]];
        delta(inner_end, theta, &mut deltas[0]);
        delta(outer_end, inner_end, &mut deltas[1]);
        let mask = vec![false; theta.len()];
        let [inner, outer] = deltas.each_ref().map(|delta| Update { delta, mask: &mask });
        fuse_masked(theta, inner, outer, &FusionWeights::HALVES);
        Ok(())
    }
}
