//! Average performance: how well the tasks seen so far were done, over the whole stream.
//!
//! Some papers call the mean of the last row AP: here that is
//! [`overall_performance`](super::overall_performance).

use super::mean_of;
use crate::ScoreMatrix;

/// Mean over the rows of their mean over the tasks seen so far: every point of the stream counts
/// alike (the average incremental accuracy of class-incremental learning, iCaRL).
pub fn mean_of_rows(matrix: &ScoreMatrix) -> Option<f64> {
    let seen = |after: usize| mean_of((0..after).map(|task| matrix.get(after, task)));
    mean_of((1..=matrix.n_tasks()).map(seen))
}

/// Mean of the lower triangle with its diagonal: every cell counts alike (Díaz-Rodríguez et
/// al. 2018; Continuum).
pub fn lower_triangle(matrix: &ScoreMatrix) -> Option<f64> {
    mean_of(
        (1..=matrix.n_tasks())
            .flat_map(|after| (0..after).map(move |task| matrix.get(after, task))),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::example::{assert_near, matrix};

    #[test]
    fn by_hand() {
        assert_near(
            mean_of_rows(&matrix()),
            (0.9 + (0.95 + 0.8) / 2.0 + (0.5 + 0.6 + 0.7) / 3.0) / 3.0,
        );
        assert_near(
            lower_triangle(&matrix()),
            (0.9 + 0.95 + 0.8 + 0.5 + 0.6 + 0.7) / 6.0,
        );
    }
}
