//! How far a method's numbers may be off because the test sets are samples: the rows of the
//! records' correctness.

use std::collections::BTreeMap;

use kif_eval::Metric;
use kif_eval::statistics::test_row_interval;
use kif_eval::transfer::weights;
use kif_methods::Regime;

use crate::record::Record;

/// Half the width of the 95 % interval of a weighted sum of records' values of `metric`, models
/// held fixed and test rows drawn again. A comparison has weights of both signs, so what two
/// methods get right together cancels.
///
/// `None` for metrics that are no weighted sum of cells, where a record lacks the rows of a cell,
/// and where records have another number of rows of a task.
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

/// The weight of each record in a mean in which all orders, and all seeds of an order, weigh the
/// same.
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
    let alone = record.settings.method.regime() == Regime::PerTask;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Correctness, Settings, Timing};
    use kif_eval::ScoreMatrix;
    use kif_methods::Counters;
    use kif_methods::methods::SeqLoraConfig;
    use kif_protocol::Protocol;

    /// A cell of `quick` that learned `tasks`, with the bits of `(after, task)`.
    fn record(order: usize, tasks: &[&str], cells: &[(usize, usize, &str)]) -> Record {
        let protocol = Protocol::load("quick").unwrap();
        let correctness = cells.iter().map(|&(after, task, correct)| Correctness {
            after,
            task,
            correct: correct.to_owned(),
            rouge_l: Vec::new(),
        });
        Record {
            format: 1,
            protocol: protocol.name.clone(),
            method: "seq_lora".to_owned(),
            order,
            seed: 1,
            tasks: tasks.iter().map(|name| (*name).to_owned()).collect(),
            settings: Settings::new(&protocol, "seq_lora", SeqLoraConfig.into()),
            scores: ScoreMatrix::new(tasks.len()),
            metrics: BTreeMap::new(),
            task_notes: Vec::new(),
            correctness: correctness.collect(),
            predictions: BTreeMap::new(),
            losses: Vec::new(),
            cost: Counters::default(),
            kept: None,
            fusion: None,
            n_params: 0,
            timing: Timing::default(),
        }
    }

    fn expected(strata: [&[f64]; 2]) -> Option<f64> {
        let strata = strata.map(<[f64]>::to_vec);
        Some(test_row_interval(&strata, 0.95).unwrap().half_width)
    }

    #[test]
    fn rows_of_a_task_are_summed_over_cells_by_hand() {
        let cells = [(1, 0, "1101"), (2, 0, "1000"), (2, 1, "101")];
        let record = record(1, &["a", "b"], &cells);
        let records = [(&record, 1.0)];
        assert_eq!(
            half_width(&records, Metric::Op),
            expected([&[0.5, 0.0, 0.0, 0.0], &[0.5, 0.0, 0.5]])
        );
        // Of two tasks the first alone has a change: 1000 less 1101.
        let change = test_row_interval(&[vec![0.0, -1.0, 0.0, -1.0]], 0.95).unwrap();
        assert_eq!(
            half_width(&records, Metric::BwtGem),
            Some(change.half_width)
        );
    }

    #[test]
    fn a_task_is_the_same_wherever_it_stands_in_an_order() {
        let one = record(1, &["a", "b"], &[(2, 0, "1100"), (2, 1, "10")]);
        let two = record(2, &["b", "a"], &[(2, 0, "11"), (2, 1, "0101")]);
        let records = [(&one, 0.5), (&two, 0.5)];
        let strata: [&[f64]; 2] = [&[0.25, 0.5, 0.0, 0.25], &[0.5, 0.25]];
        assert_eq!(half_width(&records, Metric::Op), expected(strata));
    }

    #[test]
    fn what_two_records_have_in_common_cancels() {
        let cells = [(2, 0, "1100"), (2, 1, "10")];
        let one = record(1, &["a", "b"], &cells);
        let other = record(1, &["a", "b"], &[(2, 0, "1000"), (2, 1, "10")]);
        assert_eq!(
            half_width(&[(&one, 1.0), (&one, -1.0)], Metric::Op),
            Some(0.0)
        );
        assert_eq!(
            half_width(&[(&one, 1.0), (&other, -1.0)], Metric::Op),
            expected([&[0.0, 0.5, 0.0, 0.0], &[0.0, 0.0]])
        );
    }

    #[test]
    fn what_cannot_be_drawn_again_has_no_interval() {
        let cells = [(1, 0, "11"), (2, 0, "10"), (2, 1, "10")];
        let whole = record(1, &["a", "b"], &cells);
        let shorter = record(1, &["a", "b"], &[(2, 0, "1"), (2, 1, "10")]);
        assert_eq!(
            half_width(&[(&whole, 1.0)], Metric::ForgettingChaudhry),
            None
        );
        assert_eq!(half_width(&[(&shorter, 1.0)], Metric::BwtGem), None);
        assert_eq!(
            half_width(&[(&whole, 0.5), (&shorter, 0.5)], Metric::Op),
            None
        );
    }

    #[test]
    fn orders_weigh_the_same_however_many_seeds_they_have() {
        let order = |order| record(order, &["a"], &[]);
        let records = [order(1), order(1), order(2)];
        assert_eq!(mean_weights(&records.each_ref()), [0.25, 0.25, 0.5]);
    }
}
