//! Backward transfer: what later tasks did to earlier ones. Negative where they were forgotten.

use super::mean_of;
use crate::ScoreMatrix;

/// How far `task` moved from when it was learned to when `after` tasks were.
fn change(matrix: &ScoreMatrix, after: usize, task: usize) -> Option<f64> {
    Some(matrix.get(after, task)? - matrix.learned(task)?)
}

/// Mean change of all tasks but the last, divisor K - 1 (GEM, Lopez-Paz and Ranzato 2017;
/// Recurrent-KIF, TaSL, Mammoth).
pub fn gem(matrix: &ScoreMatrix) -> Option<f64> {
    let n_tasks = matrix.n_tasks();
    mean_of((0..n_tasks - 1).map(|task| change(matrix, n_tasks, task)))
}

/// The same sum with divisor K (SAPT): the last task counts with a change of 0, so this is
/// (K - 1) / K of [`gem`].
pub fn sapt(matrix: &ScoreMatrix) -> Option<f64> {
    let n_tasks = matrix.n_tasks();
    mean_of((0..n_tasks).map(|task| change(matrix, n_tasks, task))).filter(|_| n_tasks > 1)
}

/// Mean change over all rows, not only the last: every pair of a task and a later one
/// (Díaz-Rodríguez et al. 2018; Continuum).
pub fn diaz_rodriguez(matrix: &ScoreMatrix) -> Option<f64> {
    mean_of(
        (2..=matrix.n_tasks())
            .flat_map(|after| (0..after - 1).map(move |task| change(matrix, after, task))),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::example::{assert_near, matrix};

    #[test]
    fn by_hand() {
        assert_near(gem(&matrix()), (-0.4 - 0.2) / 2.0);
        assert_near(sapt(&matrix()), (-0.4 - 0.2) / 3.0);
        assert_near(diaz_rodriguez(&matrix()), (0.05 - 0.4 - 0.2) / 3.0);
    }

    #[test]
    fn one_task_has_no_past() {
        let one: ScoreMatrix = serde_json::from_str("[[0.1],[0.9]]").unwrap();
        assert_eq!(
            (gem(&one), sapt(&one), diaz_rodriguez(&one)),
            (None, None, None)
        );
    }
}
