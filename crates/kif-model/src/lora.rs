//! What an adapter is: rank, scale, dropout and the modules that it sits on.

use serde::{Deserialize, Serialize};

use crate::ModelError;

/// Every module name that LoRA can sit on in any model of this crate, as PEFT spells it.
pub const LORA_TARGETS: [&str; 15] = [
    "q",
    "k",
    "v",
    "o",
    "wi",
    "wi_0",
    "wi_1",
    "wo",
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
];

/// Largest rank that is accepted; larger ones are taken for a broken file.
pub const MAX_RANK: usize = 256;

/// A low-rank adapter: `y = W x + alpha / rank * B A dropout(x)` on every target module.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
// The name is that of a protocol's files and of the messages about them.
#[serde(rename = "AdapterSettings", deny_unknown_fields, default)]
pub struct LoraConfig {
    /// Rank R of A `[R, in]` and B `[out, R]` (published: 8). In `1..=256`.
    pub rank: usize,
    /// Numerator of the scale `alpha / rank` (published: 32). Positive.
    pub alpha: f32,
    /// Dropout on the input of A while training (published: 0.05). In `[0, 1)`.
    pub dropout: f32,
    /// Names of the modules that get an adapter (published: q and v, in Llama q_proj and v_proj;
    /// [`ModelConfig::own_targets`](crate::ModelConfig::own_targets) makes the latter of the
    /// former).
    pub targets: Vec<String>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 32.0,
            dropout: 0.05,
            targets: vec!["q".to_owned(), "v".to_owned()],
        }
    }
}

impl LoraConfig {
    /// `alpha / rank`, the factor of B A.
    pub fn scale(&self) -> f32 {
        self.alpha / self.rank as f32
    }

    /// The adapter that `n_slots` adapters with these settings make side by side: rank and alpha
    /// times `n_slots`, so every slot has the scale of one.
    /// [`ParamLayout::slot`](crate::ParamLayout::slot) says where each one lies.
    pub fn side_by_side(self, n_slots: usize) -> Self {
        Self {
            rank: self.rank * n_slots,
            alpha: self.alpha * n_slots as f32,
            ..self
        }
    }

    /// Checks all bounds; whether the model has the targets is the model's to say.
    pub fn validate(&self) -> Result<(), ModelError> {
        let bad = |field, problem| Err(ModelError::Lora { field, problem });
        if !(1..=MAX_RANK).contains(&self.rank) {
            return bad("rank", format!("{} is outside 1..={MAX_RANK}", self.rank));
        }
        if !(self.alpha.is_finite() && self.alpha > 0.0) {
            return bad("alpha", format!("{} is not a positive number", self.alpha));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return bad("dropout", format!("{} is outside [0, 1)", self.dropout));
        }
        if self.targets.is_empty() {
            return bad("targets", "no module is named".to_owned());
        }
        for (i, target) in self.targets.iter().enumerate() {
            if !LORA_TARGETS.contains(&target.as_str()) {
                let known = LORA_TARGETS.map(str::to_owned).to_vec();
                return Err(ModelError::UnknownTarget {
                    target: target.clone(),
                    known,
                });
            }
            if self.targets[..i].contains(target) {
                return bad("targets", format!("{target} is named twice"));
            }
        }
        Ok(())
    }
}
