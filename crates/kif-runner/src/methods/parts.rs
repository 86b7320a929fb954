//! What a method trains beside or in the place of one LoRA.

use kif_model::{LoraConfig, ModelError, PromptConfig, Trainable};

/// What a method trains, for a stream of a known length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// Adapters side by side ([`ParamLayout::with_slots`](kif_model::ParamLayout::with_slots)).
    pub n_slots: usize,
    /// Soft prompts, in the place of any adapter.
    pub prompts: Option<PromptConfig>,
}

impl Default for Parts {
    fn default() -> Self {
        Self {
            n_slots: 1,
            prompts: None,
        }
    }
}

impl Parts {
    /// What the model is to train, where one adapter would be `lora`.
    pub fn trainable(&self, lora: LoraConfig) -> Trainable {
        match self.prompts {
            Some(prompts) => Trainable::Prompts(prompts),
            None => Trainable::Adapter(lora.side_by_side(self.n_slots)),
        }
    }

    /// Whether the model can have that.
    pub fn check(&self, lora: LoraConfig) -> Result<(), ModelError> {
        match self.trainable(lora) {
            Trainable::Prompts(prompts) => prompts.validate(),
            Trainable::Adapter(lora) => lora.validate(),
            Trainable::All => Ok(()),
        }
    }
}
