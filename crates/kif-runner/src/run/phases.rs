//! In which phases a cell learns and is evaluated: one phase per task, one for all tasks, or each
//! task alone.

use std::sync::Arc;

use kif_methods::{MemoryOrder, Regime, TaskView};
use kif_protocol::{EvaluatedCells, Protocol};

use crate::run::{Cell, Inputs};

/// A training and the evaluations after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Phase {
    /// Position in the order of the task that is learned.
    pub(super) task_idx: usize,
    /// Row of the score matrix that the evaluations fill.
    pub(super) after: usize,
    /// Positions of the tasks that are evaluated.
    pub(super) evaluated: Vec<usize>,
}

/// The phases of a regime on `n_tasks` tasks.
///
/// In a stream every task seen so far is evaluated, and the next one, which forward transfer needs;
/// or the task itself and all in the end. Joint training has only the last row. Tasks alone have
/// only the diagonal.
pub(super) fn phases(regime: Regime, n_tasks: usize, cells: EvaluatedCells) -> Vec<Phase> {
    let one = |task_idx: usize, evaluated: Vec<usize>| Phase {
        task_idx,
        after: task_idx + 1,
        evaluated,
    };
    match regime {
        Regime::Stream => (0..n_tasks)
            .map(|t| match cells {
                EvaluatedCells::Needed if t + 1 < n_tasks => one(t, vec![t]),
                _ => one(t, (0..n_tasks.min(t + 2)).collect()),
            })
            .collect(),
        Regime::Joint => vec![one(n_tasks - 1, (0..n_tasks).collect())],
        Regime::PerTask => (0..n_tasks).map(|t| one(t, vec![t])).collect(),
    }
}

/// What a cell's method sees in a phase; `highest` as in [`Inputs::kept`].
pub(super) fn view(
    protocol: &Protocol,
    inputs: &Inputs,
    cell: &Cell,
    regime: Regime,
    phase: &Phase,
    highest: &[Vec<usize>],
) -> TaskView {
    let order = inputs.order(cell.order);
    let task = |i: usize| inputs.task(&order[i]);
    let (mut memory, mut memory_sizes, mut all_rows) = (Vec::new(), Vec::new(), Vec::new());
    match regime {
        Regime::Stream => {
            let kept = inputs.kept(protocol, (cell.order, cell.seed), phase.task_idx, highest);
            for (earlier, rows) in kept.into_iter().enumerate() {
                let train = &task(earlier).train;
                memory_sizes.push(rows.len());
                memory.extend(rows.into_iter().map(|row| train[row].clone()));
            }
        }
        Regime::Joint => {
            (0..order.len()).for_each(|i| all_rows.extend(task(i).train.iter().cloned()))
        }
        Regime::PerTask => {}
    }
    TaskView {
        index: phase.task_idx,
        name: if regime == Regime::Joint {
            "all tasks".to_owned()
        } else {
            order[phase.task_idx].clone()
        },
        rows: Arc::clone(&task(phase.task_idx).train),
        memory: Arc::new(memory),
        memory_sizes,
        all_rows: Arc::new(all_rows),
        batch_size: protocol.training.batch_size,
        seed: cell.seed,
        memory_order: MemoryOrder::Drawn,
    }
}

/// Units of one row that is trained on, against those of one test row that is answered: a pass
/// forward and backward costs about three passes forward. It only matters for the time left.
pub(super) const UNITS_PER_TRAINED_ROW: u64 = 3;

/// Rows that are trained on in a phase, with the steps that a method adds to them.
pub(super) fn training_units(
    protocol: &Protocol,
    inputs: &Inputs,
    cell: &Cell,
    phase: &Phase,
    regime: Regime,
) -> u64 {
    let order = inputs.order(cell.order);
    let n_train = |i: usize| inputs.task(&order[i]).train.len();
    let rows = match regime {
        Regime::Joint => (0..order.len()).map(n_train).sum(),
        Regime::Stream | Regime::PerTask => n_train(phase.task_idx),
    };
    let epochs = protocol.training.epochs as f64;
    let added = if phase.task_idx > 0 && regime == Regime::Stream {
        cell.config.added_steps()
    } else {
        0.0
    };
    (rows as f64 * epochs * (1.0 + added)) as u64 * UNITS_PER_TRAINED_ROW
}

/// Rows that are answered after a phase.
pub(super) fn evaluation_units(inputs: &Inputs, cell: &Cell, phase: &Phase) -> u64 {
    let order = inputs.order(cell.order);
    phase
        .evaluated
        .iter()
        .map(|&i| inputs.task(&order[i]).test.n_rows() as u64)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_evaluated_on_what_it_has_seen_and_on_the_next_task() {
        let evaluated = |cells| -> Vec<_> {
            let phases = phases(Regime::Stream, 3, cells).into_iter();
            phases.map(|p| (p.after, p.evaluated)).collect()
        };
        assert_eq!(
            evaluated(EvaluatedCells::All),
            [(1, vec![0, 1]), (2, vec![0, 1, 2]), (3, vec![0, 1, 2])]
        );
        assert_eq!(
            evaluated(EvaluatedCells::Needed),
            [(1, vec![0]), (2, vec![1]), (3, vec![0, 1, 2])]
        );
    }

    #[test]
    fn joint_training_has_only_the_last_row_and_tasks_alone_only_the_diagonal() {
        assert_eq!(
            phases(Regime::Joint, 3, EvaluatedCells::Needed),
            [Phase {
                task_idx: 2,
                after: 3,
                evaluated: vec![0, 1, 2]
            }]
        );
        let alone: Vec<_> = phases(Regime::PerTask, 2, EvaluatedCells::All)
            .into_iter()
            .map(|p| (p.after, p.evaluated))
            .collect();
        assert_eq!(alone, [(1, vec![0]), (2, vec![1])]);
    }
}
