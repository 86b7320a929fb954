#![doc = include_str!("../README.md")]
//!
//! # What is where
//!
//! A learner that moved from `theta` over `mid` (steps on the current task) to `end` (steps on the
//! memory) has two task vectors, [`delta`]s; [`fuse_masked`] adds them to `theta` with weights that
//! depend on which of the two found a parameter important, [`fuse_soft`] with weights that follow
//! from the importances themselves. [`weighted_average`] combines whole parameter vectors,
//! [`Regions`] counts what two masks say. All slices are flat `[P]`, in layout order.

mod delta;
mod error;
mod masked;
mod regions;
mod soft;
mod weighted;

pub use delta::delta;
pub use error::FusionError;
pub use masked::{FusionWeights, Update, fuse_masked};
pub use regions::Regions;
pub use soft::{Scored, fuse_soft};
pub use weighted::weighted_average;

/// Elements per parallel chunk: the slices of one pass fit a core's L2 cache.
const CHUNK: usize = 1 << 14;

/// Shorter slices are done by the calling thread: starting others would take longer.
const MIN_PARALLEL: usize = 1 << 16;
