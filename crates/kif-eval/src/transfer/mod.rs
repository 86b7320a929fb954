//! Transfer metrics: what a matrix says about learning, forgetting and transfer.
//!
//! The literature uses one name for several formulas, so each convention is a function of its own,
//! under the name of its source, and [`Metric`] lists them all with their formulas. In these, K is
//! the number of tasks, `a[i,j]` the score on task j after learning task i, both from 1, and
//! `a[0,j]` that of the base before any task.
//!
//! A metric is `None` if a cell or reference that it needs is unknown, and where its
//! divisor would be 0 (K = 1).

pub mod ap;
pub mod bwt;
pub mod forgetting;
pub mod fwt;
pub mod intransigence;
mod linear;
mod metric;
mod op;

pub use linear::{Weight, weights};
pub use metric::{Metric, References};
pub use op::overall_performance;

/// Mean of `terms`; `None` if there is none or one of them is unknown. The sum has a fixed order.
fn mean_of(terms: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let terms: Vec<f64> = terms.collect::<Option<_>>()?;
    crate::statistics::mean(&terms)
}

#[cfg(test)]
pub(crate) mod example {
    use crate::ScoreMatrix;

    /// Three tasks: task 1 falls from 0.9 over 0.95 to 0.5, task 2 from 0.8 to
    /// 0.6, task 3 ends at 0.7.
    pub(crate) fn matrix() -> ScoreMatrix {
        let rows = [
            [0.1, 0.2, 0.3],
            [0.9, 0.4, 0.3],
            [0.95, 0.8, 0.5],
            [0.5, 0.6, 0.7],
        ];
        ScoreMatrix::try_from(rows.map(|row| row.map(Some).to_vec()).to_vec()).unwrap()
    }

    /// Asserts that a metric has a value, up to rounding.
    #[track_caller]
    pub(crate) fn assert_near(metric: Option<f64>, expected: f64) {
        let value = metric.expect("all cells are known");
        assert!(
            (value - expected).abs() < 1e-12,
            "{value}, expected {expected}"
        );
    }
}
