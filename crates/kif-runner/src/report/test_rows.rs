//! How far a method's numbers may be off because the test sets are samples: the rows of the records' correctness.

use std::collections::BTreeMap;

use kif_eval::Metric;
use kif_eval::statistics::test_row_interval;
use kif_eval::transfer::weights;

use crate::methods::MethodConfig;
use crate::record::Record;

/// Half the width of the 95 % interval of a weighted sum of records' values of `metric`, models held fixed and test rows
/// drawn again. A comparison has weights of both signs, so what two methods get right together cancels.
///
/// `None` for metrics that are no weighted sum of cells, where a record lacks the rows of a cell, and where records have
/// another number of rows of a task.
pub(super) fn half_width(records: &[(&Record, f64)], metric: Metric) -> Option<f64> {
    let mut tasks: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (record, weight) in records {
        for cell in weights(metric, record.tasks.len())? {
            let rows = row_scores(record, cell.after, cell.task)?;
            let sums = tasks.entry(&record.tasks[cell.task]);
            let sums = sums.or_insert_with(|| vec![0.0; rows.len()]);
            if sums.len() != rows.len() {
                return None;
            }
            let weight = weight * cell.weight;
            (sums.iter_mut().zip(rows)).for_each(|(sum, score)| *sum += weight * score);
        }
    }
    let strata: Vec<Vec<f64>> = tasks.into_values().collect();
    test_row_interval(&strata, 0.95)
        .ok()
        .map(|interval| interval.half_width)
}

/// The weight of each record in a mean in which all orders, and all seeds of an order, weigh the same.
pub(super) fn mean_weights(records: &[&Record]) -> Vec<f64> {
    let mut seeds: BTreeMap<usize, usize> = BTreeMap::new();
    for record in records {
        *seeds.entry(record.order).or_default() += 1;
    }
    let weight = |record: &&Record| 1.0 / (seeds.len() * seeds[&record.order]) as f64;
    records.iter().map(weight).collect()
}

/// The score of every test row of a task after `after` tasks.
fn row_scores(record: &Record, after: usize, task: usize) -> Option<Vec<f64>> {
    // Tasks learned alone: the last row repeats the diagonal.
    let alone = record.settings.method == MethodConfig::PerTask;
    let after = if alone { task + 1 } else { after };
    let found = (record.correctness.iter()).find(|c| (c.after, c.task) == (after, task))?;
    if !found.rouge_l.is_empty() {
        return Some(found.rouge_l.clone());
    }
    Some(
        found
            .correct
            .bytes()
            .map(|c| f64::from(u8::from(c == b'1')))
            .collect(),
    )
}
