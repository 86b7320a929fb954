//! KIF's schedule of steps, then half of both updates everywhere, without importance or masks: the control that shows
//! what the masks add to the released code.
//!
//! The released code gives (0.5, 0.5) to parameters that neither loop finds important, 60 to 80 % of all, so most of
//! its effect could be that of halved steps. The default has the settings of `kif-released`, so the two differ in the
//! masks alone. Our own control, in no paper.

use anyhow::Result;
use kif_fusion::{FusionWeights, Update, delta, fuse_masked};

use super::Method;
use super::two_loop::{Rule, Source, TwoLoop, TwoLoopConfig};

/// The two loops, averaged.
pub(super) fn method(config: TwoLoopConfig) -> impl Method {
    TwoLoop::new(config, Source::Memory, HalfOfBoth)
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
