//! How far a result of ours bears out a published one.

use std::fmt;

/// What can be said of a method on a benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// Same base, same settings, and the published OP lies in our interval.
    Reproduced,
    /// Same base, same settings, and the published OP lies outside our interval.
    NotReproduced,
    /// Other settings; the difference to the yardstick has the published sign, and our interval of
    /// it leaves out 0.
    Direction,
    /// Other settings; our interval of the difference leaves out 0 on the other side.
    OppositeDirection,
    /// Other settings, and our interval of the difference holds 0 or cannot be had: nothing can be
    /// said yet.
    NotYet,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reproduced => "reproduced",
            Self::NotReproduced => "not reproduced",
            Self::Direction => "direction only",
            Self::OppositeDirection => "opposite direction",
            Self::NotYet => "not yet",
        })
    }
}

/// A mean and half the width of its 95 % interval, where it has one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Estimate {
    pub(super) mean: f64,
    pub(super) half_width: Option<f64>,
}

impl Estimate {
    fn holds(&self, value: f64) -> bool {
        self.half_width
            .is_some_and(|half| (self.mean - value).abs() <= half)
    }

    /// The sign, where the interval leaves out 0.
    fn sign(&self) -> Option<f64> {
        let half = self.half_width?;
        (self.mean.abs() > half).then(|| self.mean.signum())
    }
}

/// The mark of a method that has the OP `ours`, published as `published`.
///
/// Differences are from the same yardstick, method less yardstick: `our_difference` paired over the
/// cells of both, `published_difference` of the published means. All in the same unit.
pub(super) fn mark(
    same_settings: bool,
    (ours, published): (Estimate, f64),
    differences: Option<(Estimate, f64)>,
) -> Mark {
    if same_settings {
        return match ours.half_width {
            None => Mark::NotYet,
            Some(_) if ours.holds(published) => Mark::Reproduced,
            Some(_) => Mark::NotReproduced,
        };
    }
    let Some((our_difference, published_difference)) = differences else {
        return Mark::NotYet;
    };
    match our_difference.sign() {
        Some(sign) if sign == published_difference.signum() => Mark::Direction,
        Some(_) => Mark::OppositeDirection,
        None => Mark::NotYet,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn estimate(mean: f64, half_width: f64) -> Estimate {
        Estimate {
            mean,
            half_width: Some(half_width),
        }
    }

    #[test]
    fn under_the_same_settings_the_interval_decides() {
        let of = |published| mark(true, (estimate(77.0, 1.5), published), None);
        assert_eq!(
            (of(78.4), of(78.6)),
            (Mark::Reproduced, Mark::NotReproduced)
        );
        let one_cell = Estimate {
            mean: 78.4,
            half_width: None,
        };
        assert_eq!(mark(true, (one_cell, 78.4), None), Mark::NotYet);
    }

    #[test]
    fn under_other_settings_only_the_sign_of_the_difference_counts() {
        let of = |difference, published| {
            mark(
                false,
                (estimate(30.0, 1.0), 78.4),
                Some((difference, published)),
            )
        };
        assert_eq!(of(estimate(5.0, 4.0), 34.7), Mark::Direction);
        assert_eq!(of(estimate(-5.0, 4.0), 34.7), Mark::OppositeDirection);
        assert_eq!(of(estimate(5.0, 6.0), 34.7), Mark::NotYet);
        assert_eq!(mark(false, (estimate(30.0, 1.0), 78.4), None), Mark::NotYet);
    }
}
