//! What the records of a run say together: means and standard deviations over orders and seeds.

use std::collections::{BTreeMap, BTreeSet};

use kif_eval::statistics::mean;
use kif_eval::{Metric, References};
use kif_methods::{MethodConfig, Regime};
use kif_protocol::lock::Lock;
use kif_protocol::{Arch, EvaluatedCells, Protocol, ScoreKind};

use super::comparison::{Comparison, Comparisons, Lead};
use super::costs::Costs;
use super::curves::{Curve, curves};
use super::density::Density;
use super::spread::Spread;
use super::test_rows;
use crate::record::Record;

/// How to read the tables.
const READING: &str = "mean ± standard deviation over orders and seeds, in percent; ± test rows is half the 95 % interval \
                           when test rows are drawn again and models stay; a[i,j] is the score on task j after task i of K\n";

/// Added where only some cells of the matrices are there.
const ONLY_NEEDED: &str = "evaluated after each task on that task alone and on all in the end (evaluation.cells: needed): metrics that \
                           need other cells, such as forgetting from the best, have no column\n";

/// Everything that a report prints.
pub(crate) struct Summary {
    /// Name of the protocol.
    pub(crate) name: String,
    /// The base in words: its folder, or which embedded one it is.
    pub(crate) base: String,
    /// The run's configuration as RON.
    pub(crate) protocol: String,
    /// How to read the tables.
    pub(crate) reading: String,
    /// What the run was made of, if it says.
    pub(crate) lock: Option<Lock>,
    /// Methods by falling OP, references after those that learn a stream.
    pub(crate) methods: Vec<MethodSummary>,
    /// OP of always writing each task's most frequent training label.
    pub(crate) majority: Option<Spread>,
    /// Every method against one; none where no two methods share a cell.
    pub(crate) comparisons: Option<Comparisons>,
    /// The best method against the next.
    pub(crate) lead: Option<Lead>,
    /// What was run.
    pub(crate) extent: Extent,
    /// Tasks in the order of the first record.
    pub(crate) tasks: Vec<TaskSummary>,
}

/// How much was run.
pub(crate) struct Extent {
    /// Finished cells.
    pub(crate) n_cells: usize,
    /// Orders that they have, ascending.
    pub(crate) orders: Vec<usize>,
    /// Seeds that they have, ascending.
    pub(crate) seeds: Vec<u64>,
    /// Trainable parameters, each number once: more for methods with adapters side by side.
    pub(crate) n_params: Vec<usize>,
}

impl Extent {
    fn new(records: &[Record]) -> Self {
        fn distinct<T: Ord>(values: impl Iterator<Item = T>) -> Vec<T> {
            values.collect::<BTreeSet<T>>().into_iter().collect()
        }
        Self {
            n_cells: records.len(),
            orders: distinct(records.iter().map(|record| record.order)),
            seeds: distinct(records.iter().map(|record| record.seed)),
            n_params: distinct(records.iter().map(|record| record.n_params)),
        }
    }
}

/// What is known about a method.
pub(crate) struct MethodSummary {
    /// Its name.
    pub(crate) name: String,
    /// Finished cells.
    pub(crate) n_cells: usize,
    /// Every metric that some cell has.
    pub(crate) metrics: BTreeMap<Metric, Spread>,
    /// Half the width of the 95 % interval of those metrics that are weighted sums of cells, test
    /// rows drawn again.
    pub(crate) test_rows: BTreeMap<Metric, f64>,
    /// Score on each task at the end, by task name.
    pub(crate) last: BTreeMap<String, Spread>,
    /// Mean matrices, an order each.
    pub(crate) matrices: Vec<MatrixMean>,
    /// Its settings.
    pub(crate) settings: MethodConfig,
    /// What a cell of it costs.
    pub(crate) costs: Costs,
    /// Training losses in its first order.
    pub(crate) curves: Vec<Curve>,
    /// Where its masks lay in its first order; none of methods without masks.
    pub(crate) density: Option<Density>,
}

impl MethodSummary {
    /// Whether it learns a stream; joint training and tasks alone are references.
    pub(crate) fn is_stream(&self) -> bool {
        self.settings.regime() == Regime::Stream
    }

    /// Whether it is the upper bound.
    pub(crate) fn is_joint(&self) -> bool {
        self.settings.regime() == Regime::Joint
    }

    /// Mean OP, or the least number where there is none.
    fn op(&self) -> f64 {
        self.metrics.get(&Metric::Op).map_or(f64::MIN, |op| op.mean)
    }
}

/// The mean over seeds of the score matrices of one order.
pub(crate) struct MatrixMean {
    /// Order, from 1.
    pub(crate) order: usize,
    /// Tasks, a column each.
    pub(crate) tasks: Vec<String>,
    /// `[K + 1][K]`; row 0 is the base.
    pub(crate) rows: Vec<Vec<Option<f64>>>,
}

/// What is known about a task.
pub(crate) struct TaskSummary {
    /// Its name.
    pub(crate) name: String,
    /// What its score is.
    pub(crate) score: ScoreKind,
    /// Training rows.
    pub(crate) train_rows: usize,
    /// Test rows.
    pub(crate) test_rows: usize,
    /// Training and test prompts that lost tokens.
    pub(crate) cut: usize,
    /// Distinct first references of the training rows.
    pub(crate) n_labels: usize,
    /// Score of the majority class.
    pub(crate) majority: f64,
    /// Score of the base.
    pub(crate) base: Option<f64>,
}

impl Summary {
    /// Puts records together; those of methods that the protocol does not name come last.
    ///
    /// `reference` is the method that the others are compared with.
    pub(crate) fn new(
        protocol: &Protocol,
        lock: Option<Lock>,
        records: Vec<Record>,
        reference: Option<&str>,
    ) -> Self {
        let mut names = protocol.methods.clone();
        for record in &records {
            if !names.contains(&record.method) {
                names.push(record.method.clone());
            }
        }
        let mut methods: Vec<MethodSummary> = (names.iter())
            .filter_map(|name| {
                let own: Vec<&Record> = records
                    .iter()
                    .filter(|record| &record.method == name)
                    .collect();
                (!own.is_empty()).then(|| method(name, &own, &records))
            })
            .collect();
        // Of equal ones the first of the protocol.
        methods.sort_by(|a, b| {
            let by_op = b.op().total_cmp(&a.op());
            b.is_stream().cmp(&a.is_stream()).then(by_op)
        });
        let ranks: Vec<String> = methods.iter().map(|method| method.name.clone()).collect();
        let mut comparisons = Comparisons::new(&names, &records, reference);
        if let Some(comparisons) = &mut comparisons {
            let rank = |one: &Comparison| ranks.iter().position(|name| *name == one.method);
            comparisons.methods.sort_by_key(rank);
        }
        let streams = methods.iter().filter(|method| method.is_stream());
        let lead = Lead::new(streams.map(|method| method.name.as_str()), &records);
        let majority: Vec<f64> = records.iter().map(majority_op).collect();
        Self {
            name: protocol.name.clone(),
            base: match (&protocol.model, protocol.arch.unwrap_or_default()) {
                (Some(path), _) => path.display().to_string(),
                (None, Arch::T5) => "the embedded base".to_owned(),
                (None, Arch::Decoder) => "the embedded decoder-only base".to_owned(),
            },
            protocol: protocol.to_ron(),
            reading: match protocol.evaluation.cells {
                EvaluatedCells::All => READING.to_owned(),
                EvaluatedCells::Needed => format!("{READING}{ONLY_NEEDED}"),
            },
            lock,
            methods,
            // Records of one order have the same value: only the distinct orders count.
            majority: Spread::of(&one_per_order(&records, &majority)),
            comparisons,
            lead,
            extent: Extent::new(&records),
            tasks: tasks(&records),
        }
    }

    /// Whether some method has that metric.
    pub(crate) fn has(&self, metric: Metric) -> bool {
        self.methods
            .iter()
            .any(|method| method.metrics.contains_key(&metric))
    }
}

fn method(name: &str, own: &[&Record], all: &[Record]) -> MethodSummary {
    let mut values: BTreeMap<Metric, Vec<(usize, f64)>> = BTreeMap::new();
    let mut last: BTreeMap<String, Vec<(usize, f64)>> = BTreeMap::new();
    for record in own {
        let per_task = reference(record, all, Regime::PerTask);
        let joint = reference(record, all, Regime::Joint);
        let references = References {
            per_task: per_task.as_deref(),
            joint: joint.as_deref(),
        };
        // Tasks learned alone have no stream: their last row repeats the diagonal, and says nothing
        // about transfer.
        let alone = record.settings.method.regime() == Regime::PerTask;
        for &metric in if alone { &[Metric::Op] } else { Metric::ALL } {
            if let Some(value) = metric.compute(&record.scores, &references) {
                let values = values.entry(metric).or_default();
                values.push((record.order, value));
            }
        }
        for (i, task) in record.tasks.iter().enumerate() {
            if let Some(score) = record.scores.last(i) {
                let last = last.entry(task.clone()).or_default();
                last.push((record.order, score));
            }
        }
    }
    let weights = test_rows::mean_weights(own);
    let weighted: Vec<(&Record, f64)> = own.iter().copied().zip(weights).collect();
    let test_rows = (values.keys())
        .filter_map(|&metric| Some((metric, test_rows::half_width(&weighted, metric)?)))
        .collect();
    let first = own.iter().map(|record| record.order).min();
    let of_first: Vec<&Record> = (own.iter().copied())
        .filter(|record| Some(record.order) == first)
        .collect();
    MethodSummary {
        name: name.to_owned(),
        n_cells: own.len(),
        metrics: spreads(values),
        test_rows,
        last: spreads(last),
        matrices: matrices(own),
        settings: own[0].settings.method.clone(),
        costs: Costs::of(own),
        curves: curves(&of_first),
        density: Density::of(&of_first),
    }
}

fn spreads<K: Ord>(values: BTreeMap<K, Vec<(usize, f64)>>) -> BTreeMap<K, Spread> {
    values
        .into_iter()
        .filter_map(|(key, values)| Some((key, Spread::over_orders(&values)?)))
        .collect()
}

/// Last scores of the cell of another regime with the same order and seed: what some metrics
/// compare with.
fn reference(record: &Record, all: &[Record], regime: Regime) -> Option<Vec<f64>> {
    let found = all.iter().find(|other| {
        other.settings.method.regime() == regime
            && (other.order, other.seed) == (record.order, record.seed)
    })?;
    found.scores.last_row()
}

/// Means over the seeds of an order, where all of them have the cell.
fn matrices(own: &[&Record]) -> Vec<MatrixMean> {
    let mut orders: Vec<usize> = own.iter().map(|record| record.order).collect();
    orders.sort_unstable();
    orders.dedup();
    let one = |order: usize| {
        let same: Vec<&&Record> = own.iter().filter(|record| record.order == order).collect();
        let tasks = same[0].tasks.clone();
        let cell = |after: usize, task: usize| {
            let values: Option<Vec<f64>> = same
                .iter()
                .map(|record| record.scores.get(after, task))
                .collect();
            mean(&values?)
        };
        let rows = (0..=tasks.len())
            .map(|after| (0..tasks.len()).map(|task| cell(after, task)).collect())
            .collect();
        MatrixMean { order, tasks, rows }
    };
    orders.into_iter().map(one).collect()
}

fn majority_op(record: &Record) -> f64 {
    record
        .task_notes
        .iter()
        .map(|task| task.majority)
        .sum::<f64>()
        / record.task_notes.len() as f64
}

fn one_per_order(records: &[Record], values: &[f64]) -> Vec<f64> {
    let mut seen = BTreeMap::new();
    for (record, &value) in records.iter().zip(values) {
        seen.entry(record.order).or_insert(value);
    }
    seen.into_values().collect()
}

fn tasks(records: &[Record]) -> Vec<TaskSummary> {
    let mut tasks: Vec<TaskSummary> = Vec::new();
    for record in records {
        for (i, note) in record.task_notes.iter().enumerate() {
            if tasks.iter().any(|task| task.name == note.name) {
                continue;
            }
            tasks.push(TaskSummary {
                name: note.name.clone(),
                score: note.score,
                train_rows: note.train_rows,
                test_rows: note.test_rows,
                cut: note.train_cut + note.test_cut,
                n_labels: note.n_labels,
                majority: note.majority,
                base: record.scores.get(0, i),
            });
        }
    }
    tasks
}
