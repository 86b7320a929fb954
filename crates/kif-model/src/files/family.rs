//! Decoder-only architectures, and what tells them apart.

use serde::{Deserialize, Serialize};

/// transformers' names of layers that see everything, and of those that see a window.
pub(super) const LAYER_TYPES: [&str; 2] = ["full_attention", "sliding_attention"];

/// Decoder-only architectures. What one has that others have not is a function below.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// Llama 2 and 3, and what took over its layers.
    Llama,
    /// Llama's layers, of which all may see only a window.
    Mistral,
    /// Biases on q, k and v.
    Qwen2,
    /// Norms of every head of q and k.
    Qwen3,
    /// The language model of Gemma 3: head norms, norms around both blocks, GELU, a scaled
    /// embedding, and layers that see only a window.
    Gemma3,
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Llama,
        Self::Mistral,
        Self::Qwen2,
        Self::Qwen3,
        Self::Gemma3,
    ];

    /// `model_type` in `config.json`.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Gemma3 => "gemma3_text",
        }
    }

    /// The entry of `architectures`.
    pub fn architecture(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
            Self::Gemma3 => "Gemma3ForCausalLM",
        }
    }

    /// Whether q, k and v have a bias.
    pub fn has_biases(self) -> bool {
        self == Self::Qwen2
    }

    /// Whether every head of q and k is normed.
    pub fn has_head_norms(self) -> bool {
        matches!(self, Self::Qwen3 | Self::Gemma3)
    }

    /// Whether what a block adds to the residual stream is normed, too.
    pub fn has_output_norms(self) -> bool {
        self == Self::Gemma3
    }

    /// Whether the gates of the feed-forward blocks are GELU (in its tanh form), not SiLU.
    pub fn has_gelu(self) -> bool {
        self == Self::Gemma3
    }

    /// Whether embeddings are multiplied by the square root of their width.
    pub fn scales_embeddings(self) -> bool {
        self == Self::Gemma3
    }

    /// What is added to the stored gains of norms: a gain of 1 is stored as 1 minus this.
    pub fn norm_offset(self) -> f32 {
        match self {
            Self::Gemma3 => 1.0,
            Self::Llama | Self::Mistral | Self::Qwen2 | Self::Qwen3 => 0.0,
        }
    }

    /// Whether layers may see only a window.
    pub fn has_windows(self) -> bool {
        matches!(self, Self::Mistral | Self::Gemma3)
    }

    /// transformers' name of the activation, and the field that it stands in.
    pub(super) fn activation(self) -> (&'static str, &'static str) {
        if self.has_gelu() {
            ("hidden_activation", "gelu_pytorch_tanh")
        } else {
            ("hidden_act", "silu")
        }
    }
}
