//! The settings of a protocol: training, adapter, memory, evaluation, limits.
//!
//! The names that serde knows are those that a file may spell out and that messages print.

use std::collections::BTreeMap;

use kif_data::MemoryPolicy;
use kif_methods::{Accumulate, BatchOrder, LearnerConfig, Schedule, TaskDuration, TrainingPlan};
use kif_model::{DropoutOf, LoraConfig};
use serde::{Deserialize, Serialize};

/// The adapter; the defaults are the published settings. The targets `q`, `k`, `v` and `o` are
/// known to every model.
pub type AdapterSettings = LoraConfig;

/// How a task is learned; the defaults are the published settings, except that losses are means
/// over tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename = "Training", deny_unknown_fields, default)]
pub struct TrainingSettings {
    /// Passes over a task's rows (published: 10).
    pub epochs: u64,
    /// Rows of an optimizer step (published: 8).
    pub batch_size: usize,
    /// Whether the loss is one mean over the batch's target tokens or a mean of micro-batch means
    /// (published).
    pub accumulate: Accumulate,
    /// Rows of a micro-batch under `accumulate: batches` (published: 2).
    pub micro_rows: usize,
    /// Most tokens that go through the model at once under `accumulate: tokens`.
    pub micro_tokens: usize,
    /// Peak learning rate (published: 3e-4).
    pub lr: f64,
    /// Steps of linear warm-up (published: 50).
    pub warmup_steps: u64,
    /// Which tokens of a batch drop something of their own (published: those of every row).
    pub dropout_of: DropoutOf,
    /// Largest norm of the gradient (published: 1).
    pub clip: f32,
}

/// What is kept of every task for those after it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename = "Memory", deny_unknown_fields, default)]
pub struct MemorySettings {
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
    /// Share of every task's training rows that is held out of training and evaluated in place of
    /// the test rows: for choosing settings without looking at test data. 0 evaluates the test
    /// rows.
    pub validation: f64,
    /// Which tasks are evaluated when.
    pub cells: EvaluatedCells,
}

/// Which cells of the score matrix are filled: tasks that are evaluated after a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum EvaluatedCells {
    /// After every task all that have been seen, and the next one.
    #[default]
    All,
    /// After every task that task alone, and all at the end: what OP and BWT need.
    Needed,
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

impl Default for TrainingSettings {
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
            dropout_of: DropoutOf::default(),
            clip: optimizer.clip,
        }
    }
}

impl TrainingSettings {
    /// The rates; over how many steps, each task decides.
    pub fn schedule(&self) -> Schedule {
        Schedule::warmed_up(self.lr, self.warmup_steps)
    }

    /// How a task is learned from its rows.
    pub fn plan(&self) -> TrainingPlan {
        TrainingPlan {
            schedule: self.schedule(),
            duration: TaskDuration::Epochs(self.epochs),
            order: BatchOrder::Shuffled,
        }
    }
}

impl Default for MemorySettings {
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
            cells: EvaluatedCells::All,
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
