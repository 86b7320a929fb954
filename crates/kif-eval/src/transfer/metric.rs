//! The list of transfer metrics.

use serde::{Deserialize, Serialize};

use super::{ap, bwt, forgetting, fwt, intransigence::intransigence, overall_performance};
use crate::ScoreMatrix;

/// Scores that some metrics compare with, one per task in the order of the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct References<'a> {
    /// Of models trained on each task alone.
    pub per_task: Option<&'a [f64]>,
    /// Of one model trained on all tasks together.
    pub joint: Option<&'a [f64]>,
}

/// A transfer metric under a named convention; stored as its [name](Metric::name).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Metric {
    /// [`overall_performance`].
    #[serde(rename = "op")]
    Op,
    /// [`ap::mean_of_rows`].
    #[serde(rename = "ap.mean_of_rows")]
    ApMeanOfRows,
    /// [`ap::lower_triangle`].
    #[serde(rename = "ap.lower_triangle")]
    ApLowerTriangle,
    /// [`bwt::gem`].
    #[serde(rename = "bwt.gem")]
    BwtGem,
    /// [`bwt::sapt`].
    #[serde(rename = "bwt.sapt")]
    BwtSapt,
    /// [`bwt::diaz_rodriguez`].
    #[serde(rename = "bwt.diaz_rodriguez")]
    BwtDiazRodriguez,
    /// [`fwt::gem`], against row 0.
    #[serde(rename = "fwt.gem")]
    FwtGem,
    /// [`fwt::aim`], against the per-task references.
    #[serde(rename = "fwt.aim")]
    FwtAim,
    /// [`forgetting::chaudhry`].
    #[serde(rename = "forgetting.chaudhry")]
    ForgettingChaudhry,
    /// [`forgetting::first_last`].
    #[serde(rename = "forgetting.first_last")]
    ForgettingFirstLast,
    /// [`forgetting::mammoth`].
    #[serde(rename = "forgetting.mammoth")]
    ForgettingMammoth,
    /// [`intransigence`], against the joint reference.
    #[serde(rename = "intransigence.joint")]
    IntransigenceJoint,
    /// [`intransigence`], against the per-task references.
    #[serde(rename = "intransigence.per_task")]
    IntransigencePerTask,
}

impl Metric {
    /// Every metric, in the order of reports.
    pub const ALL: &'static [Metric] = &[
        Metric::Op,
        Metric::ApMeanOfRows,
        Metric::ApLowerTriangle,
        Metric::BwtGem,
        Metric::BwtSapt,
        Metric::BwtDiazRodriguez,
        Metric::FwtGem,
        Metric::FwtAim,
        Metric::ForgettingChaudhry,
        Metric::ForgettingFirstLast,
        Metric::ForgettingMammoth,
        Metric::IntransigenceJoint,
        Metric::IntransigencePerTask,
    ];

    /// One of each kind: Recurrent-KIF's OP and BWT, and the original conventions of the others.
    pub const DEFAULT: &'static [Metric] = &[
        Metric::Op,
        Metric::ApMeanOfRows,
        Metric::BwtGem,
        Metric::FwtGem,
        Metric::ForgettingChaudhry,
        Metric::IntransigenceJoint,
    ];

    /// Kind and convention, as records and reports print them.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Op => "op",
            Metric::ApMeanOfRows => "ap.mean_of_rows",
            Metric::ApLowerTriangle => "ap.lower_triangle",
            Metric::BwtGem => "bwt.gem",
            Metric::BwtSapt => "bwt.sapt",
            Metric::BwtDiazRodriguez => "bwt.diaz_rodriguez",
            Metric::FwtGem => "fwt.gem",
            Metric::FwtAim => "fwt.aim",
            Metric::ForgettingChaudhry => "forgetting.chaudhry",
            Metric::ForgettingFirstLast => "forgetting.first_last",
            Metric::ForgettingMammoth => "forgetting.mammoth",
            Metric::IntransigenceJoint => "intransigence.joint",
            Metric::IntransigencePerTask => "intransigence.per_task",
        }
    }

    /// The metric of that name.
    pub fn from_name(name: &str) -> Option<Metric> {
        Metric::ALL
            .iter()
            .copied()
            .find(|metric| metric.name() == name)
    }

    /// What is computed, on one line: K tasks, `a[i,j]` the score on task j after task i, from
    /// 1; row 0 is the base.
    pub fn formula(self) -> &'static str {
        match self {
            Metric::Op => "1/K sum_{j=1..K} a[K,j]",
            Metric::ApMeanOfRows => "1/K sum_{i=1..K} 1/i sum_{j=1..i} a[i,j]",
            Metric::ApLowerTriangle => "2/(K(K+1)) sum_{i=1..K} sum_{j=1..i} a[i,j]",
            Metric::BwtGem => "1/(K-1) sum_{j=1..K-1} (a[K,j] - a[j,j])",
            Metric::BwtSapt => "1/K sum_{j=1..K} (a[K,j] - a[j,j])",
            Metric::BwtDiazRodriguez => "2/(K(K-1)) sum_{i=2..K} sum_{j=1..i-1} (a[i,j] - a[j,j])",
            Metric::FwtGem => "1/(K-1) sum_{j=2..K} (a[j-1,j] - a[0,j])",
            Metric::FwtAim => "1/K sum_{j=1..K} (a[j,j] - single_task[j])",
            Metric::ForgettingChaudhry => "1/(K-1) sum_{j=1..K-1} (max_{i=j..K-1} a[i,j] - a[K,j])",
            Metric::ForgettingFirstLast => "1/(K-1) sum_{j=1..K-1} (a[j,j] - a[K,j])",
            Metric::ForgettingMammoth => {
                "1/(K-1) sum_{j=1..K-1} (max(0, max_{i=j..K} a[i,j]) - a[K,j])"
            }
            Metric::IntransigenceJoint => "1/K sum_{j=1..K} (joint[j] - a[j,j])",
            Metric::IntransigencePerTask => "1/K sum_{j=1..K} (single_task[j] - a[j,j])",
        }
    }

    /// The metric's value; `None` if a cell or reference that it needs is unknown, or if
    /// K = 1 leaves it no term.
    pub fn compute(self, matrix: &ScoreMatrix, references: &References<'_>) -> Option<f64> {
        match self {
            Metric::Op => overall_performance(matrix),
            Metric::ApMeanOfRows => ap::mean_of_rows(matrix),
            Metric::ApLowerTriangle => ap::lower_triangle(matrix),
            Metric::BwtGem => bwt::gem(matrix),
            Metric::BwtSapt => bwt::sapt(matrix),
            Metric::BwtDiazRodriguez => bwt::diaz_rodriguez(matrix),
            Metric::FwtGem => fwt::gem(matrix, None),
            Metric::FwtAim => fwt::aim(matrix, references.per_task?),
            Metric::ForgettingChaudhry => forgetting::chaudhry(matrix),
            Metric::ForgettingFirstLast => forgetting::first_last(matrix),
            Metric::ForgettingMammoth => forgetting::mammoth(matrix),
            Metric::IntransigenceJoint => intransigence(matrix, references.joint?),
            Metric::IntransigencePerTask => intransigence(matrix, references.per_task?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::example::{assert_near, matrix};

    #[test]
    fn every_metric_is_stored_under_its_name() {
        for metric in Metric::ALL.iter().copied() {
            assert_eq!(Metric::from_name(metric.name()), Some(metric));
            assert_eq!(serde_json::to_value(metric).unwrap(), metric.name());
        }
        assert_eq!(Metric::from_name("bwt"), None);
    }

    #[test]
    fn references_go_where_they_belong() {
        let joint = References {
            per_task: None,
            joint: Some(&[0.9, 0.9, 0.9]),
        };
        assert_near(Metric::IntransigenceJoint.compute(&matrix(), &joint), 0.1);
        assert_eq!(
            Metric::IntransigencePerTask.compute(&matrix(), &joint),
            None
        );
        assert_eq!(Metric::FwtAim.compute(&matrix(), &joint), None);
    }
}
