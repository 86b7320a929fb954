//! What a benchmark runs: stream, base, methods, orders, seeds and every setting, as a RON file.
//!
//! A protocol is checked once, when it is loaded; what a run writes into its directory has every default in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::path::{Path, PathBuf};

use kif_data::{Layout, MemoryPolicy, Stream};
use kif_methods::methods::MethodConfig;
use kif_methods::{
    Accumulate, BatchOrder, LearnerConfig, OptimizerConfig, Schedule, TaskDuration, TrainingPlan,
};
use kif_model::{LoraConfig, ModelConfig, ModelError};
use serde::{Deserialize, Serialize};

use crate::{Arch, TemplateSetting};

/// Protocols that the program brings along, by name.
const BUILT_IN: [(&str, &str); 6] = [
    ("quick", include_str!("../protocols/quick.ron")),
    ("standard", include_str!("../protocols/standard.ron")),
    ("long", include_str!("../protocols/long.ron")),
    ("superni", include_str!("../protocols/superni.ron")),
    (
        "standard-llama",
        include_str!("../protocols/standard-llama.ron"),
    ),
    ("long-llama", include_str!("../protocols/long-llama.ron")),
];

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
    /// Folder of the base in Hugging Face layout; without one, the base that the program brings along.
    #[serde(default)]
    pub model: Option<PathBuf>,
    /// Which of the bases that the program brings along, where `model` names none; without it the T5.
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
    /// Peak learning rates of single methods by the names used in `methods`, in the place of `training.lr` and of a rate
    /// among the method's settings.
    #[serde(default)]
    pub lr_of: BTreeMap<String, f64>,
    /// Orders of the stream, counted from 1.
    #[serde(default = "first_order")]
    pub orders: Vec<usize>,
    /// Seeds of adapter, shuffling, memory and dropout.
    pub seeds: Vec<u64>,
    /// How a task is learned.
    #[serde(default)]
    pub training: Training,
    /// The adapter.
    #[serde(default)]
    pub adapter: AdapterSettings,
    /// What is kept of earlier tasks.
    #[serde(default)]
    pub memory: Memory,
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

/// How a task is learned; the defaults are the published settings, except that losses are means over tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Training {
    /// Passes over a task's rows (published: 10).
    pub epochs: u64,
    /// Rows of an optimizer step (published: 8).
    pub batch_size: usize,
    /// Whether the loss is one mean over the batch's target tokens or a mean of micro-batch means (published).
    pub accumulate: Accumulate,
    /// Rows of a micro-batch under `accumulate: batches` (published: 2).
    pub micro_rows: usize,
    /// Most tokens that go through the model at once under `accumulate: tokens`.
    pub micro_tokens: usize,
    /// Peak learning rate (published: 3e-4).
    pub lr: f64,
    /// Steps of linear warm-up (published: 50).
    pub warmup_steps: u64,
    /// Largest norm of the gradient (published: 1).
    pub clip: f32,
}

/// The adapter; the defaults are the published settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdapterSettings {
    /// Rank R (published: 8).
    pub rank: usize,
    /// Numerator of the scale alpha / rank (published: 32).
    pub alpha: f32,
    /// Share of the inputs of A that is dropped in training (published: 0.05).
    pub dropout: f32,
    /// Modules that get an adapter, by PEFT name (published: q and v; `q`, `k`, `v` and `o` are known to every model).
    pub targets: Vec<String>,
}

/// What is kept of every task for those after it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Memory {
    /// Share of a task's training rows (published: 0.02).
    pub fraction: f64,
    /// Which rows (published: class_balanced).
    pub policy: MemoryPolicy,
}

/// How predictions are made and scored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluationSettings {
    /// The score of a task.
    pub score: ScoreKind,
    /// Other scores for some tasks, by task name.
    pub score_of: BTreeMap<String, ScoreKind>,
    /// Longest prediction in tokens (published: 128).
    pub max_new_tokens: usize,
    /// Prompt tokens that go through the model at once; results do not depend on it.
    pub batch_tokens: usize,
    /// Share of every task's training rows that is held out of training and examined in place of the test rows: for
    /// choosing settings without looking at test data. 0 examines the test rows.
    pub validation: f64,
}

/// What counts as a good answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScoreKind {
    /// The greedy continuation equals a reference, trimmed and in lower case (published).
    #[default]
    Exact,
    /// The likeliest of the task's labels equals the reference: knowledge without format.
    Labels,
    /// ROUGE-L F1 of the greedy continuation against the best reference.
    RougeL,
}

/// Where rows and tasks are cut.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitSettings {
    /// Longest prompt in tokens, end token included (published: 1024).
    pub max_input: usize,
    /// Longest training target in tokens, end token included (published: 128).
    pub max_target: usize,
    /// Training rows of a task: a fixed, class-balanced choice.
    pub train_rows: Option<usize>,
    /// Test rows of a task: a fixed, class-balanced choice.
    pub test_rows: Option<usize>,
}

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
    /// Whether training computes activations twice instead of keeping them. Results do not depend on it.
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
    /// 8 bits with a scale for every row for the frozen linear layers, bfloat16 for embedding and output head, on the CPU.
    Int8,
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

/// Why a protocol cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// Neither a built-in name nor a file.
    #[error("protocol {name}: no such file and no built-in protocol ({})", known.join(", "))]
    Unknown {
        /// What was asked for.
        name: String,
        /// The built-in names.
        known: Vec<&'static str>,
    },
    /// The file cannot be read.
    #[error("protocol {path}: {error}")]
    Unreadable {
        /// The file.
        path: String,
        /// Why not.
        error: std::io::Error,
    },
    /// The file is not a protocol.
    #[error("protocol {path}, line {line}, column {column}: {message}")]
    Syntax {
        /// The file, or the name of a built-in one.
        path: String,
        /// Line of the problem, from 1.
        line: usize,
        /// Column of the problem, from 1.
        column: usize,
        /// The problem.
        message: String,
    },
    /// A value outside its range.
    #[error("protocol {protocol}: {field} is {value}, expected {expected}")]
    Value {
        /// Name of the protocol.
        protocol: String,
        /// Path of the field.
        field: String,
        /// Its value.
        value: String,
        /// What would be right.
        expected: String,
    },
}

impl Default for Training {
    fn default() -> Self {
        let LearnerConfig {
            optimizer,
            accumulate,
            micro_rows,
            micro_tokens,
            ..
        } = LearnerConfig::default();
        Self {
            epochs: 10,
            batch_size: 8,
            accumulate,
            micro_rows,
            micro_tokens,
            lr: 3e-4,
            warmup_steps: 50,
            clip: optimizer.clip,
        }
    }
}

impl Training {
    /// The rates of a task of `total_steps`.
    pub fn schedule(&self, total_steps: u64) -> Schedule {
        Schedule::Linear {
            peak: self.lr,
            warmup_steps: self.warmup_steps,
            total_steps,
        }
    }

    /// How a task is learned from its rows.
    pub fn plan(&self) -> TrainingPlan {
        TrainingPlan {
            lr: self.lr,
            warmup_steps: self.warmup_steps,
            duration: TaskDuration::Epochs(self.epochs),
            order: BatchOrder::Shuffled,
        }
    }
}

impl Default for AdapterSettings {
    fn default() -> Self {
        let LoraConfig {
            rank,
            alpha,
            dropout,
            targets,
        } = LoraConfig::default();
        Self {
            rank,
            alpha,
            dropout,
            targets,
        }
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            fraction: 0.02,
            policy: MemoryPolicy::ClassBalanced,
        }
    }
}

impl Default for EvaluationSettings {
    fn default() -> Self {
        Self {
            score: ScoreKind::Exact,
            score_of: BTreeMap::new(),
            max_new_tokens: 128,
            batch_tokens: 4096,
            validation: 0.0,
        }
    }
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self {
            max_input: 1024,
            max_target: 128,
            train_rows: None,
            test_rows: None,
        }
    }
}

impl Protocol {
    /// A built-in protocol by its name, or the file of that path. Not yet checked: flags may still change it.
    pub fn load(name_or_path: &str) -> Result<Self, ProtocolError> {
        if let Some((name, text)) = BUILT_IN.iter().find(|(name, _)| *name == name_or_path) {
            return Self::parse(name, text);
        }
        let path = Path::new(name_or_path);
        if !path.exists() {
            let known = BUILT_IN.map(|(name, _)| name).to_vec();
            return Err(ProtocolError::Unknown {
                name: name_or_path.to_owned(),
                known,
            });
        }
        let text = std::fs::read_to_string(path).map_err(|error| ProtocolError::Unreadable {
            path: name_or_path.to_owned(),
            error,
        })?;
        Self::parse(name_or_path, &text)
    }

    /// Reads a protocol from RON; `path` is for messages.
    pub fn parse(path: &str, text: &str) -> Result<Self, ProtocolError> {
        kif_io::ron::ron_options()
            .from_str(text)
            .map_err(|error| ProtocolError::Syntax {
                path: path.to_owned(),
                line: error.span.start.line,
                column: error.span.start.col,
                message: error.code.to_string(),
            })
    }

    /// The protocol as RON, every default written out, the settings of every method included.
    pub fn to_ron(&self) -> String {
        let mut resolved = self.clone();
        resolved.own_methods = self
            .methods
            .iter()
            .filter_map(|m| Some((m.clone(), self.method(m)?)))
            .collect();
        let pretty = ron::ser::PrettyConfig::new().struct_names(false);
        let text = kif_io::ron::ron_options()
            .to_string_pretty(&resolved, pretty)
            .expect("a protocol has nothing that RON lacks");
        format!("{text}\n")
    }

    /// The settings of a method by its name here.
    pub fn method(&self, name: &str) -> Option<MethodConfig> {
        self.own_methods
            .get(name)
            .cloned()
            .or_else(|| MethodConfig::by_name(name))
    }

    /// Replaces other names of built-in methods by the ones that records use (`kif` by `kif-paper`).
    pub fn canonical(mut self) -> Self {
        let canonical = |name: String| match MethodConfig::by_name(&name) {
            Some(config) if !self.own_methods.contains_key(&name) => config.name().to_owned(),
            _ => name,
        };
        self.methods = self.methods.into_iter().map(canonical).collect();
        let lr_of = self.lr_of.into_iter();
        self.lr_of = lr_of.map(|(name, lr)| (canonical(name), lr)).collect();
        self
    }

    /// This protocol with the methods, orders and seeds that `earlier` has beside its own: what a run holds after it.
    pub fn grown_from(&self, earlier: &Self) -> Self {
        fn join<T: Clone + PartialEq>(earlier: &[T], now: &[T]) -> Vec<T> {
            earlier
                .iter()
                .chain(now.iter().filter(|x| !earlier.contains(x)))
                .cloned()
                .collect()
        }
        let mut grown = self.clone();
        grown.methods = join(&earlier.methods, &self.methods);
        grown.orders = join(&earlier.orders, &self.orders);
        grown.seeds = join(&earlier.seeds, &self.seeds);
        for (name, config) in &earlier.own_methods {
            if !self.methods.contains(name) {
                grown.own_methods.insert(name.clone(), config.clone());
            }
        }
        for (name, &lr) in &earlier.lr_of {
            if !self.methods.contains(name) {
                grown.lr_of.insert(name.clone(), lr);
            }
        }
        grown
    }

    /// All orders of the stream; none for an unknown built-in one. The embedded stream brings its own.
    pub fn stream(&self) -> Option<Stream> {
        match &self.stream {
            StreamSource::Embedded => None,
            StreamSource::Builtin(name) => Stream::builtin(name),
            StreamSource::Own { layout, orders } => {
                let (name, layout, orders) = (self.name.clone(), *layout, orders.clone());
                Some(Stream {
                    name,
                    layout,
                    published_ids: Vec::new(),
                    orders,
                })
            }
        }
    }

    /// Answers with `score` wherever an answer is right or wrong; tasks that are scored by ROUGE-L keep it.
    pub fn answer_by(&mut self, score: ScoreKind) {
        let EvaluationSettings {
            score: general,
            score_of,
            ..
        } = &mut self.evaluation;
        let kinds = std::iter::once(general).chain(score_of.values_mut());
        for kind in kinds.filter(|kind| **kind != ScoreKind::RougeL) {
            *kind = score;
        }
    }

    /// Tasks of all orders that are run and that `stream` has, each once, in the order of their names.
    pub fn task_names(&self, stream: &Stream) -> Vec<String> {
        let orders = self.orders.iter();
        let tasks = orders.filter_map(|&order| stream.order(order)).flatten();
        tasks
            .cloned()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect()
    }

    /// The score of a task.
    pub fn score_kind(&self, task: &str) -> ScoreKind {
        self.evaluation
            .score_of
            .get(task)
            .copied()
            .unwrap_or(self.evaluation.score)
    }

    /// How a method learns a task: with the rate that `lr_of` has for it, else the one among its settings, else the run's.
    pub fn training_of(&self, method: &str) -> Training {
        let given = self.lr_of.get(method).copied();
        let own = || self.method(method)?.peak_rate();
        Training {
            lr: given.or_else(own).unwrap_or(self.training.lr),
            ..self.training.clone()
        }
    }

    /// The learner's part of the settings, for one seed.
    pub fn learner_config(&self, seed: u64) -> LearnerConfig {
        let Training {
            accumulate,
            micro_rows,
            micro_tokens,
            clip,
            ..
        } = self.training;
        LearnerConfig {
            optimizer: OptimizerConfig {
                clip,
                ..OptimizerConfig::default()
            },
            accumulate,
            micro_rows,
            micro_tokens,
            dropout: self.adapter.dropout,
            seed,
        }
    }

    /// The adapter's settings as the model wants them.
    pub fn lora_config(&self) -> LoraConfig {
        let AdapterSettings {
            rank,
            alpha,
            dropout,
            targets,
        } = self.adapter.clone();
        LoraConfig {
            rank,
            alpha,
            dropout,
            targets,
        }
    }

    /// The embedded base that it runs on, if it runs on one.
    pub fn embedded_base(&self) -> Option<Arch> {
        let embedded = self.model.is_none() && self.stream == StreamSource::Embedded;
        embedded.then(|| self.arch.unwrap_or_default())
    }

    /// This protocol with the modules of the adapter as the base at `model` calls them.
    pub fn with_own_targets(mut self, model: &Path) -> Result<Self, ModelError> {
        let lora = ModelConfig::read(model)?.own_targets(self.lora_config());
        self.adapter.targets = lora.targets;
        Ok(self)
    }

    /// Whether all values are in their ranges and all names exist.
    pub fn check(&self) -> Result<(), ProtocolError> {
        self.problems().into_iter().next().map_or(Ok(()), Err)
    }

    /// Every value outside its range and every name that does not exist.
    pub fn problems(&self) -> Vec<ProtocolError> {
        let mut found = Vec::new();
        self.check_names(&mut found);
        self.check_methods(&mut found);
        self.check_values(&mut found);
        found
    }

    fn check_values(&self, found: &mut Vec<ProtocolError>) {
        let mut expect = |holds: bool, field: &str, value: &dyn Display, expected: &str| {
            self.expect(found, holds, field, value, expected);
        };
        let Training {
            epochs, batch_size, ..
        } = self.training;
        let count = "at least 1";
        expect(epochs >= 1, "training.epochs", &epochs, count);
        expect(batch_size >= 1, "training.batch_size", &batch_size, count);
        let rates = self.training.schedule(1).check();
        if let Err(e) = self.learner_config(0).check().and(rates) {
            expect(
                false,
                &format!("training.{}", e.field),
                &e.value,
                e.expected,
            );
        }
        for (method, lr) in &self.lr_of {
            let known = self.method(method).is_some();
            expect(known, "lr_of", method, &known_methods());
            if let Err(e) = self.training_of(method).schedule(1).check() {
                expect(false, &format!("lr_of.{method}"), lr, e.expected);
            }
        }
        if let Err(e) = self.lora_config().validate() {
            expect(
                false,
                "adapter",
                &format!("{:?}", self.adapter),
                &e.to_string(),
            );
        }
        let fraction = self.memory.fraction;
        let share = (0.0..=1.0).contains(&fraction);
        expect(share, "memory.fraction", &fraction, "a number from 0 to 1");
        let EvaluationSettings {
            max_new_tokens,
            batch_tokens,
            validation,
            ..
        } = self.evaluation;
        expect(
            max_new_tokens >= 1,
            "evaluation.max_new_tokens",
            &max_new_tokens,
            count,
        );
        expect(
            batch_tokens >= 1,
            "evaluation.batch_tokens",
            &batch_tokens,
            count,
        );
        let part = (0.0..1.0).contains(&validation);
        let expected = "a number from 0 to less than 1";
        expect(part, "evaluation.validation", &validation, expected);
        let LimitSettings {
            max_input,
            max_target,
            train_rows,
            test_rows,
        } = self.limits;
        expect(max_input >= 1, "limits.max_input", &max_input, count);
        expect(max_target >= 1, "limits.max_target", &max_target, count);
        let some = "at least 1, or None";
        expect(train_rows != Some(0), "limits.train_rows", &0, some);
        expect(test_rows != Some(0), "limits.test_rows", &0, some);
        let positive = self.save_minutes > 0.0;
        expect(
            positive,
            "save_minutes",
            &self.save_minutes,
            "a number above 0",
        );
    }

    fn check_names(&self, found: &mut Vec<ProtocolError>) {
        let mut expect = |holds: bool, field: &str, value: &dyn Display, expected: &str| {
            self.expect(found, holds, field, value, expected);
        };
        expect(is_plain(&self.name), "name", &self.name, PLAIN);
        for (field, is_empty) in [
            ("methods", self.methods.is_empty()),
            ("seeds", self.seeds.is_empty()),
            ("orders", self.orders.is_empty()),
        ] {
            expect(!is_empty, field, &"empty", "at least one");
        }
        for seed in repeated(&self.seeds) {
            expect(false, "seeds", seed, "every seed once");
        }
        if let StreamSource::Builtin(name) = &self.stream {
            let known = Stream::builtin(name).is_some();
            let expected = "builtin(standard), builtin(long) or builtin(superni)";
            expect(known, "stream", name, expected);
        }
        if let StreamSource::Own { orders, .. } = &self.stream {
            for order in orders {
                let expected = "at least one task";
                expect(
                    !order.is_empty(),
                    "stream.orders",
                    &"an empty order",
                    expected,
                );
                for task in repeated(order) {
                    expect(false, "stream.orders", task, "every task once in an order");
                }
            }
        }
        if let Some(arch) = self.arch {
            let embedded = self.stream == StreamSource::Embedded;
            let expected =
                "none: only the embedded stream comes with bases (--model DIR names one)";
            expect(embedded, "arch", &arch, expected);
            let expected = "none beside a model: --arch and --model both name the base";
            expect(self.model.is_none(), "arch", &arch, expected);
        }
        if self.stream != StreamSource::Embedded {
            let data = "the folder of the task files (--data DIR)";
            expect(self.data.is_some(), "data", &"not given", data);
            let model = "the folder of a base model (--model DIR)";
            expect(self.model.is_some(), "model", &"not given", model);
        }
        if let Some(stream) = self.stream() {
            self.check_tasks(&stream, found);
        }
    }

    fn check_methods(&self, found: &mut Vec<ProtocolError>) {
        let mut expect = |holds: bool, field: &str, value: &dyn Display, expected: &str| {
            self.expect(found, holds, field, value, expected);
        };
        for name in repeated(&self.methods) {
            expect(false, "methods", name, "every method once");
        }
        for name in &self.methods {
            expect(is_plain(name), "methods", name, PLAIN);
            match self.method(name).map(|config| config.check()) {
                Some(Ok(())) => {}
                Some(Err(e)) => {
                    expect(false, &format!("{name}: {}", e.field), &e.value, e.expected)
                }
                None => expect(false, "methods", name, &known_methods()),
            }
        }
    }

    /// Whether all orders, and the tasks that have a score of their own, exist in a stream.
    pub fn check_stream(&self, stream: &Stream) -> Result<(), ProtocolError> {
        let mut found = Vec::new();
        self.check_tasks(stream, &mut found);
        found.into_iter().next().map_or(Ok(()), Err)
    }

    fn check_tasks(&self, stream: &Stream, found: &mut Vec<ProtocolError>) {
        let n_orders = stream.orders.len();
        if n_orders == 0 {
            return self.expect(
                found,
                false,
                "stream.orders",
                &"empty",
                "at least one order",
            );
        }
        let expected = format!("1 to {n_orders}, every order once");
        for order in repeated(&self.orders) {
            self.expect(found, false, "orders", order, &expected);
        }
        for order in &self.orders {
            let exists = (1..=n_orders).contains(order);
            self.expect(found, exists, "orders", order, &expected);
        }
        for task in self.evaluation.score_of.keys() {
            let exists = stream.orders.iter().any(|order| order.contains(task));
            let expected = "the name of a task of the stream";
            self.expect(found, exists, "evaluation.score_of", task, expected);
        }
    }

    fn expect(
        &self,
        found: &mut Vec<ProtocolError>,
        holds: bool,
        field: &str,
        value: &dyn Display,
        expected: &str,
    ) {
        if !holds {
            found.push(ProtocolError::Value {
                protocol: self.name.clone(),
                field: field.to_owned(),
                value: value.to_string(),
                expected: expected.to_owned(),
            });
        }
    }
}

/// What names of protocols and methods are made of.
const PLAIN: &str = "letters, digits, '.', '_' and '-'";

fn is_plain(name: &str) -> bool {
    let ok = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !name.is_empty() && !name.starts_with('.') && name.chars().all(ok)
}

/// Items that equal an earlier one.
fn repeated<T: PartialEq>(items: &[T]) -> impl Iterator<Item = &T> {
    let again = |(i, item): (usize, &T)| items[..i].contains(item);
    (items.iter().enumerate())
        .filter(move |pair| again(*pair))
        .map(|(_, item)| item)
}

/// The names of all built-in methods, for messages.
pub fn known_methods() -> String {
    let names: Vec<&str> = MethodConfig::all()
        .iter()
        .map(|method| method.name())
        .collect();
    format!("one of {} or a name in own_methods", names.join(", "))
}

fn first_order() -> Vec<usize> {
    vec![1]
}

fn ten_minutes() -> f64 {
    10.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use kif_methods::methods::ewc::EwcFisher;
    use kif_methods::methods::{EwcConfig, L2pConfig};

    #[test]
    fn built_in_protocols_are_valid_and_survive_being_written() {
        for (name, _) in BUILT_IN {
            let mut protocol = Protocol::load(name).unwrap();
            if protocol.stream != StreamSource::Embedded {
                protocol.data = Some("data".into());
                protocol.model = Some("model".into());
            }
            assert!(protocol.problems().is_empty(), "{:?}", protocol.problems());
            let read = Protocol::parse(name, &protocol.to_ron()).unwrap();
            assert_eq!(read.to_ron(), protocol.to_ron(), "{name}");
        }
    }

    #[test]
    fn only_answers_that_are_right_or_wrong_are_answered_another_way() {
        let mut superni = Protocol::load("superni").unwrap();
        superni.answer_by(ScoreKind::Labels);
        assert_eq!(superni.score_kind("task363"), ScoreKind::Labels);
        assert_eq!(superni.score_kind("task002"), ScoreKind::RougeL);
        let mut long = Protocol::load("long").unwrap();
        long.answer_by(ScoreKind::Labels);
        assert_eq!(long.score_kind("cb"), ScoreKind::Labels);
    }

    #[test]
    fn unknown_fields_are_refused_with_their_line() {
        let text = "(\n name: \"x\",\n stream: embedded,\n methods: [\"seq_lora\"],\n seeds: [1],\n training: (epoch: 3),\n)";
        let message = Protocol::parse("x.ron", text).unwrap_err().to_string();
        assert!(
            message.contains("x.ron, line 6") && message.contains("epoch"),
            "{message}"
        );
    }

    #[test]
    fn values_outside_their_range_are_refused_by_name() {
        let quick = Protocol::load("quick").unwrap();
        let problem = |change: fn(&mut Protocol)| {
            let mut protocol = quick.clone();
            change(&mut protocol);
            protocol.check().unwrap_err().to_string()
        };
        assert!(
            problem(|p| p.training.epochs = 0)
                .contains("training.epochs is 0, expected at least 1")
        );
        assert!(
            problem(|p| p.methods = vec!["sgd".into()]).contains("methods is sgd, expected one of")
        );
        assert!(problem(|p| p.memory.fraction = 1.5).contains("memory.fraction is 1.5"));
        assert!(problem(|p| p.training.lr = f64::NAN).contains("lr is NaN"));
        assert!(problem(|p| p.name = "../x".into()).contains("name is ../x"));
        fn set_rate(protocol: &mut Protocol, name: &str, lr: f64) {
            protocol.lr_of = BTreeMap::from([(name.to_owned(), lr)]);
        }
        assert!(problem(|p| set_rate(p, "sgd", 1e-3)).contains("lr_of is sgd, expected one of"));
        assert!(problem(|p| set_rate(p, "replay", -1.0)).contains("lr_of.replay is -1"));
        let mut several = quick.clone();
        (several.seeds, several.training.epochs) = (vec![1, 2, 1], 0);
        let texts: Vec<String> = several.problems().iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "protocol quick: seeds is 1, expected every seed once",
                "protocol quick: training.epochs is 0, expected at least 1"
            ]
        );
    }

    #[test]
    fn a_rate_of_its_own_is_that_of_one_method_alone() {
        let mut protocol = Protocol::load("quick").unwrap();
        protocol.lr_of = BTreeMap::from([("kif".to_owned(), 5e-4)]);
        let protocol = protocol.canonical();
        protocol.check().unwrap();
        assert_eq!(protocol.training_of("kif-paper").lr, 5e-4);
        let others = protocol.training_of("replay_matched").lr;
        assert_eq!(others, protocol.training.lr);
        let (paper, training) = (protocol.training_of("kif-paper"), &protocol.training);
        assert_eq!(paper.epochs, training.epochs);
    }

    #[test]
    fn a_rate_among_a_methods_settings_goes_before_the_runs_and_behind_one_for_it_alone() {
        let mut protocol = Protocol::load("quick").unwrap();
        protocol.training.lr = 1e-3;
        let config = L2pConfig {
            lr: 0.7,
            ..L2pConfig::default()
        };
        let own = BTreeMap::from([("l2p-fast".to_owned(), MethodConfig::L2p(config))]);
        protocol.own_methods = own;
        let rate = |protocol: &Protocol, name| protocol.training_of(name).lr;
        assert_eq!(rate(&protocol, "prog_prompt"), 0.3);
        assert_eq!(rate(&protocol, "l2p-fast"), 0.7);
        assert_eq!(rate(&protocol, "seq_lora"), 1e-3);
        protocol.lr_of = BTreeMap::from([("l2p-fast".to_owned(), 0.1)]);
        assert_eq!(rate(&protocol, "l2p-fast"), 0.1);
        assert_eq!(protocol.training_of("l2p-fast").lr, 0.1);
        assert_eq!(rate(&protocol, "l2p"), L2pConfig::default().lr);
    }

    #[test]
    fn methods_have_their_settings() {
        let protocol = |ewc: &str| {
            let text = format!(
                "(name: \"x\", stream: embedded, methods: [\"mine\", \"apart\"], seeds: [1], own_methods: {{ \"mine\": ewc({ewc}), \"apart\": inc_lora }})"
            );
            Protocol::parse("x.ron", &text)
        };
        let given = protocol("lambda: 5.0, fisher: textbook(rows: 50)").unwrap();
        given.check().unwrap();
        let expected = EwcConfig {
            lambda: 5.0,
            fisher: EwcFisher::Textbook { rows: 50 },
        };
        assert_eq!(given.method("mine"), Some(MethodConfig::Ewc(expected)));
        let problem = protocol("lambda: 5.0, fisher: online(decay: 2.0)").unwrap();
        let problem = problem.check().unwrap_err().to_string();
        assert!(
            problem.contains("mine: fisher.decay is 2, expected a number in [0, 1]"),
            "{problem}"
        );
        assert!(protocol("lamda: 5.0, fisher: online(decay: 1.0)").is_err());
    }
}
