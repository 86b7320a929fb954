//! What a method trains beside or in the place of one LoRA.

use kif_model::{LoraConfig, ModelError, PromptConfig, Router, Routing, Trainable};

/// What a method trains, for a stream of a known length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// Adapters side by side ([`ParamLayout::with_slots`](kif_model::ParamLayout::with_slots)).
    pub n_slots: usize,
    /// What says how much each of them counts; without, they add up.
    pub router: Option<Router>,
    /// Soft prompts, in the place of any adapter.
    pub prompts: Option<PromptConfig>,
}

impl Default for Parts {
    fn default() -> Self {
        Self {
            n_slots: 1,
            router: None,
            prompts: None,
        }
    }
}

impl Parts {
    /// Adapters side by side that add up.
    pub fn slots(n_slots: usize) -> Self {
        Self {
            n_slots,
            ..Self::default()
        }
    }

    /// Soft prompts in the place of an adapter.
    pub fn prompts(prompts: PromptConfig) -> Self {
        Self {
            prompts: Some(prompts),
            ..Self::default()
        }
    }

    /// What the model is to train, where one adapter would be `lora`.
    pub fn trainable(&self, lora: LoraConfig) -> Trainable {
        let adapters = || lora.side_by_side(self.n_slots);
        match (self.prompts, self.router) {
            (Some(prompts), _) => Trainable::Prompts(prompts),
            (None, None) => Trainable::Adapter(adapters()),
            (None, Some(router)) => {
                Trainable::Routed(adapters(), Routing::new(self.n_slots, router))
            }
        }
    }

    /// Whether the model can have that.
    pub fn check(&self, lora: LoraConfig) -> Result<(), ModelError> {
        self.trainable(lora).validate()
    }
}
