//! Fusion of two task vectors by how important each loop found a parameter, without thresholds (the
//! "adaptive" variant of Recurrent-KIF's ablation, as in the authors' unused code; TaSL's adaptive
//! consolidation per parameter).
//!
//! ```text
//! n_x = (s_x - min s_x) / (max s_x - min s_x)      over all parameters, for inner and outer apart
//! w_in = e^(n_in / tau) / (e^(n_in / tau) + e^(n_out / tau)),  w_out = 1 - w_in
//! theta <- theta + w_in d_in + w_out d_out
//! ```

use rayon::prelude::*;

use crate::{CHUNK, FusionError, MIN_PARALLEL};

/// What one loop did to the parameters, and how important it found each.
#[derive(Clone, Copy, Debug)]
pub struct Scored<'a> {
    /// Task vector, `[P]`.
    pub delta: &'a [f32],
    /// Importance, `[P]`.
    pub scores: &'a [f32],
}

/// Fuses both updates into `theta`, `[P]`, with softmax weights at temperature
/// `tau`, which is above 0.
///
/// Scores that are all equal count as 0. Weights are taken in f64 and rounded once. Fails, and
/// changes nothing, if a score is not finite.
pub fn fuse_soft(
    theta: &mut [f32],
    inner: Scored<'_>,
    outer: Scored<'_>,
    tau: f64,
) -> Result<(), FusionError> {
    assert!(tau > 0.0, "temperature {tau}");
    for (what, update) in [("inner", inner), ("outer", outer)] {
        let lengths = [update.delta.len(), update.scores.len()];
        assert_eq!(
            lengths,
            [theta.len(); 2],
            "{what} differences and scores, parameters"
        );
    }
    let normal = [
        Range::of("inner", inner.scores)?,
        Range::of("outer", outer.scores)?,
    ];
    if theta.len() < MIN_PARALLEL {
        fuse(theta, inner, outer, normal, tau);
        return Ok(());
    }
    let chunks = (
        theta.par_chunks_mut(CHUNK),
        inner.delta.par_chunks(CHUNK),
        inner.scores.par_chunks(CHUNK),
        outer.delta.par_chunks(CHUNK),
        outer.scores.par_chunks(CHUNK),
    );
    chunks
        .into_par_iter()
        .for_each(|(theta, d_in, s_in, d_out, s_out)| {
            let scored = |delta, scores| Scored { delta, scores };
            fuse(theta, scored(d_in, s_in), scored(d_out, s_out), normal, tau);
        });
    Ok(())
}

/// What scores are brought to 0..=1 by.
#[derive(Clone, Copy)]
struct Range {
    min: f64,
    width: f64,
}

impl Range {
    fn of(loop_name: &'static str, scores: &[f32]) -> Result<Self, FusionError> {
        if let Some(index) = scores.iter().position(|score| !score.is_finite()) {
            let value = scores[index];
            return Err(FusionError::Score {
                loop_name,
                index,
                value,
            });
        }
        let min = f64::from(scores.iter().copied().fold(f32::INFINITY, f32::min));
        let max = f64::from(scores.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        Ok(Self {
            min,
            width: max - min,
        })
    }

    fn normalised(self, score: f32) -> f64 {
        if self.width > 0.0 {
            (f64::from(score) - self.min) / self.width
        } else {
            0.0
        }
    }
}

fn fuse(theta: &mut [f32], inner: Scored<'_>, outer: Scored<'_>, normal: [Range; 2], tau: f64) {
    let scores = inner.scores.iter().zip(outer.scores);
    let deltas = inner.delta.iter().zip(outer.delta);
    for ((theta, (d_in, d_out)), (s_in, s_out)) in theta.iter_mut().zip(deltas).zip(scores) {
        let lead = normal[0].normalised(*s_in) - normal[1].normalised(*s_out);
        let w_in = 1.0 / (1.0 + (-lead / tau).exp());
        *theta = *theta + w_in as f32 * d_in + (1.0 - w_in) as f32 * d_out;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_important_update_weighs_more() {
        let mut theta = [10.0; 3];
        let inner = Scored {
            delta: &[1.0; 3],
            scores: &[5.0, 3.0, 1.0], // 1, 1/2, 0
        };
        let outer = Scored {
            delta: &[-1.0; 3],
            scores: &[0.0, 0.2, 0.4], // 0, 1/2, 1
        };
        fuse_soft(&mut theta, inner, outer, 1.0).unwrap();
        let e = std::f32::consts::E;
        let lead = (e - 1.0) / (e + 1.0);
        assert!((theta[0] - 10.0 - lead).abs() < 1e-6 && theta[1] == 10.0);
        assert!((theta[2] - 10.0 + lead).abs() < 1e-6);
    }

    #[test]
    fn equal_scores_are_halves_and_a_score_that_is_not_finite_is_refused() {
        let mut theta = [1.0];
        let [inner, outer] = [2.0, 4.0].map(|delta| [delta]);
        let scored = |delta, scores| Scored { delta, scores };
        fuse_soft(
            &mut theta,
            scored(&inner, &[7.0]),
            scored(&outer, &[0.0]),
            0.1,
        )
        .unwrap();
        assert_eq!(theta, [4.0]);
        let error = fuse_soft(
            &mut theta,
            scored(&inner, &[1.0]),
            scored(&outer, &[f32::NAN]),
            0.1,
        );
        let error = error.unwrap_err().to_string();
        assert_eq!(
            error,
            "score NaN of parameter 0 in the outer loop is not finite"
        );
        assert_eq!(theta, [4.0]);
    }
}
