//! The learning rate at every step.

use serde::{Deserialize, Serialize};

use crate::error::{SettingError, check_setting};

/// Learning rate as a function of the step, counted from 0 within a task.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Schedule {
    /// Linear warm-up from 0, then linear to 0 (`get_linear_schedule_with_warmup` of transformers).
    /// Step 0 of a warmed-up run moves nothing; a warm-up longer than the run never reaches the
    /// peak.
    Linear {
        /// Rate at the end of the warm-up.
        peak: f64,
        /// Steps of warm-up (published runs: 50).
        warmup_steps: u64,
        /// Steps of the whole run, warm-up included.
        total_steps: u64,
    },
    /// The same rate at every step.
    Constant {
        /// The rate.
        rate: f64,
    },
}

impl Schedule {
    /// `warmup_steps` up to `peak`, and down so slowly that no task ends: how many steps it has is
    /// said by [`over`](Self::over).
    pub fn warmed_up(peak: f64, warmup_steps: u64) -> Self {
        Self::Linear {
            peak,
            warmup_steps,
            total_steps: u64::MAX,
        }
    }

    /// The same rates over another number of steps.
    pub fn over(self, total_steps: u64) -> Self {
        match self {
            Self::Constant { .. } => self,
            Self::Linear {
                peak, warmup_steps, ..
            } => Self::Linear {
                peak,
                warmup_steps,
                total_steps,
            },
        }
    }

    /// Whether its rate is one.
    pub fn check(&self) -> Result<(), SettingError> {
        let (Self::Constant { rate: lr } | Self::Linear { peak: lr, .. }) = *self;
        let fine = lr.is_finite() && lr >= 0.0;
        check_setting(fine, "lr", lr, "a finite number, at least 0")
    }

    /// The rate of step `k`: `peak * k / warmup` before the end of the warm-up, then
    /// `peak * (total - k) / (total - warmup)`, never below 0.
    pub fn rate(&self, k: u64) -> f64 {
        match *self {
            Self::Constant { rate } => rate,
            Self::Linear {
                peak, warmup_steps, ..
            } if k < warmup_steps => peak * (k as f64 / warmup_steps as f64),
            Self::Linear {
                peak,
                warmup_steps,
                total_steps,
            } => {
                let left = total_steps.saturating_sub(k) as f64;
                peak * (left / total_steps.saturating_sub(warmup_steps).max(1) as f64)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(warmup_steps: u64, total_steps: u64, n: u64) -> Vec<f64> {
        let schedule = Schedule::Linear {
            peak: 1.0,
            warmup_steps,
            total_steps,
        };
        (0..n).map(|k| schedule.rate(k)).collect()
    }

    #[test]
    fn linear_rises_from_zero_and_falls_to_zero() {
        assert_eq!(rates(2, 6, 8), [0.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]);
    }

    #[test]
    fn without_warm_up_the_first_step_has_the_peak_rate() {
        assert_eq!(rates(0, 2, 3), [1.0, 0.5, 0.0]);
    }

    #[test]
    fn a_warm_up_longer_than_the_run_is_cut_off() {
        assert_eq!(rates(4, 2, 5), [0.0, 0.25, 0.5, 0.75, 0.0]);
    }
}
