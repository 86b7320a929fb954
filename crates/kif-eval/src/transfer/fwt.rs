//! Forward transfer: what earlier tasks did for later ones.

use super::mean_of;
use crate::ScoreMatrix;

/// Mean over all tasks but the first of the score just before learning it, minus what an untrained
/// model scores on it (GEM, Lopez-Paz and Ranzato 2017). `untrained` has one score per task; `None`
/// takes row 0, the base.
pub fn gem(matrix: &ScoreMatrix, untrained: Option<&[f64]>) -> Option<f64> {
    let before = |task: usize| match untrained {
        Some(scores) => scores.get(task).copied(),
        None => matrix.get(0, task),
    };
    mean_of((1..matrix.n_tasks()).map(|task| Some(matrix.get(task, task)? - before(task)?)))
}

/// Mean over all tasks of the score directly after learning it, minus that of a model
/// trained on it alone (AIMMerging; SAPT takes one constant for the second mean).
/// `single_task` has one score per task.
pub fn aim(matrix: &ScoreMatrix, single_task: &[f64]) -> Option<f64> {
    mean_of((0..matrix.n_tasks()).map(|task| Some(matrix.learned(task)? - single_task.get(task)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::example::{assert_near, matrix};

    #[test]
    fn by_hand() {
        assert_near(gem(&matrix(), None), ((0.4 - 0.2) + (0.5 - 0.3)) / 2.0);
        assert_near(
            gem(&matrix(), Some(&[0.0, 0.0, 0.1])),
            (0.4 + (0.5 - 0.1)) / 2.0,
        );
        assert_near(aim(&matrix(), &[0.8, 0.8, 0.9]), (0.1 + 0.0 - 0.2) / 3.0);
        assert_eq!(aim(&matrix(), &[0.8, 0.8]), None);
    }
}
