//! A round of Recurrent-KIF on four parameters, with numbers that can be checked by hand.
//!
//! The names are those of `docs/paper-map.md`. The gradients are given; in a run they come from
//! the new task (inner loop) and from the memory of earlier tasks (outer loop).

use kif_fusion::{FusionWeights, Update, delta, fuse_masked};
use kif_importance::{ImportanceError, Mask, Sensitivity, SensitivityConfig, mask_above, quantile};

/// Size of a plain step; the published runs take AdamW's.
const RATE: f32 = 0.5;

/// Share of the scores that stay below the threshold (paper: 0.8).
const QUANTILE: f64 = 0.5;

/// `S <- 0.5 S + 0.5 I` (paper: 0.55 and 0.45), and the score is S alone, as in the paper.
const SMOOTHING: SensitivityConfig = SensitivityConfig {
    sensitivity_beta: 0.5,
    uncertainty_beta: None,
};

/// What a loop leaves: where it ended, its task vector, its scores, their threshold and its mask.
struct Loop {
    theta: [f32; 4],
    d: [f32; 4],
    scores: Vec<f32>,
    threshold: f32,
    mask: Mask,
}

/// Steps from `start` along the gradients, and how much each parameter mattered on the way.
fn run_loop(start: [f32; 4], gradients: &[[f32; 4]]) -> Result<Loop, ImportanceError> {
    let mut theta = start;
    let mut sensitivity = Sensitivity::new(SMOOTHING, theta.len());
    for g in gradients {
        sensitivity.update(&theta, g); // I = |theta g|, with the weights that g belongs to
        for (theta, g) in theta.iter_mut().zip(g) {
            *theta -= RATE * g;
        }
    }
    let mut d = [0.0; 4];
    delta(&theta, &start, &mut d);
    let scores = sensitivity.sensitivity().to_vec();
    let threshold = quantile(&scores, QUANTILE)?;
    let mask = mask_above(&scores, threshold);
    Ok(Loop {
        theta,
        d,
        scores,
        threshold,
        mask,
    })
}

/// `theta_b + w_in d_in + w_out d_out`, with the paper's weights for each pair of masks.
fn fuse(theta_b: [f32; 4], inner: &Loop, outer: &Loop) -> [f32; 4] {
    let mut theta = theta_b;
    let [inner, outer] = [inner, outer].map(|l| Update {
        delta: &l.d,
        mask: l.mask.as_slice(),
    });
    fuse_masked(&mut theta, inner, outer, &FusionWeights::PAPER);
    theta
}

fn show(name: &str, values: &[f32]) {
    let cells: String = values.iter().map(|value| format!("{value:>8}")).collect();
    println!("{name:<20}{cells}");
}

fn show_mask(name: &str, mask: &Mask) {
    let cells: String = (mask.as_slice().iter())
        .map(|selected| format!("{:>8}", if *selected { "yes" } else { "-" }))
        .collect();
    println!("{name:<20}{cells}");
}

fn main() -> Result<(), ImportanceError> {
    let theta_b = [4.0, 2.0, 8.0, 1.0];
    // Q = 2 inner steps on the new task, then M = 1 outer step on the memory (paper: 8 and 4).
    let inner = run_loop(theta_b, &[[2.0, 0.0, -2.0, 1.0], [2.0, 1.0, -2.0, 1.0]])?;
    let outer = run_loop(inner.theta, &[[1.0, -4.0, 1.0, 2.0]])?;
    let fused = fuse(theta_b, &inner, &outer);

    show("theta_b", &theta_b);
    show("theta_after_inner", &inner.theta);
    show("theta_after_outer", &outer.theta);
    show("d_in", &inner.d);
    show("d_out", &outer.d);
    show("S_in", &inner.scores);
    show("S_out", &outer.scores);
    show("thresholds in, out", &[inner.threshold, outer.threshold]);
    show_mask("m_in", &inner.mask);
    show_mask("m_out", &outer.mask);
    show("theta_b+1", &fused);

    assert_eq!(inner.theta, [2.0, 1.5, 10.0, 0.0]);
    assert_eq!(outer.theta, [1.5, 3.5, 9.5, -1.0]);
    assert_eq!(inner.d, [-2.0, -0.5, 2.0, -1.0]);
    assert_eq!(outer.d, [-0.5, 2.0, -0.5, -1.0]);
    // The first parameter: 0.5 (0.5 * 8) + 0.5 * 6. The threshold lies half way from 1 to 5.
    assert_eq!(inner.scores, [5.0, 1.0, 13.0, 0.5]);
    assert_eq!(inner.threshold, 3.0);
    assert_eq!(inner.mask.as_slice(), [true, false, true, false]);
    assert_eq!(outer.scores, [1.0, 3.0, 5.0, 0.0]);
    assert_eq!(outer.threshold, 2.0);
    assert_eq!(outer.mask.as_slice(), [false, true, true, false]);
    // Only inner: 4 - 2. Only outer: 2 + 2. Both: 8 + 2 - 0.5. Neither: 1, as it was.
    assert_eq!(fused, [2.0, 4.0, 9.5, 1.0]);
    Ok(())
}
