//! Smoothed sensitivity and uncertainty of every trainable parameter.
//!
//! The sensitivity of parameter `w` with gradient `g` is `I = |w g|`, to first order how
//! much the loss would move if `w` were set to zero. Single batches are noisy, so it is
//! smoothed (Recurrent-KIF, section 1.2 of the method; AdaLoRA's score with its uncertainty
//! in the released code):
//!
//! ```text
//! S <- beta1 S + (1 - beta1) I
//! U <- beta2 U + (1 - beta2) |I - S|        with the S that was just updated
//! ```
//!
//! Both start at zero and are not bias-corrected. The score is `S` without an
//! uncertainty factor, else `S U`.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    ImportanceError,
    parallel::{CHUNK, MIN_PARALLEL},
};

/// How sensitivities are smoothed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SensitivityConfig {
    /// Weight of the past in the sensitivity, in 0..1 (paper: 0.55; released code: 0.85).
    pub sensitivity_beta: f32,
    /// Weight of the past in the uncertainty, in 0..1 (released code: 0.85). `None` (paper): the
    /// score is the smoothed sensitivity alone.
    pub uncertainty_beta: Option<f32>,
}

impl SensitivityConfig {
    /// The paper's: EMA of the sensitivity, 0.55.
    pub const PAPER: Self = Self {
        sensitivity_beta: 0.55,
        uncertainty_beta: None,
    };

    /// The released code's: EMA of the sensitivity times EMA of the uncertainty, both 0.85.
    pub const RELEASED: Self = Self {
        sensitivity_beta: 0.85,
        uncertainty_beta: Some(0.85),
    };

    /// Refuses factors outside 0..1: the scores would not be bounded by the sensitivities.
    pub fn check(&self) -> Result<(), ImportanceError> {
        let fields = [
            ("sensitivity_beta", Some(self.sensitivity_beta)),
            ("uncertainty_beta", self.uncertainty_beta),
        ];
        for (field, value) in fields {
            if let Some(value) = value.filter(|beta| !(0.0..1.0).contains(beta)) {
                return Err(ImportanceError::Beta { field, value });
            }
        }
        Ok(())
    }
}

/// Smoothed sensitivity, and uncertainty where it is wanted, of P parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Sensitivity {
    config: SensitivityConfig,
    /// `[P]`.
    sensitivity: Vec<f32>,
    /// `[P]`, or empty where the configuration has no uncertainty.
    uncertainty: Vec<f32>,
}

impl Sensitivity {
    /// All zero, for `n_params` parameters. The configuration was
    /// [checked](SensitivityConfig::check) before.
    pub fn new(config: SensitivityConfig, n_params: usize) -> Self {
        let n_uncertain = if config.uncertainty_beta.is_some() {
            n_params
        } else {
            0
        };
        Self {
            config,
            sensitivity: vec![0.0; n_params],
            uncertainty: vec![0.0; n_uncertain],
        }
    }

    /// Takes in one step.
    ///
    /// `params` and `grads` are `[P]`, in layout order; `grads` is the gradient that the optimizer
    /// got, after clipping. Finite input leaves scores finite and non-negative unless a product
    /// overflows. O(P) time, one pass over each slice, no allocation.
    pub fn update(&mut self, params: &[f32], grads: &[f32]) {
        let n_params = self.sensitivity.len();
        assert_eq!(
            params.len(),
            n_params,
            "parameters given, parameters tracked"
        );
        assert_eq!(grads.len(), n_params, "gradients given, parameters tracked");
        let beta1 = Ema::new(self.config.sensitivity_beta);
        match self.config.uncertainty_beta.map(Ema::new) {
            None if n_params < MIN_PARALLEL => smooth(beta1, params, grads, &mut self.sensitivity),
            None => (
                self.sensitivity.par_chunks_mut(CHUNK),
                params.par_chunks(CHUNK),
                grads.par_chunks(CHUNK),
            )
                .into_par_iter()
                .for_each(|(s, w, g)| smooth(beta1, w, g, s)),
            Some(beta2) if n_params < MIN_PARALLEL => {
                smooth_both(
                    beta1,
                    beta2,
                    params,
                    grads,
                    &mut self.sensitivity,
                    &mut self.uncertainty,
                );
            }
            Some(beta2) => (
                self.sensitivity.par_chunks_mut(CHUNK),
                self.uncertainty.par_chunks_mut(CHUNK),
                params.par_chunks(CHUNK),
                grads.par_chunks(CHUNK),
            )
                .into_par_iter()
                .for_each(|(s, u, w, g)| smooth_both(beta1, beta2, w, g, s, u)),
        }
    }

    /// Score of parameter `i`: at least 0.
    pub fn score_at(&self, i: usize) -> f32 {
        match self.uncertainty() {
            None => self.sensitivity[i],
            Some(uncertainty) => self.sensitivity[i] * uncertainty[i],
        }
    }

    /// Writes the scores of all parameters, `[P]`, over whatever `scores` held.
    pub fn scores_into(&self, scores: &mut Vec<f32>) {
        scores.clear();
        match self.uncertainty() {
            None => scores.extend_from_slice(&self.sensitivity),
            Some(uncertainty) => {
                scores.extend(self.sensitivity.iter().zip(uncertainty).map(|(s, u)| s * u))
            }
        }
    }

    /// Number of parameters P.
    pub fn n_params(&self) -> usize {
        self.sensitivity.len()
    }

    /// Smoothed sensitivities, `[P]`: half of the state that a checkpoint keeps.
    pub fn sensitivity(&self) -> &[f32] {
        &self.sensitivity
    }

    /// Smoothed uncertainties, `[P]`, where the configuration keeps them: the other half.
    pub fn uncertainty(&self) -> Option<&[f32]> {
        self.config
            .uncertainty_beta
            .map(|_| self.uncertainty.as_slice())
    }

    /// Forgets everything: the state is that of a new one.
    pub fn reset(&mut self) {
        self.sensitivity.fill(0.0);
        self.uncertainty.fill(0.0);
    }

    /// Takes over a saved state, as [`sensitivity`](Self::sensitivity) and
    /// [`uncertainty`](Self::uncertainty) gave it.
    ///
    /// Fails, and changes nothing, if lengths, the presence of uncertainties or the
    /// values' range do not fit.
    pub fn restore(
        &mut self,
        sensitivity: &[f32],
        uncertainty: Option<&[f32]>,
    ) -> Result<(), ImportanceError> {
        if uncertainty.is_some() != self.config.uncertainty_beta.is_some() {
            return Err(ImportanceError::StateUncertainty {
                saved: uncertainty.is_some(),
            });
        }
        check_state("sensitivity", sensitivity, self.n_params())?;
        if let Some(uncertainty) = uncertainty {
            check_state("uncertainty", uncertainty, self.n_params())?;
            self.uncertainty.copy_from_slice(uncertainty);
        }
        self.sensitivity.copy_from_slice(sensitivity);
        Ok(())
    }
}

/// An exponential moving average's two weights.
#[derive(Clone, Copy)]
struct Ema {
    past: f32,
    present: f32,
}

impl Ema {
    /// 1 - beta is taken in f64 of the decimal that beta was written as (0.85, not the f32 next to
    /// it), then rounded: so does Python, and in f32 it would be off by an ulp or two, which flips
    /// masks next to the threshold.
    fn new(beta: f32) -> Self {
        let decimal: f64 = beta.to_string().parse().expect("a printed f32 reads back");
        Self {
            past: beta,
            present: (1.0 - decimal) as f32,
        }
    }

    fn next(self, average: f32, value: f32) -> f32 {
        self.past * average + self.present * value
    }
}

fn smooth(beta1: Ema, params: &[f32], grads: &[f32], sensitivity: &mut [f32]) {
    for ((s, w), g) in sensitivity.iter_mut().zip(params).zip(grads) {
        *s = beta1.next(*s, (w * g).abs());
    }
}

fn smooth_both(
    beta1: Ema,
    beta2: Ema,
    params: &[f32],
    grads: &[f32],
    sensitivity: &mut [f32],
    uncertainty: &mut [f32],
) {
    for (((s, u), w), g) in sensitivity
        .iter_mut()
        .zip(uncertainty)
        .zip(params)
        .zip(grads)
    {
        let product = (w * g).abs();
        *s = beta1.next(*s, product);
        *u = beta2.next(*u, (product - *s).abs());
    }
}

fn check_state(what: &'static str, values: &[f32], n_params: usize) -> Result<(), ImportanceError> {
    if values.len() != n_params {
        return Err(ImportanceError::StateLength {
            what,
            found: values.len(),
            expected: n_params,
        });
    }
    match values.iter().position(|v| !(v.is_finite() && *v >= 0.0)) {
        Some(index) => Err(ImportanceError::StateValue {
            what,
            index,
            value: values[index],
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_steps_by_hand() {
        let config = SensitivityConfig {
            sensitivity_beta: 0.5,
            uncertainty_beta: Some(0.75),
        };
        let mut importance = Sensitivity::new(config, 2);
        importance.update(&[2.0, -1.0], &[-4.0, 0.0]); // I = 8, 0; S = 4, 0; |I - S| = 4, 0
        assert_eq!(importance.sensitivity(), [4.0, 0.0]);
        assert_eq!(importance.uncertainty(), Some([1.0, 0.0].as_slice()));
        // I = 2, 4; S = 3, 2; |I - S| = 1, 2; U = 0.75 + 0.25, 0.5
        importance.update(&[1.0, 2.0], &[2.0, 2.0]);
        assert_eq!(importance.sensitivity(), [3.0, 2.0]);
        assert_eq!(importance.uncertainty(), Some([1.0, 0.5].as_slice()));
        let mut scores = vec![9.0; 5];
        importance.scores_into(&mut scores);
        assert_eq!(scores, [3.0, 1.0]);
        assert_eq!([importance.score_at(0), importance.score_at(1)], [3.0, 1.0]);
        importance.reset();
        assert_eq!(importance, Sensitivity::new(config, 2));
    }

    #[test]
    fn without_uncertainty_the_score_is_the_sensitivity() {
        let mut importance = Sensitivity::new(
            SensitivityConfig {
                sensitivity_beta: 0.5,
                uncertainty_beta: None,
            },
            1,
        );
        importance.update(&[3.0], &[2.0]);
        assert_eq!(
            (importance.score_at(0), importance.uncertainty()),
            (3.0, None)
        );
    }

    #[test]
    fn the_complement_is_the_decimals() {
        assert_eq!(Ema::new(0.85).present, 0.15_f32);
        assert_eq!(Ema::new(0.55).present, 0.45_f32);
    }

    #[test]
    fn wrong_states_and_factors_are_refused() {
        let mut importance = Sensitivity::new(SensitivityConfig::RELEASED, 2);
        let before = importance.clone();
        let refused = |error: Result<(), ImportanceError>| error.unwrap_err().to_string();
        assert_eq!(
            refused(importance.restore(&[1.0, 1.0], None)),
            "uncertainty is not saved, and the configuration keeps it"
        );
        assert!(
            refused(importance.restore(&[1.0], Some(&[1.0, 1.0])))
                .contains("sensitivity has 1 entries")
        );
        assert!(
            refused(importance.restore(&[1.0, 1.0], Some(&[1.0, f32::NAN])))
                .contains("entry 1 of the saved uncertainty")
        );
        assert_eq!(importance, before);
        let config = SensitivityConfig {
            uncertainty_beta: Some(1.0),
            ..SensitivityConfig::PAPER
        };
        assert!(refused(config.check()).starts_with("`uncertainty_beta` is 1"));
        assert_eq!(SensitivityConfig::RELEASED.check(), Ok(()));
    }
}
