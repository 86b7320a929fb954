//! Overall performance: what is left at the end.

use super::mean_of;
use crate::ScoreMatrix;

/// Mean of the last row (Recurrent-KIF's OP; elsewhere AP, AA or average accuracy).
pub fn overall_performance(matrix: &ScoreMatrix) -> Option<f64> {
    mean_of((0..matrix.n_tasks()).map(|task| matrix.last(task)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::example::{assert_near, matrix};

    #[test]
    fn by_hand() {
        assert_near(overall_performance(&matrix()), (0.5 + 0.6 + 0.7) / 3.0);
        assert_eq!(overall_performance(&ScoreMatrix::new(2)), None);
    }
}
