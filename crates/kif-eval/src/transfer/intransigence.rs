//! Intransigence: what the stream costs in learning new tasks (Chaudhry et al. 2018).

use super::mean_of;
use crate::ScoreMatrix;

/// Mean over all tasks of a reference model's score minus the score directly
/// after learning the task.
///
/// `reference` has one score per task: of a model trained on all tasks together (Chaudhry's;
/// `intransigence.joint`), or of one trained on the task alone (`intransigence.per_task`, which is
/// minus [`fwt::aim`](super::fwt::aim)).
pub fn intransigence(matrix: &ScoreMatrix, reference: &[f64]) -> Option<f64> {
    mean_of((0..matrix.n_tasks()).map(|task| Some(reference.get(task)? - matrix.learned(task)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::example::{assert_near, matrix};

    #[test]
    fn by_hand() {
        assert_near(
            intransigence(&matrix(), &[0.9, 0.9, 0.9]),
            (0.0 + 0.1 + 0.2) / 3.0,
        );
        assert_eq!(intransigence(&matrix(), &[0.9]), None);
    }
}
