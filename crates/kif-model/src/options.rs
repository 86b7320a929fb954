//! How a model is to be run: where, by whom, in which precision, and what is trained.

use serde::{Deserialize, Serialize};

use crate::{LoraConfig, ModelError, PromptConfig, Routing};

/// Where the arithmetic happens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceKind {
    /// This machine's processor.
    #[default]
    Cpu,
    /// The first NVIDIA GPU; needs the feature `cuda`.
    Cuda,
}

/// Who does the arithmetic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineKind {
    /// Our own kernels, for the CPU or for a GPU.
    #[default]
    Fused,
    /// dfdx's own operations: slow on the CPU, and the reference for tests.
    Stock,
}

/// How frozen weights are kept; trainable ones are always f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// 32-bit floats.
    #[default]
    F32,
    /// bfloat16 weights with f32 sums; on the CPU.
    Bf16,
    /// Half precision; on a GPU.
    F16,
    /// Matrices of linear layers in 8 bits with a scale for every row, embedding and output head in
    /// bfloat16; on the CPU.
    Int8,
}

impl Precision {
    /// That of weights on the CPU; f16 is none, and is refused before.
    pub(crate) fn on_cpu(self) -> kif_kernels::Precision {
        match self {
            Self::F32 | Self::F16 => kif_kernels::Precision::F32,
            Self::Bf16 => kif_kernels::Precision::Bf16,
            Self::Int8 => kif_kernels::Precision::Int8,
        }
    }
}

/// What training may change.
#[derive(Clone, Debug, PartialEq)]
pub enum Trainable {
    /// A LoRA adapter over the frozen base.
    Adapter(LoraConfig),
    /// LoRA adapters side by side over the frozen base, which share the work as the router says.
    /// The settings are those of all together ([`LoraConfig::side_by_side`]).
    Routed(LoraConfig, Routing),
    /// Soft prompts in front of a frozen base, without an adapter.
    Prompts(PromptConfig),
    /// Every weight of the base: pretraining.
    All,
}

impl Trainable {
    /// The adapter, where one is trained.
    pub fn lora(&self) -> Option<&LoraConfig> {
        match self {
            Self::Adapter(lora) | Self::Routed(lora, _) => Some(lora),
            Self::Prompts(_) | Self::All => None,
        }
    }

    /// What chooses between adapters, where something does.
    pub fn routing(&self) -> Option<Routing> {
        match self {
            Self::Routed(_, routing) => Some(*routing),
            Self::Adapter(_) | Self::Prompts(_) | Self::All => None,
        }
    }

    /// Checks all bounds; whether the model has the adapter's targets is the model's to say.
    pub fn validate(&self) -> Result<(), ModelError> {
        match self {
            Self::Adapter(lora) => lora.validate(),
            Self::Routed(lora, routing) => lora.validate().and_then(|()| routing.check(lora)),
            Self::Prompts(prompts) => prompts.validate(),
            Self::All => Ok(()),
        }
    }
}

/// Which tokens of a batch have a dropout mask of their own in training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DropoutOf {
    /// Those of every row: rows are computed apart.
    Row,
    /// Those that no other row has behind the same beginning: of a decoder-only model, what rows
    /// that begin alike have in common is computed once, forward and backward, and drops the same.
    /// Rows that a router weighs by their prompts are computed apart all the same.
    #[default]
    Beginning,
}

/// How a model is to be run.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelOptions {
    /// Where.
    pub device: DeviceKind,
    /// By whom.
    pub engine: EngineKind,
    /// In which precision.
    pub precision: Precision,
    /// What is trained.
    pub trainable: Trainable,
    /// Seed of a fresh adapter or of fresh prompts.
    pub seed: u64,
    /// Whether a training step keeps only what enters each block and computes the rest a second
    /// time: less memory, more time, the same bits.
    pub recompute: bool,
    /// Which tokens drop something of their own.
    pub dropout_of: DropoutOf,
}

impl ModelOptions {
    /// A model on the CPU in f32 with the given trainable part.
    pub fn cpu(trainable: Trainable) -> Self {
        Self {
            device: DeviceKind::Cpu,
            engine: EngineKind::Fused,
            precision: Precision::F32,
            trainable,
            seed: 1,
            recompute: false,
            dropout_of: DropoutOf::default(),
        }
    }

    /// Whether this program has an engine for the device and the precision. [`load`](crate::load())
    /// asks, too.
    pub fn check(&self) -> Result<(), ModelError> {
        let what = match (self.device, self.engine, self.precision) {
            (
                DeviceKind::Cpu,
                EngineKind::Fused,
                Precision::F32 | Precision::Bf16 | Precision::Int8,
            )
            | (DeviceKind::Cpu, EngineKind::Stock, Precision::F32) => return Ok(()),
            (DeviceKind::Cpu, EngineKind::Stock, precision) => {
                format!("precision {precision:?} in the stock engine")
            }
            (DeviceKind::Cpu, _, Precision::F16) => {
                "precision f16 on the CPU (f32, bf16 and int8 are)".to_owned()
            }
            (DeviceKind::Cuda, ..) if !cfg!(feature = "cuda") => return Err(ModelError::NoCuda),
            (DeviceKind::Cuda, EngineKind::Fused, Precision::F32 | Precision::F16)
            | (DeviceKind::Cuda, EngineKind::Stock, Precision::F32) => return Ok(()),
            (DeviceKind::Cuda, EngineKind::Stock, precision) => {
                format!("precision {precision:?} in the stock engine")
            }
            (DeviceKind::Cuda, _, Precision::Bf16) => {
                "precision bf16 on CUDA (f16 and f32 are)".to_owned()
            }
            (DeviceKind::Cuda, _, Precision::Int8) => {
                "precision int8 on CUDA (f16 and f32 are)".to_owned()
            }
        };
        Err(ModelError::Unsupported { what })
    }
}
