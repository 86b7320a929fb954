//! KIF's exact schedule of inner and memory steps without importance, masks or fusion: the control that shows what the
//! fusion itself adds.
//!
//! The default has the settings of `kif-paper`, its own outer AdamW included, so the two differ in the fusion alone.
//! Our own control, in no paper; the closest published row is the ablation "- KI" of Recurrent-KIF.

use super::Method;
use super::two_loop::{InSequence, Source, TwoLoop, TwoLoopConfig};

/// The two loops, one after the other.
pub(super) fn method(config: TwoLoopConfig) -> impl Method {
    TwoLoop::new(config, Source::Memory, InSequence)
}
