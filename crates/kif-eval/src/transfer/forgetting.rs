//! Forgetting: how far earlier tasks fell from where they were. Positive where they were forgotten.
//!
//! All are means over the tasks but the last.

use super::mean_of;
use crate::ScoreMatrix;

/// Best score since learning the task and before the last one, minus the last (Chaudhry et al.
/// 2018, Eq. 3; Continuum). Negative where the last task helped. Equals SAPT's forgetting rate, as
/// scores are not negative.
pub fn chaudhry(matrix: &ScoreMatrix) -> Option<f64> {
    mean_over_past_tasks(matrix, |task| {
        best(matrix, task, matrix.n_tasks() - 1, f64::NEG_INFINITY)
    })
}

/// Score directly after learning the task, minus the last (Avalanche): minus
/// [`bwt::gem`](super::bwt::gem).
pub fn first_last(matrix: &ScoreMatrix) -> Option<f64> {
    mean_over_past_tasks(matrix, |task| matrix.learned(task))
}

/// Best score of all rows, the last among them and 0 where the task was not learned yet, minus the
/// last (Mammoth). Never negative.
pub fn mammoth(matrix: &ScoreMatrix) -> Option<f64> {
    mean_over_past_tasks(matrix, |task| best(matrix, task, matrix.n_tasks(), 0.0))
}

/// Mean over all tasks but the last of `peak` minus the last score.
fn mean_over_past_tasks(matrix: &ScoreMatrix, peak: impl Fn(usize) -> Option<f64>) -> Option<f64> {
    mean_of((0..matrix.n_tasks() - 1).map(|task| Some(peak(task)? - matrix.last(task)?)))
}

/// The largest score of `task` in the rows from learning it up to `end`, or
/// `floor` if that is larger.
fn best(matrix: &ScoreMatrix, task: usize, end: usize, floor: f64) -> Option<f64> {
    (task + 1..=end).try_fold(floor, |best, after| {
        Some(best.max(matrix.get(after, task)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::example::{assert_near, matrix};

    #[test]
    fn by_hand() {
        assert_near(chaudhry(&matrix()), ((0.95 - 0.5) + (0.8 - 0.6)) / 2.0);
        assert_near(first_last(&matrix()), ((0.9 - 0.5) + (0.8 - 0.6)) / 2.0);
        assert_near(mammoth(&matrix()), ((0.95 - 0.5) + (0.8 - 0.6)) / 2.0);
    }

    #[test]
    fn a_task_that_the_last_one_helped_is_forgotten_less_than_nothing_except_by_mammoth() {
        let helped: ScoreMatrix = serde_json::from_str("[[0,0],[0.5,0],[0.75,1]]").unwrap();
        assert_eq!(chaudhry(&helped), Some(-0.25));
        assert_eq!(first_last(&helped), Some(-0.25));
        assert_eq!(mammoth(&helped), Some(0.0));
    }
}
