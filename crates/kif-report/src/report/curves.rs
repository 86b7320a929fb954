//! Training losses of a method: means over the seeds of one order.

use crate::record::{LossCurve, Record};

/// Most points of a curve; neighbours are averaged where a training has more.
const MOST_POINTS: usize = 40;

/// The training of one task.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Curve {
    /// Name of the task, or `all tasks`.
    pub(crate) task: String,
    /// Steps over an epoch's batches.
    pub(crate) steps: usize,
    /// The step in the middle of each group, and the mean loss over it in nats per target token.
    pub(crate) points: Vec<(f64, f64)>,
}

/// The curves of `records`, which have one method and one order.
pub(super) fn curves(records: &[&Record]) -> Vec<Curve> {
    let Some(first) = records.first() else {
        return Vec::new();
    };
    let like = |curve: &LossCurve, i: usize| -> Vec<&LossCurve> {
        let others = records.iter().filter_map(|record| record.losses.get(i));
        others
            .filter(|other| other.mean.len() == curve.mean.len())
            .collect()
    };
    (first.losses.iter().enumerate())
        .map(|(i, curve)| mean_curve(&like(curve, i)))
        .collect()
}

/// The mean of curves of the same length, at least one.
fn mean_curve(curves: &[&LossCurve]) -> Curve {
    let first = curves[0];
    let mean = |i: usize| curves.iter().map(|c| c.mean[i]).sum::<f64>() / curves.len() as f64;
    let group = first.mean.len().div_ceil(MOST_POINTS).max(1);
    // Records are read from files, which may say anything.
    let steps_of = |i: usize| {
        let left = first.steps.saturating_sub(i.saturating_mul(first.every));
        first.every.min(left) as f64
    };
    let points = (0..first.mean.len())
        .step_by(group)
        .map(|start| {
            let members = start..(start + group).min(first.mean.len());
            let n_steps: f64 = members.clone().map(steps_of).sum();
            let sum: f64 = members.map(|i| mean(i) * steps_of(i)).sum();
            ((start * first.every) as f64 + n_steps / 2.0, sum / n_steps)
        })
        .collect();
    Curve {
        task: first.task.clone(),
        steps: first.steps,
        points,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(losses: &[f64]) -> LossCurve {
        LossCurve {
            task: "a".to_owned(),
            steps: 10 * losses.len() - 5,
            every: 10,
            mean: losses.to_vec(),
        }
    }

    #[test]
    fn curves_are_means_over_seeds() {
        let mean = mean_curve(&[&curve(&[3.0, 1.0]), &curve(&[5.0, 2.0])]);
        assert_eq!(mean.points, [(5.0, 4.0), (12.5, 1.5)]);
    }

    #[test]
    fn long_curves_are_averaged_by_their_steps() {
        let losses: Vec<f64> = (0..80).map(f64::from).collect();
        let points = mean_curve(&[&curve(&losses)]).points;
        assert_eq!(points.len(), 40);
        assert_eq!(points[0], (10.0, 0.5));
        // 10 steps of 78 and 5 of 79.
        let (step, loss) = points[39];
        assert_eq!(step, 787.5);
        assert!((loss - (78.0 * 10.0 + 79.0 * 5.0) / 15.0).abs() < 1e-9);
    }
}
