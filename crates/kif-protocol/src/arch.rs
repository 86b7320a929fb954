//! The bases that the program brings along, by name.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Which of the bases that the program carries.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum Arch {
    /// An encoder-decoder.
    #[default]
    T5,
    /// A decoder-only model.
    Decoder,
}

impl Arch {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::T5, Self::Decoder];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::T5 => "t5",
            Self::Decoder => "decoder",
        }
    }

    /// What it is called beside bases in folders: in the configuration of an adapter, in reports.
    pub fn base_name(self) -> &'static str {
        match self {
            Self::T5 => "embedded",
            Self::Decoder => "embedded-decoder",
        }
    }

    /// Its folder in `fixtures/quick`.
    pub fn folder(self) -> &'static str {
        match self {
            Self::T5 => "base",
            Self::Decoder => "base-decoder",
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
