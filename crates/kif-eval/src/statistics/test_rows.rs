//! How far a score may be off because its test set is a sample: models held fixed,
//! test rows drawn again.

use super::{EvalError, Interval, mean, sample_std, t_quantile};

/// Student's t interval for the sum of the means of independent strata, the rows
/// of one test set each.
///
/// A metric that is linear in the scores is such a sum: row r of task j enters every cell
/// of the matrix, so its value is the sum over cells and runs of weight times how well it
/// was answered there, and its stratum is the task. Rows are the same in every cell, so
/// they are drawn *jointly*: what a difference of two cells, or of two methods, has in
/// common cancels within a row.
///
/// With strata of n_j values and standard deviation s_j the estimate `sum_j m_j` has the standard
/// error `sqrt(sum_j s_j^2 / n_j)`. Resampling rows within strata estimates the same thing with
/// noise, and too small by `(n_j - 1) / n_j` in every variance; so nothing is drawn here, and the
/// bootstrap is the tests' oracle. Degrees of freedom are Welch and Satterthwaite's. A stratum
/// whose rows are all equal (all right, all wrong) has no spread: with few rows and scores near 0
/// or 1 the interval is too narrow.
///
/// Fails on no stratum, on one with fewer than two values, and on a confidence outside 0..1.
pub fn test_row_interval(strata: &[Vec<f64>], confidence: f64) -> Result<Interval, EvalError> {
    if !(confidence > 0.0 && confidence < 1.0) {
        return Err(EvalError::Confidence { confidence });
    }
    let n_values = strata.iter().map(Vec::len).sum();
    let parts: Option<Vec<(f64, f64, f64)>> = (strata.iter())
        .map(|values| {
            let n = values.len() as f64;
            Some((mean(values)?, sample_std(values)?.powi(2) / n, n - 1.0))
        })
        .collect();
    let Some(parts) = parts.filter(|parts| !parts.is_empty()) else {
        return Err(EvalError::TooFewValues { n_values });
    };
    let variance: f64 = parts.iter().map(|(_, variance, _)| variance).sum();
    let spread: f64 = (parts.iter())
        .map(|(_, variance, freedom)| variance.powi(2) / freedom)
        .sum();
    let half_width = if variance > 0.0 {
        t_quantile(0.5 + confidence / 2.0, variance.powi(2) / spread) * variance.sqrt()
    } else {
        0.0
    };
    Ok(Interval {
        mean: parts.iter().map(|(mean, ..)| mean).sum(),
        half_width,
        confidence,
        n_values,
    })
}

#[cfg(test)]
mod tests {
    use super::super::simulated::Normals;
    use super::*;

    #[test]
    fn two_strata_by_hand() {
        // Means 0.5 and 0.2; variances 1/3 over 4 and 0.02 over 2; freedom
        // (1/12 + 0.01)^2 / (1/12^2/3 + 0.01^2).
        let strata = [vec![0.0, 1.0, 0.0, 1.0], vec![0.1, 0.3]];
        let interval = test_row_interval(&strata, 0.95).unwrap();
        let variance: f64 = 1.0 / 12.0 + 0.01;
        let freedom = variance.powi(2) / (1.0 / 432.0 + 1e-4);
        let expected = t_quantile(0.975, freedom) * variance.sqrt();
        assert!((interval.mean - 0.7).abs() < 1e-12);
        assert!(
            (interval.half_width - expected).abs() < 1e-12,
            "{interval:?}"
        );
        assert_eq!(interval.n_values, 6);
    }

    #[test]
    fn one_stratum_has_the_plain_interval() {
        let values = vec![0.3, 0.5, 0.4, 0.9];
        let plain = super::super::t_interval(&values, 0.9).unwrap();
        let found = test_row_interval(&[values], 0.9).unwrap();
        assert!((plain.half_width - found.half_width).abs() < 1e-12);
    }

    #[test]
    fn what_cannot_vary_is_refused_and_what_does_not_has_no_width() {
        assert!(test_row_interval(&[], 0.95).is_err());
        assert!(test_row_interval(&[vec![0.5], vec![0.1, 0.2]], 0.95).is_err());
        assert!(test_row_interval(&[vec![0.5, 0.6]], 1.0).is_err());
        assert_eq!(
            test_row_interval(&[vec![1.0; 5]], 0.95).unwrap().half_width,
            0.0
        );
    }

    /// Tasks of a simulated study: rows, and a shift of how hard they are.
    const TASKS: [(usize, f64); 3] = [(60, 0.5), (150, -0.4), (90, 0.0)];
    /// Models that answer them.
    const N_CELLS: usize = 4;

    /// Whether each row of a task is right in each cell: rows are hard or easy, whatever the
    /// cell. `[cell][row]`.
    fn answers(normals: &mut Normals, (n_rows, shift): (usize, f64)) -> Vec<Vec<f64>> {
        let hardness: Vec<f64> = (0..n_rows).map(|_| normals.draw()).collect();
        let right = |cell: usize, hard: f64, noise: f64| {
            f64::from(u8::from(hard + noise < shift + 0.3 * cell as f64))
        };
        (0..N_CELLS)
            .map(|cell| {
                hardness
                    .iter()
                    .map(|h| right(cell, *h, normals.draw()))
                    .collect()
            })
            .collect()
    }

    /// Probability that a row is right: hardness and noise together have variance 2.
    fn truth((_, shift): (usize, f64), cell: usize) -> f64 {
        use statrs::distribution::{ContinuousCDF, Normal};
        Normal::standard().cdf((shift + 0.3 * cell as f64) / 2f64.sqrt())
    }

    /// A level as OP is, and a difference as BWT or a comparison is: a weight for each cell.
    const METRICS: [[f64; N_CELLS]; 2] = [[0.25; N_CELLS], [-0.5, -0.5, 0.5, 0.5]];

    fn strata(tasks: &[Vec<Vec<f64>>], weights: [f64; N_CELLS]) -> Vec<Vec<f64>> {
        let share = 1.0 / tasks.len() as f64;
        (tasks.iter())
            .map(|cells| {
                (0..cells[0].len())
                    .map(|row| {
                        (0..N_CELLS)
                            .map(|cell| share * weights[cell] * cells[cell][row])
                            .sum()
                    })
                    .collect()
            })
            .collect()
    }

    #[test]
    fn intervals_cover_the_truth_as_often_as_they_say() {
        let (mut normals, n_studies) = (Normals::new(5), 2000);
        let mut covered = [0; 2];
        for _ in 0..n_studies {
            let tasks: Vec<_> = TASKS.map(|task| answers(&mut normals, task)).to_vec();
            for (metric, weights) in METRICS.into_iter().enumerate() {
                let truth: f64 = (TASKS.iter())
                    .flat_map(|task| (0..N_CELLS).map(|cell| weights[cell] * truth(*task, cell)))
                    .sum::<f64>()
                    / TASKS.len() as f64;
                let interval = test_row_interval(&strata(&tasks, weights), 0.95).unwrap();
                covered[metric] += usize::from((interval.low()..=interval.high()).contains(&truth));
            }
        }
        for n in covered {
            let share = n as f64 / f64::from(n_studies);
            assert!((0.93..=0.97).contains(&share), "{share}");
        }
    }

    #[test]
    fn the_standard_error_is_that_of_resampled_rows() {
        let mut normals = Normals::new(6);
        let tasks: Vec<_> = TASKS.map(|task| answers(&mut normals, task)).to_vec();
        for weights in METRICS {
            let strata = strata(&tasks, weights);
            let resampled: Vec<f64> = (0..4000)
                .map(|_| {
                    let one = |values: &Vec<f64>| {
                        let draws = (0..values.len()).map(|_| values[normals.below(values.len())]);
                        draws.sum::<f64>() / values.len() as f64
                    };
                    strata.iter().map(one).sum()
                })
                .collect();
            let bootstrap = sample_std(&resampled).unwrap();
            // A bootstrap's variance has the divisor n where the sample's has n - 1.
            let exact: f64 = (strata.iter())
                .map(|v| {
                    sample_std(v).unwrap().powi(2) * (v.len() - 1) as f64
                        / (v.len() * v.len()) as f64
                })
                .sum();
            assert!(
                (bootstrap / exact.sqrt() - 1.0).abs() < 0.04,
                "{bootstrap} {}",
                exact.sqrt()
            );
            let interval = test_row_interval(&strata, 0.95).unwrap();
            assert!(
                (interval.half_width / (1.96 * bootstrap) - 1.0).abs() < 0.06,
                "{interval:?}"
            );
        }
    }
}
