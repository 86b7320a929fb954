//! What a benchmark runs: stream, base, methods, orders, seeds and every setting.
//!
//! A protocol is checked once, when it is loaded; what a run writes into its directory has every
//! default in it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use kif_data::Layout;
use kif_methods::methods::MethodConfig;
use serde::{Deserialize, Serialize};

use crate::{
    AdapterSettings, Arch, Compute, EvaluationSettings, LimitSettings, MemorySettings,
    TemplateSetting, TrainingSettings,
};

/// A benchmark: methods x orders x seeds on one stream, from one base.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Protocol {
    /// Its name, and that of its run directory unless another is given.
    pub name: String,
    /// The tasks and their orders.
    pub stream: StreamSource,
    /// Folder of the task files; not needed by `embedded`.
    #[serde(default)]
    pub data: Option<PathBuf>,
    /// Folder of the base in Hugging Face layout; without one, the base that the program brings
    /// along.
    #[serde(default)]
    pub model: Option<PathBuf>,
    /// Which of the bases that the program brings along, where `model` names none; without it the
    /// T5.
    #[serde(default)]
    pub arch: Option<Arch>,
    /// What prompts look like to the model.
    #[serde(default)]
    pub template: TemplateSetting,
    /// Names of the methods, built-in or from `own_methods`.
    pub methods: Vec<String>,
    /// Settings of methods by the names used in `methods`; they go before built-in ones.
    #[serde(default)]
    pub own_methods: BTreeMap<String, MethodConfig>,
    /// Peak learning rates of single methods by the names used in `methods`, in the place of
    /// `training.lr` and of a rate among the method's settings.
    #[serde(default)]
    pub lr_of: BTreeMap<String, f64>,
    /// Orders of the stream, counted from 1.
    #[serde(default = "first_order")]
    pub orders: Vec<usize>,
    /// Seeds of adapter, shuffling, memory and dropout.
    pub seeds: Vec<u64>,
    /// How a task is learned.
    #[serde(default)]
    pub training: TrainingSettings,
    /// The adapter.
    #[serde(default)]
    pub adapter: AdapterSettings,
    /// What is kept of earlier tasks.
    #[serde(default)]
    pub memory: MemorySettings,
    /// How predictions are made and scored.
    #[serde(default)]
    pub evaluation: EvaluationSettings,
    /// Where rows and tasks are cut.
    #[serde(default)]
    pub limits: LimitSettings,
    /// What it runs on.
    #[serde(default)]
    pub compute: Compute,
    /// Minutes between two saves inside a task; every task ends with one in any case.
    #[serde(default = "ten_minutes")]
    pub save_minutes: f64,
}

/// Where tasks and orders come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum StreamSource {
    /// The small stream that the program brings along.
    Embedded,
    /// A published benchmark: `standard`, `long` or `superni`.
    Builtin(String),
    /// Tasks of your own.
    Own {
        /// How the files under `data` are laid out.
        layout: Layout,
        /// Task names, an order a line.
        orders: Vec<Vec<String>>,
    },
}

fn first_order() -> Vec<usize> {
    vec![1]
}

fn ten_minutes() -> f64 {
    10.0
}
