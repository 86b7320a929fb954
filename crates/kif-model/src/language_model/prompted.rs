//! Models with soft prompts.

use super::Capability;
use crate::ModelError;

/// A model that reads soft prompts in front of the text ([`PromptConfig`](crate::PromptConfig)).
pub trait Prompted {
    /// The prompts that take part from now on, by number and in order; without any, the model is
    /// its base.
    fn activate_prompts(&mut self, prompts: &[usize]) -> Result<(), ModelError>;

    /// What was last activated; nothing in a fresh model.
    fn active_prompts(&self) -> &[usize];
}

impl Capability for dyn Prompted + '_ {
    const WANTED: &'static str = "a soft prompt in a model without them";
}
