//! What one cell of a run leaves: `record.json`.
//!
//! Everything but `timing` is a function of configuration, data and model: two runs of the same
//! cell have the same bytes there.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use kif_eval::ScoreMatrix;
use kif_fusion::Regions;
use kif_io::atomic;
use kif_io::failure::{BadInput, OrBadInput};
use kif_methods::Counters;
use kif_methods::methods::MethodConfig;
use kif_model::ParamLayout;
use kif_protocol::{
    AdapterSettings, Arch, Compute, EvaluationSettings, LimitSettings, MemorySettings, Protocol,
    ScoreKind, TrainingSettings,
};
use serde::{Deserialize, Serialize};

/// Steps that one number of a loss curve is the mean of.
pub const LOSS_EVERY: usize = 10;

/// The version of this format.
const FORMAT: u32 = 1;

/// A finished cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Version of the format: 1.
    pub format: u32,
    /// Name of the protocol.
    pub protocol: String,
    /// Name of the method in the protocol.
    pub method: String,
    /// Order of the stream, from 1.
    pub order: usize,
    /// Seed.
    pub seed: u64,
    /// Task names in the order they were learned.
    pub tasks: Vec<String>,
    /// All settings.
    pub settings: Settings,
    /// Scores in 0..=1: row 0 is the base before any task, row t the adapter after task t.
    pub scores: ScoreMatrix,
    /// Metrics that follow from the scores alone, by name, in 0..=1 or -1..=1.
    pub metrics: BTreeMap<String, f64>,
    /// What is known about each task, in order.
    pub task_notes: Vec<TaskNote>,
    /// Correctness of every test row in every evaluated cell of the matrix.
    pub correctness: Vec<Correctness>,
    /// Answers of the last row, by task.
    pub predictions: BTreeMap<String, Vec<String>>,
    /// Training losses, one curve a training.
    pub losses: Vec<LossCurve>,
    /// What training has cost in updates and tokens.
    pub cost: Counters,
    /// What goes from task to task beside one adapter; none in records from before it was noted.
    #[serde(default)]
    pub kept: Option<Kept>,
    /// What the masks of a method that fuses under masks have chosen.
    #[serde(default)]
    pub fusion: Option<FusionTrace>,
    /// Length of the trainable vector, P.
    pub n_params: usize,
    /// What differs between two runs of the same cell.
    pub timing: Timing,
}

/// All settings of a cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Which of the bases that the program brings along it ran on; none for a base in a folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arch: Option<Arch>,
    /// The method's own.
    pub method: MethodConfig,
    /// How a task is learned.
    pub training: TrainingSettings,
    /// The adapter.
    pub adapter: AdapterSettings,
    /// What is kept of earlier tasks.
    pub memory: MemorySettings,
    /// How predictions are made and scored.
    pub evaluation: EvaluationSettings,
    /// Where rows and tasks are cut.
    pub limits: LimitSettings,
    /// Device and precision; the number of threads is left out, since results do not depend on it.
    pub compute: Compute,
}

impl Settings {
    /// The settings of the method that a protocol calls `name`.
    pub fn new(protocol: &Protocol, name: &str, method: MethodConfig) -> Self {
        Self {
            arch: protocol.embedded_base(),
            method,
            training: protocol.training_of(name),
            adapter: protocol.adapter.clone(),
            memory: protocol.memory.clone(),
            evaluation: protocol.evaluation.clone(),
            limits: protocol.limits.clone(),
            compute: Compute {
                threads: None,
                recompute: false,
                ..protocol.compute
            },
        }
    }
}

/// What is known about a task before it is learned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskNote {
    /// Its name.
    pub name: String,
    /// What its score is.
    pub score: ScoreKind,
    /// Training rows.
    pub train_rows: usize,
    /// Test rows.
    pub test_rows: usize,
    /// Training rows that it leaves in the memory.
    pub memory_rows: usize,
    /// Their positions among the training rows, once the stream is learned.
    #[serde(default)]
    pub kept: Vec<usize>,
    /// Training prompts that lost tokens at `max_input`.
    pub train_cut: usize,
    /// Test prompts that lost tokens at `max_input`.
    pub test_cut: usize,
    /// Distinct first references of the training rows.
    pub n_labels: usize,
    /// Score on the test rows of always writing the most frequent first reference of the training
    /// rows.
    pub majority: f64,
}

/// Which rows were right.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Correctness {
    /// Tasks learned before: the row of the matrix.
    pub after: usize,
    /// Position of the task in the order: the column of the matrix.
    pub task: usize,
    /// One character a test row, in file order: `1` right, `0` wrong.
    pub correct: String,
    /// ROUGE-L of every test row where that is the score.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rouge_l: Vec<f64>,
}

/// The training loss of one task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossCurve {
    /// Name of the task, or `all tasks` of joint training.
    pub task: String,
    /// Optimizer steps over an epoch's batches, memory steps not counted.
    pub steps: usize,
    /// Steps that one number is the mean of; the last may have fewer.
    pub every: usize,
    /// Means of the loss, in nats per target token.
    pub mean: Vec<f64>,
}

impl LossCurve {
    /// Means over groups of [`LOSS_EVERY`] steps.
    pub fn new(task: &str, losses: &[f64]) -> Self {
        let mean = losses
            .chunks(LOSS_EVERY)
            .map(|group| group.iter().sum::<f64>() / group.len() as f64)
            .collect();
        Self {
            task: task.to_owned(),
            steps: losses.len(),
            every: LOSS_EVERY,
            mean,
        }
    }
}

/// What somebody needs who goes on after the last task, or evaluates all of them, beside the base
/// and one adapter of the configured rank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// Training rows: those that the tasks leave in the memory where the method reads it, all rows
    /// for joint training.
    pub rows: u64,
    /// Their token ids, inputs and targets, at 4 bytes each.
    pub row_bytes: u64,
    /// Vectors of the method, further adapters and prompts, a router, rows that the method drew: 4
    /// bytes a number or id.
    pub state_bytes: u64,
}

impl Kept {
    /// Rows and state together.
    pub fn bytes(&self) -> u64 {
        self.row_bytes + self.state_bytes
    }
}

/// What importance masks have chosen of every tensor, task by task.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FusionTrace {
    /// Names of the adapter's tensors, in the order of the flat vector.
    pub tensors: Vec<String>,
    /// Parameters of each.
    pub sizes: Vec<u64>,
    /// The tasks in which something was fused.
    pub tasks: Vec<TaskFusion>,
}

/// Parameters in the masks of one task: of each tensor, summed over all rounds. Divided by rounds
/// and size they are mean shares; what is in none of the three is in neither mask.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskFusion {
    /// Position of the task in the order.
    pub task: usize,
    /// Rounds that were fused.
    pub rounds: u64,
    /// In the inner mask alone.
    pub inner_only: Vec<u64>,
    /// In the outer mask alone.
    pub outer_only: Vec<u64>,
    /// In both.
    pub both: Vec<u64>,
}

impl FusionTrace {
    /// A trace of the tensors of `layout` without a task.
    pub fn new(layout: &ParamLayout) -> Self {
        let specs = layout.specs();
        Self {
            tensors: specs.iter().map(|spec| spec.name.clone()).collect(),
            sizes: specs.iter().map(|spec| spec.range.len() as u64).collect(),
            tasks: Vec::new(),
        }
    }

    /// Adds what the masks of one round in task `task` chose, if they chose, to a trace that begins
    /// with its first round.
    pub fn note(
        trace: &mut Option<Self>,
        layout: &ParamLayout,
        task: usize,
        round: Option<&[Regions]>,
    ) {
        if let Some(round) = round {
            trace
                .get_or_insert_with(|| Self::new(layout))
                .add(task, round);
        }
    }

    /// Adds what the masks of one round in task `task` chose of each tensor.
    pub fn add(&mut self, task: usize, round: &[Regions]) {
        assert_eq!(round.len(), self.sizes.len(), "regions, tensors");
        if self.tasks.last().is_none_or(|last| last.task != task) {
            let zeros = || vec![0; round.len()];
            self.tasks.push(TaskFusion {
                task,
                rounds: 0,
                inner_only: zeros(),
                outer_only: zeros(),
                both: zeros(),
            });
        }
        let sum = self.tasks.last_mut().expect("the task was just added");
        sum.rounds += 1;
        for (i, regions) in round.iter().enumerate() {
            sum.inner_only[i] += regions.inner_only;
            sum.outer_only[i] += regions.outer_only;
            sum.both[i] += regions.both;
        }
    }
}

/// What differs between two runs of the same cell.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timing {
    /// Training and evaluation, a line per training.
    pub tasks: Vec<TaskTiming>,
    /// Threads.
    pub threads: usize,
    /// How often the cell was resumed from a checkpoint.
    pub resumed: usize,
}

/// Times of one task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskTiming {
    /// Seconds of training.
    pub train_s: f64,
    /// Seconds of evaluation after it.
    pub evaluate_s: f64,
    /// Largest resident memory of the process since the cell was begun or resumed, in MiB; none
    /// where the system does not say. What earlier cells of the same process have left in its
    /// allocator is part of it.
    pub peak_rss_mib: Option<u64>,
}

impl Record {
    /// The version that this program writes.
    pub fn format() -> u32 {
        FORMAT
    }

    /// Reads a record.
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).or_bad_input(|| format!("reading {}", path.display()))?;
        let record: Self = serde_json::from_str(&text)
            .map_err(|e| BadInput(format!("{}: not a record: {e}", path.display())))?;
        if record.format != FORMAT {
            let problem = format!(
                "{}: format {}, expected {FORMAT}",
                path.display(),
                record.format
            );
            return Err(BadInput(problem).into());
        }
        Ok(record)
    }

    /// Writes it, completely or not at all.
    pub fn write(&self, path: &Path) -> Result<()> {
        atomic::write_json(path, self)
    }
}

/// The name of the folder of a cell.
pub fn cell_name(method: &str, order: usize, seed: u64) -> String {
    format!("{method}-o{order}-s{seed}")
}

/// Correctness as text: `1` right, `0` wrong.
pub fn bits(correct: &[bool]) -> String {
    correct.iter().map(|&c| if c { '1' } else { '0' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_curve_averages_groups_of_steps() {
        let losses: Vec<f64> = (0..LOSS_EVERY + 2).map(|i| i as f64).collect();
        let curve = LossCurve::new("a", &losses);
        assert_eq!((curve.steps, curve.mean), (12, vec![4.5, 10.5]));
    }

    #[test]
    fn a_fusion_trace_sums_rounds_by_task() {
        let mut layout = ParamLayout::default();
        layout.push("a".to_owned(), vec![2, 3]);
        layout.push("b".to_owned(), vec![4]);
        let mut trace = FusionTrace::new(&layout);
        let regions = |inner_only, outer_only, both| Regions {
            inner_only,
            outer_only,
            both,
        };
        trace.add(1, &[regions(1, 2, 3), regions(0, 0, 4)]);
        trace.add(1, &[regions(1, 0, 0), regions(1, 1, 0)]);
        trace.add(2, &[regions(0, 5, 0), regions(0, 0, 0)]);
        assert_eq!(trace.sizes, [6, 4]);
        let [first, second] = &trace.tasks[..] else {
            panic!("{trace:?}")
        };
        assert_eq!((first.task, first.rounds), (1, 2));
        assert_eq!(
            (&first.inner_only, &first.outer_only, &first.both),
            (&vec![2, 1], &vec![2, 1], &vec![3, 4])
        );
        assert_eq!(
            (second.task, second.rounds, second.outer_only[0]),
            (2, 1, 5)
        );
    }

    #[test]
    fn bits_are_in_row_order() {
        assert_eq!(bits(&[true, false, true]), "101");
    }
}
