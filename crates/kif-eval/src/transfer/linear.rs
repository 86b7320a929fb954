//! Metrics that are weighted sums of cells, which is what test rows can be drawn again for.

use super::Metric;

/// A cell of the matrix and its weight in a metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weight {
    /// Tasks learned before: the row of the matrix.
    pub after: usize,
    /// The task, from 0: the column.
    pub task: usize,
    /// What its score is multiplied by.
    pub weight: f64,
}

/// The weights of all cells that enter a metric of `n_tasks` tasks; a cell may stand there twice.
/// `None` where a metric is no weighted sum (forgetting from a best score), where it compares with
/// other models, and where it has no term.
pub fn weights(metric: Metric, n_tasks: usize) -> Option<Vec<Weight>> {
    let k = n_tasks as f64;
    let cell = |after, task, weight| Weight {
        after,
        task,
        weight,
    };
    let last = |weight: f64| (0..n_tasks).map(move |task| cell(n_tasks, task, weight));
    // What later tasks did to earlier ones, of the first `of` tasks.
    let changes = |of: usize, weight: f64| {
        (0..of).flat_map(move |task| [cell(n_tasks, task, weight), cell(task + 1, task, -weight)])
    };
    let triangle = || (1..=n_tasks).flat_map(|after| (0..after).map(move |task| (after, task)));
    let past = n_tasks.saturating_sub(1);
    let found: Vec<Weight> = match metric {
        Metric::Op => last(1.0 / k).collect(),
        Metric::ApMeanOfRows => triangle()
            .map(|(after, task)| cell(after, task, 1.0 / (k * after as f64)))
            .collect(),
        Metric::ApLowerTriangle => triangle()
            .map(|(after, task)| cell(after, task, 2.0 / (k * (k + 1.0))))
            .collect(),
        Metric::BwtGem => changes(past, 1.0 / past as f64).collect(),
        Metric::BwtSapt => changes(past, 1.0 / k).collect(),
        Metric::ForgettingFirstLast => changes(past, -1.0 / past as f64).collect(),
        Metric::BwtDiazRodriguez => {
            let weight = 2.0 / (k * (k - 1.0));
            let pairs = triangle().filter(|(after, task)| *after > task + 1);
            pairs
                .flat_map(|(after, task)| {
                    [cell(after, task, weight), cell(task + 1, task, -weight)]
                })
                .collect()
        }
        Metric::FwtGem => {
            let weight = 1.0 / past as f64;
            (1..n_tasks)
                .flat_map(|task| [cell(task, task, weight), cell(0, task, -weight)])
                .collect()
        }
        Metric::FwtAim
        | Metric::ForgettingChaudhry
        | Metric::ForgettingMammoth
        | Metric::IntransigenceJoint
        | Metric::IntransigencePerTask => return None,
    };
    (!found.is_empty()).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::References;
    use crate::transfer::example::{assert_near, matrix};

    #[test]
    fn the_weighted_sum_is_the_metric() {
        let mut n_linear = 0;
        for metric in Metric::ALL.iter().copied() {
            let Some(weights) = weights(metric, 3) else {
                continue;
            };
            n_linear += 1;
            let sum: Option<f64> = (weights.iter())
                .map(|w| Some(w.weight * matrix().get(w.after, w.task)?))
                .sum();
            let expected = metric.compute(&matrix(), &References::default());
            assert_near(sum, expected.expect("every cell is known"));
        }
        assert_eq!(n_linear, 8);
    }

    #[test]
    fn one_task_has_levels_alone() {
        assert_eq!(weights(Metric::Op, 1).unwrap().len(), 1);
        for metric in [Metric::BwtGem, Metric::BwtDiazRodriguez, Metric::FwtGem] {
            assert_eq!(weights(metric, 1), None);
        }
    }
}
