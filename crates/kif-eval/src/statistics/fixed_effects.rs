//! Intervals of a mean over published orders, each run with several seeds.

use super::{EvalError, Interval, half_width, mean};

/// Student's t interval for the mean over orders, each order weighing the same: `groups` are the
/// values of one order each, over its seeds.
///
/// Published orders are fixed: whoever repeats the benchmark runs the same ones. Only seeds vary,
/// so the spread between orders is no uncertainty. With K orders of n_k values, `m = 1/K sum m_k`,
/// pooled `s^2 = sum_k sum_i (x_ki - m_k)^2 / f`, `f = sum_k (n_k - 1)`, and the interval is
/// `m +- t(f) s / K sqrt(sum_k 1/n_k)`. Seeds are taken to vary as much in one order as in another.
///
/// Fails unless every order has a value and one of them two, and on a confidence outside 0..1.
pub fn fixed_effects_interval(groups: &[Vec<f64>], confidence: f64) -> Result<Interval, EvalError> {
    let n_values = groups.iter().map(Vec::len).sum();
    let means: Option<Vec<f64>> = groups.iter().map(|group| mean(group)).collect();
    let freedom = n_values - groups.len().min(n_values);
    let (Some(means), true) = (means, freedom > 0) else {
        return Err(EvalError::TooFewValues { n_values });
    };
    let squares: f64 = (groups.iter().zip(&means))
        .flat_map(|(group, mean)| group.iter().map(move |x| (x - mean).powi(2)))
        .sum();
    let shares: f64 = groups.iter().map(|group| 1.0 / group.len() as f64).sum();
    let n_groups = groups.len() as f64;
    let error = (squares / freedom as f64 * shares).sqrt() / n_groups;
    Ok(Interval {
        mean: means.iter().sum::<f64>() / n_groups,
        half_width: half_width(error, freedom, confidence)?,
        confidence,
        n_values,
    })
}

#[cfg(test)]
mod tests {
    use super::super::simulated::Normals;
    use super::super::t_interval;
    use super::*;

    #[test]
    fn two_orders_by_hand() {
        let groups = [vec![0.0, 2.0], vec![10.0, 14.0]];
        let interval = fixed_effects_interval(&groups, 0.95).unwrap();
        // Squares 2 + 8 over 2 degrees, error sqrt(5 (1/2 + 1/2)) / 2.
        let expected = 4.302652729749 * 5f64.sqrt() / 2.0;
        assert_eq!((interval.mean, interval.n_values), (6.5, 4));
        assert!(
            (interval.half_width - expected).abs() < 1e-9,
            "{interval:?}"
        );
    }

    #[test]
    fn one_order_has_the_plain_interval() {
        let values = vec![0.3, 0.5, 0.4];
        assert_eq!(
            fixed_effects_interval(std::slice::from_ref(&values), 0.9).unwrap(),
            t_interval(&values, 0.9).unwrap()
        );
    }

    #[test]
    fn a_seed_each_says_nothing_about_seeds() {
        for groups in [&[vec![0.5], vec![0.6]][..], &[vec![0.5, 0.6], vec![]], &[]] {
            assert!(fixed_effects_interval(groups, 0.95).is_err(), "{groups:?}");
        }
    }

    #[test]
    fn intervals_cover_the_truth_as_often_as_they_say() {
        for (n_orders, n_seeds) in [(3, 3), (5, 5)] {
            let (mut normals, n_studies) = (Normals::new(1), 3000);
            let covered = (0..n_studies)
                .filter(|_| {
                    // Orders differ by far more than seeds; their mean is 0.7.
                    let order = |k: usize| 0.7 + 0.1 * (k as f64 - (n_orders - 1) as f64 / 2.0);
                    let groups: Vec<Vec<f64>> = (0..n_orders)
                        .map(|k| {
                            (0..n_seeds)
                                .map(|_| order(k) + 0.02 * normals.draw())
                                .collect()
                        })
                        .collect();
                    let interval = fixed_effects_interval(&groups, 0.95).unwrap();
                    (interval.low()..=interval.high()).contains(&0.7)
                })
                .count();
            let share = covered as f64 / f64::from(n_studies);
            assert!(
                (0.93..=0.97).contains(&share),
                "{n_orders} x {n_seeds}: {share}"
            );
        }
    }

    /// Whether the middle 95 % of means of values that are drawn again within
    /// orders hold 0, the truth.
    fn percentile_bootstrap_covers(groups: &[Vec<f64>], normals: &mut Normals) -> bool {
        let n_draws = 399;
        let mut means: Vec<f64> = (0..n_draws)
            .map(|_| {
                let one = |group: &Vec<f64>| {
                    let draws = (0..group.len()).map(|_| group[normals.below(group.len())]);
                    draws.sum::<f64>() / group.len() as f64
                };
                groups.iter().map(one).sum::<f64>()
            })
            .collect();
        means.sort_unstable_by(f64::total_cmp);
        let tail = (n_draws + 1) / 40;
        means[tail - 1] <= 0.0 && 0.0 <= means[n_draws - tail]
    }

    #[test]
    fn a_percentile_bootstrap_covers_less_than_it_says() {
        // Why it is not offered: few values vary less than the truth does.
        for (n, most) in [(3, 0.87), (5, 0.93)] {
            let (mut normals, n_studies) = (Normals::new(2), 1000);
            let covered = (0..n_studies)
                .filter(|_| {
                    let group = |normals: &mut Normals| (0..n).map(|_| normals.draw()).collect();
                    let groups: Vec<Vec<f64>> = (0..n).map(|_| group(&mut normals)).collect();
                    percentile_bootstrap_covers(&groups, &mut normals)
                })
                .count();
            let share = covered as f64 / f64::from(n_studies);
            assert!((0.78..most).contains(&share), "{n} x {n}: {share}");
        }
    }
}
