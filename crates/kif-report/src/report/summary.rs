//! What the records of a run say together: means and standard deviations over orders and seeds.

use std::collections::{BTreeMap, BTreeSet};

use kif_eval::statistics::{fixed_effects_interval, mean, sample_std, t_interval};
use kif_eval::{Metric, References};
use kif_methods::{MethodConfig, Regime};
use kif_protocol::lock::Lock;
use kif_protocol::{Arch, Protocol, ScoreKind};

use super::comparison::{Comparison, Comparisons, Lead};
use super::costs::Costs;
use super::curves::{Curve, curves};
use super::density::Density;
use super::test_rows;
use crate::record::Record;

/// How to read the tables.
pub(super) const READING: &str = "mean ± standard deviation over orders and seeds, in percent; ± test rows is half the 95 % interval \
                           when test rows are drawn again and models stay; a[i,j] is the score on task j after task i of K\n";

/// Everything that a report prints.
pub struct Summary {
    /// Name of the protocol.
    pub name: String,
    /// The base in words: its folder, or which embedded one it is.
    pub base: String,
    /// The run's configuration as RON.
    pub protocol: String,
    /// What the run was made of, if it says.
    pub lock: Option<Lock>,
    /// Methods by falling OP, references behind those that learn a stream.
    pub methods: Vec<MethodSummary>,
    /// OP of always answering each task's most frequent training label.
    pub majority: Option<Spread>,
    /// Every method against one; none where no two methods share a cell.
    pub comparisons: Option<Comparisons>,
    /// The best method against the next.
    pub lead: Option<Lead>,
    /// What was run.
    pub extent: Extent,
    /// Tasks in the order of the first record.
    pub tasks: Vec<TaskSummary>,
}

/// How much was run.
pub struct Extent {
    /// Finished cells.
    pub n_cells: usize,
    /// Orders that they have, ascending.
    pub orders: Vec<usize>,
    /// Seeds that they have, ascending.
    pub seeds: Vec<u64>,
    /// Trainable parameters, each number once: more for methods with adapters side by side.
    pub n_params: Vec<usize>,
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
pub struct MethodSummary {
    /// Its name.
    pub name: String,
    /// Finished cells.
    pub n_cells: usize,
    /// Every metric that some cell has.
    pub metrics: BTreeMap<Metric, Spread>,
    /// Half the width of the 95 % interval of those metrics that are weighted sums of cells, test rows drawn again.
    pub test_rows: BTreeMap<Metric, f64>,
    /// Score on each task at the end, by task name.
    pub last: BTreeMap<String, Spread>,
    /// Mean matrices, an order each.
    pub matrices: Vec<MatrixMean>,
    /// Its settings.
    pub settings: MethodConfig,
    /// What a cell of it costs.
    pub costs: Costs,
    /// Training losses in its first order.
    pub curves: Vec<Curve>,
    /// Where its masks lay in its first order; none of methods without masks.
    pub density: Option<Density>,
}

impl MethodSummary {
    /// Whether it learns a stream; joint training and tasks alone are references.
    pub fn is_stream(&self) -> bool {
        self.settings.regime() == Regime::Stream
    }

    /// Whether it is the upper bound.
    pub fn is_joint(&self) -> bool {
        self.settings.regime() == Regime::Joint
    }

    /// Mean OP, or the least number where there is none.
    fn op(&self) -> f64 {
        self.metrics.get(&Metric::Op).map_or(f64::MIN, |op| op.mean)
    }
}

/// The mean over seeds of the score matrices of one order.
pub struct MatrixMean {
    /// Order, from 1.
    pub order: usize,
    /// Tasks, a column each.
    pub tasks: Vec<String>,
    /// `[K + 1][K]`; row 0 is the base.
    pub rows: Vec<Vec<Option<f64>>>,
}

/// What is known about a task.
pub struct TaskSummary {
    /// Its name.
    pub name: String,
    /// What its score is.
    pub score: ScoreKind,
    /// Training rows.
    pub train_rows: usize,
    /// Test rows.
    pub test_rows: usize,
    /// Training and test prompts that lost tokens.
    pub cut: usize,
    /// Distinct first references of the training rows.
    pub n_labels: usize,
    /// Score of the majority class.
    pub majority: f64,
    /// Score of the base.
    pub base: Option<f64>,
}

/// Values over orders and seeds.
#[derive(Clone, Debug, PartialEq)]
pub struct Spread {
    /// Their mean.
    pub mean: f64,
    /// Their sample standard deviation; none of one value.
    pub std: Option<f64>,
    /// Half the width of the 95 % interval of the mean (Student's t): with orders as fixed effects where some order has two
    /// seeds, else over all values; none of one value.
    pub half_width: Option<f64>,
    /// How many there are.
    pub n: usize,
}

impl Spread {
    /// Of at least one value.
    fn of(values: &[f64]) -> Option<Self> {
        Self::over_orders(&values.iter().map(|x| (1, *x)).collect::<Vec<_>>())
    }

    /// Of at least one value, each with its order; all orders weigh the same.
    pub(crate) fn over_orders(values: &[(usize, f64)]) -> Option<Self> {
        let mut by_order: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
        for (order, value) in values {
            by_order.entry(*order).or_default().push(*value);
        }
        let groups: Vec<Vec<f64>> = by_order.into_values().collect();
        let all: Vec<f64> = values.iter().map(|(_, value)| *value).collect();
        let interval = fixed_effects_interval(&groups, 0.95).or_else(|_| t_interval(&all, 0.95));
        let means: Vec<f64> = groups.iter().filter_map(|group| mean(group)).collect();
        Some(Self {
            mean: mean(&means)?,
            std: sample_std(&all),
            half_width: interval.ok().map(|interval| interval.half_width),
            n: all.len(),
        })
    }

    /// `71.3 ± 0.8`, in percent.
    pub fn percent(&self) -> String {
        match self.std {
            Some(std) => format!("{:.1} ± {:.1}", 100.0 * self.mean, 100.0 * std),
            None => format!("{:.1}", 100.0 * self.mean),
        }
    }

    /// `71.3 [70.1, 72.5]`, or with the deviation where there is no interval, in percent.
    pub fn with_interval(&self) -> String {
        match self.interval() {
            Some(interval) => format!("{:.1} {interval}", 100.0 * self.mean),
            None => self.percent(),
        }
    }

    /// `[70.1, 72.5]`, the 95 % interval in percent.
    pub fn interval(&self) -> Option<String> {
        let half = self.half_width?;
        Some(format!(
            "[{:.1}, {:.1}]",
            100.0 * (self.mean - half),
            100.0 * (self.mean + half)
        ))
    }
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
        let lead = Lead::new(&methods, &records);
        let majority: Vec<f64> = records.iter().map(majority_op).collect();
        Self {
            name: protocol.name.clone(),
            base: match (&protocol.model, protocol.arch.unwrap_or_default()) {
                (Some(path), _) => path.display().to_string(),
                (None, Arch::T5) => "the embedded base".to_owned(),
                (None, Arch::Decoder) => "the embedded decoder-only base".to_owned(),
            },
            protocol: protocol.to_ron(),
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
    pub fn has(&self, metric: Metric) -> bool {
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
        // Tasks learned alone have no stream: their last row repeats the diagonal, and says nothing about transfer.
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

/// Last scores of the cell of `method` with the same order and seed: what some metrics compare with.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_prints_percent() {
        let spread = Spread::of(&[0.7, 0.72]).unwrap();
        assert_eq!(spread.percent(), "71.0 ± 1.4");
        assert_eq!(spread.interval().unwrap(), "[58.3, 83.7]");
        assert_eq!(Spread::of(&[0.5]).unwrap().percent(), "50.0");
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn orders_weigh_the_same_and_only_seeds_are_uncertain() {
        let spread = Spread::over_orders(&[(1, 0.5), (1, 0.5), (2, 0.9)]).unwrap();
        assert!((spread.mean - 0.7).abs() < 1e-12);
        assert_eq!((spread.half_width, spread.n), (Some(0.0), 3));
        let one_seed = Spread::over_orders(&[(1, 0.5), (2, 0.9)]).unwrap();
        assert!(one_seed.half_width.unwrap() > 1.0, "{one_seed:?}");
    }
}
