//! Averaging, clipping and counting of the learner, on numbers that can be checked by hand.

use crate::common::{P, Quadratic, distance, row};
use kif_data::{Batch, Encoded};
use kif_methods::methods::Parts;
use kif_methods::{Accumulate, Learner, LearnerConfig, Schedule};

fn learner(change: impl FnOnce(&mut LearnerConfig)) -> Learner {
    let mut config = LearnerConfig {
        dropout: 0.0,
        ..LearnerConfig::default()
    };
    config.optimizer.clip = 1e9;
    change(&mut config);
    Learner::new(
        Box::new(Quadratic::new(Parts::default())),
        config,
        Schedule::warmed_up(3e-4, 50),
    )
}

/// Rows of 1, 3, 1 and 1 target tokens.
fn rows() -> Vec<Encoded> {
    vec![row(1, &[0]), row(2, &[1, 1, 1]), row(3, &[2]), row(4, &[3])]
}

/// The gradient of the mean over `tokens`: `theta - share of each token`.
fn gradient_of(shares: [f32; 4]) -> Vec<f32> {
    let learner = learner(|_| ());
    let share = |i: usize| shares.get(i).copied().unwrap_or(0.0);
    learner
        .params()
        .iter()
        .enumerate()
        .map(|(i, p)| p - share(i))
        .collect()
}

#[test]
fn tokens_weigh_the_same_whatever_the_micro_batches() {
    let batch = Batch::from_rows(&rows());
    let mut whole = learner(|_| ());
    let loss = whole.gradient(&batch).unwrap();
    assert!(
        distance(
            whole.grad(),
            &gradient_of([1.0 / 6.0, 0.5, 1.0 / 6.0, 1.0 / 6.0])
        ) < 1e-6
    );
    for micro_tokens in [1, 4, 6] {
        let mut parts = learner(|c| c.micro_tokens = micro_tokens);
        assert!((parts.gradient(&batch).unwrap() - loss).abs() < 1e-12);
        assert!(distance(parts.grad(), whole.grad()) < 1e-6);
    }
}

#[test]
fn batches_weigh_the_same_under_published_accumulation() {
    let mut learner = learner(|c| c.accumulate = Accumulate::Batches);
    learner.gradient(&Batch::from_rows(&rows())).unwrap();
    let expected = gradient_of([0.125, 0.375, 0.25, 0.25]);
    assert!(
        distance(learner.grad(), &expected) < 1e-6,
        "{:?}",
        learner.grad()
    );
}

#[test]
fn the_scale_acts_before_clipping_and_not_on_the_loss() {
    let batch = Batch::from_rows(&rows());
    let mut full = learner(|_| ());
    let mut quarter = learner(|_| ());
    let losses = [full.gradient(&batch), quarter.memory_gradient(&batch, 0.25)].map(Result::unwrap);
    assert_eq!(losses[0], losses[1]);
    let scaled: Vec<f32> = full.grad().iter().map(|g| g * 0.25).collect();
    assert!(distance(quarter.grad(), &scaled) < 1e-7);

    let mut clipped = learner(|c| c.optimizer.clip = 0.1);
    clipped.memory_gradient(&batch, 0.25).unwrap();
    let norm = clipped.grad().iter().map(|g| g * g).sum::<f32>().sqrt();
    assert!((norm - 0.1).abs() < 1e-5, "{norm}");
}

#[test]
fn a_warmed_up_run_does_not_move_at_step_0() {
    let mut learner = learner(|_| ());
    learner.begin_task(
        0,
        "task",
        Schedule::Linear {
            peak: 0.1,
            warmup_steps: 2,
            total_steps: 4,
        },
    );
    let start = learner.params().to_vec();
    let batch = Batch::from_rows(&rows());
    learner.step(&batch).unwrap();
    assert_eq!(learner.params(), start);
    learner.step(&batch).unwrap();
    assert_ne!(learner.params(), start);
}

#[test]
fn costs_are_counted() {
    let mut learner = learner(|_| ());
    let batch = Batch::from_rows(&rows());
    learner.step(&batch).unwrap();
    learner.memory_gradient(&batch, 1.0).unwrap();
    learner.apply_with(None, learner.next_rate()).unwrap();
    let counters = learner.counters();
    assert_eq!(
        (counters.updates, counters.tokens, counters.memory_rows),
        (2, 20, 4)
    );
    assert_eq!(learner.steps(), 1);
    assert_eq!(learner.params().len(), P);
}
