//! What a method costs, over its cells.

use kif_eval::statistics::mean;

use crate::record::Record;

/// Means over the cells of a method, but for the peak.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Costs {
    /// Optimizer updates of a cell, memory steps included.
    pub(crate) updates: f64,
    /// Tokens that went forward in training.
    pub(crate) tokens_forward: f64,
    /// Tokens that went backward.
    pub(crate) tokens_backward: f64,
    /// Rows of memory steps.
    pub(crate) replayed_rows: f64,
    /// Rows that are kept from task to task; none where some record does not say.
    pub(crate) kept_rows: Option<f64>,
    /// Bytes that are kept from task to task beside one adapter, rows and state together.
    pub(crate) kept_bytes: Option<f64>,
    /// Seconds of training.
    pub(crate) train_s: f64,
    /// Seconds of evaluation.
    pub(crate) evaluate_s: f64,
    /// The largest peak of memory among all cells, in MiB.
    pub(crate) peak_mib: Option<u64>,
    /// Threads that the cells ran on, each number once, ascending.
    pub(crate) threads: Vec<usize>,
    /// How often cells were resumed, all together.
    pub(crate) resumed: usize,
}

impl Costs {
    /// Of at least one record.
    pub(super) fn of(records: &[&Record]) -> Self {
        let over = |value: &dyn Fn(&Record) -> f64| {
            let values: Vec<f64> = records.iter().map(|record| value(record)).collect();
            mean(&values).unwrap_or_default()
        };
        let known = |value: &dyn Fn(&Record) -> Option<u64>| {
            let values: Option<Vec<f64>> = (records.iter())
                .map(|record| value(record).map(|x| x as f64))
                .collect();
            mean(&values?)
        };
        let timings = records.iter().flat_map(|record| &record.timing.tasks);
        let mut threads: Vec<usize> = records.iter().map(|r| r.timing.threads).collect();
        threads.sort_unstable();
        threads.dedup();
        Self {
            updates: over(&|record| record.cost.updates as f64),
            tokens_forward: over(&|record| record.cost.tokens_forward() as f64),
            tokens_backward: over(&|record| record.cost.tokens as f64),
            replayed_rows: over(&|record| record.cost.memory_rows as f64),
            kept_rows: known(&|record| record.kept.map(|kept| kept.rows)),
            kept_bytes: known(&|record| record.kept.map(|kept| kept.bytes())),
            train_s: over(&|record| record.timing.tasks.iter().map(|t| t.train_s).sum()),
            evaluate_s: over(&|record| record.timing.tasks.iter().map(|t| t.evaluate_s).sum()),
            peak_mib: timings.filter_map(|timing| timing.peak_rss_mib).max(),
            threads,
            resumed: records.iter().map(|record| record.timing.resumed).sum(),
        }
    }

    /// Tokens of both passes.
    pub(crate) fn tokens(&self) -> f64 {
        self.tokens_forward + self.tokens_backward
    }
}
