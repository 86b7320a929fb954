//! What a run computes on.

use serde::{Deserialize, Serialize};

/// What a run computes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Compute {
    /// The device.
    pub device: Device,
    /// Number format of the frozen base: f32, bf16 or int8 (CPU), f16 (CUDA).
    pub precision: Precision,
    /// Threads; all cores without a number. Results do not depend on it.
    pub threads: Option<usize>,
    /// Whether training computes activations twice instead of keeping them. Results do not depend
    /// on it.
    pub recompute: bool,
}

/// A device by its name on the command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Device {
    /// The processor.
    #[default]
    Cpu,
    /// The first NVIDIA accelerator.
    Cuda,
}

/// A number format by its name on the command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 32 bits everywhere.
    #[default]
    F32,
    /// bfloat16 for products with the frozen base, on the CPU.
    Bf16,
    /// float16 for products with the frozen base, on CUDA.
    F16,
    /// 8 bits with a scale for every row for the frozen linear layers, bfloat16 for embedding and
    /// output head, on the CPU.
    Int8,
}

impl Device {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }
}

impl Precision {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::Int8 => "int8",
        }
    }
}

impl From<Device> for kif_model::DeviceKind {
    fn from(device: Device) -> Self {
        match device {
            Device::Cpu => Self::Cpu,
            Device::Cuda => Self::Cuda,
        }
    }
}

impl From<Precision> for kif_model::Precision {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::F32,
            Precision::Bf16 => Self::Bf16,
            Precision::F16 => Self::F16,
            Precision::Int8 => Self::Int8,
        }
    }
}
