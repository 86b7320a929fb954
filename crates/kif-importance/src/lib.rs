#![doc = include_str!("../README.md")]
//!
//! # What is where
//!
//! [`Sensitivity`] and [`Fisher`] turn gradients into non-negative scores, one per parameter;
//! [`quantile`] finds the score that a given share of the parameters stays below;
//! [`mask_above_quantile`] marks the parameters above it. Parameters, gradients and scores are flat
//! `[P]` slices in layout order.

mod error;
mod fisher;
mod mask;
mod parallel;
mod sensitivity;
mod threshold;

pub use error::ImportanceError;
pub use fisher::{Fisher, add_squares};
pub use mask::{Mask, Scope, mask_above, mask_above_quantile};
pub use sensitivity::{Sensitivity, SensitivityConfig};
pub use threshold::quantile;
