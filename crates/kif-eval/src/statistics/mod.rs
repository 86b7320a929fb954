//! Summaries of runs that differ in seed or order.

mod fixed_effects;
mod paired;
#[cfg(test)]
mod simulated;
mod test_rows;

pub use fixed_effects::fixed_effects_interval;
pub use paired::{detectable_difference, holm, sign_flip_p};
pub use test_rows::test_row_interval;

use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, StudentsT};

use crate::EvalError;

/// Arithmetic mean; `None` of no values.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Standard deviation of a sample, with divisor n - 1; `None` of fewer than two values.
pub fn sample_std(values: &[f64]) -> Option<f64> {
    let mean = mean(values).filter(|_| values.len() > 1)?;
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    Some((squares / (values.len() - 1) as f64).sqrt())
}

/// A mean and how far it may be off.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interval {
    /// The mean, in the middle.
    pub mean: f64,
    /// The interval is `mean - half_width ..= mean + half_width`.
    pub half_width: f64,
    /// How often such an interval covers the true mean, in 0..1.
    pub confidence: f64,
    /// How many values it was computed from.
    pub n_values: usize,
}

impl Interval {
    /// Lower end.
    pub fn low(&self) -> f64 {
        self.mean - self.half_width
    }

    /// Upper end.
    pub fn high(&self) -> f64 {
        self.mean + self.half_width
    }
}

/// Student's t interval for the mean: `mean +- t(n - 1) std / sqrt(n)`, right for few
/// independent normal values.
///
/// To compare two methods, give it their differences over the same seeds and orders. Fails on fewer
/// than two values and on a confidence outside 0..1.
pub fn t_interval(values: &[f64], confidence: f64) -> Result<Interval, EvalError> {
    let n_values = values.len();
    let (Some(mean), Some(std)) = (mean(values), sample_std(values)) else {
        return Err(EvalError::TooFewValues { n_values });
    };
    let half_width = half_width(std / (n_values as f64).sqrt(), n_values - 1, confidence)?;
    Ok(Interval {
        mean,
        half_width,
        confidence,
        n_values,
    })
}

/// Half the width of the interval around an estimate with the given standard error.
fn half_width(error: f64, freedom: usize, confidence: f64) -> Result<f64, EvalError> {
    if !(confidence > 0.0 && confidence < 1.0) {
        return Err(EvalError::Confidence { confidence });
    }
    Ok(t_quantile(0.5 + confidence / 2.0, freedom as f64) * error)
}

/// The value that Student's t with `freedom` degrees stays below with probability `p`, 0 < p < 1.
fn t_quantile(p: f64, freedom: f64) -> f64 {
    assert!(
        freedom > 0.0,
        "t distribution with {freedom} degrees of freedom"
    );
    let distribution =
        StudentsT::new(0.0, 1.0, freedom).expect("positive scale and degrees of freedom");
    distribution.inverse_cdf(p)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_values_by_hand() {
        let values = [1.0, 2.0, 3.0, 4.0, 5.0];
        assert_eq!(mean(&values), Some(3.0));
        assert_eq!(sample_std(&values), Some(2.5_f64.sqrt()));
        let interval = t_interval(&values, 0.95).unwrap();
        assert!(
            (interval.half_width - 2.776445105198 * 0.5_f64.sqrt()).abs() < 1e-9,
            "{interval:?}"
        );
        assert_eq!((interval.mean, interval.n_values), (3.0, 5));
        assert!((interval.low() + interval.high() - 6.0).abs() < 1e-12);
    }

    #[test]
    fn quantiles_agree_with_published_tables() {
        // Probability, degrees of freedom, quantile: computed with mpmath to 30 digits from the
        // incomplete beta function.
        let table = [
            (0.975, 1, 12.706204736175),
            (0.975, 2, 4.302652729749),
            (0.975, 4, 2.776445105198),
            (0.975, 8, 2.306004135204),
            (0.975, 29, 2.045229642133),
            (0.995, 1, 63.656741162872),
            (0.995, 5, 4.032142983558),
        ];
        for (p, freedom, expected) in table {
            let t = t_quantile(p, f64::from(freedom));
            assert!(
                (t - expected).abs() < 1e-8 * expected,
                "{freedom} degrees at {p}: {t}, expected {expected}"
            );
        }
    }

    #[test]
    fn too_little_is_refused() {
        assert_eq!((mean(&[]), sample_std(&[1.0])), (None, None));
        assert_eq!(
            t_interval(&[1.0], 0.95),
            Err(EvalError::TooFewValues { n_values: 1 })
        );
        assert_eq!(
            t_interval(&[1.0, 2.0], 1.0),
            Err(EvalError::Confidence { confidence: 1.0 })
        );
    }
}
