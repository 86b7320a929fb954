//! Plain fine-tuning, task after task: one adapter, weights carried over, optimizer and schedule anew with each task.
//!
//! The lower reference of every continual-learning table ("SeqLoRA", "IncLoRA" without its penalty).

use super::Method;

/// Every default of [`Method`].
pub(super) struct SeqLora;

impl Method for SeqLora {}
