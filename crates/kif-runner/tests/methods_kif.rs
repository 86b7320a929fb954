//! What KIF becomes when its masks or weights are trivial, and where its rounds begin and end.

mod common;

use common::{P, batches, begin, distance, learn, learner, params_after, stream};
use kif_fusion::FusionWeights;
use kif_importance::quantile;
use kif_runner::methods::{Cleared, KifConfig, KifScope, TwoLoopConfig};
use kif_runner::{MemoryOrder, MethodConfig};

fn everywhere(inner: f32, outer: f32) -> FusionWeights {
    let pair = (inner, outer);
    FusionWeights {
        inner_only: pair,
        outer_only: pair,
        both: pair,
        neither: pair,
    }
}

#[test]
fn full_weights_everywhere_are_sequential_replay() {
    let tasks = stream(MemoryOrder::Drawn);
    let weights = everywhere(1.0, 1.0);
    for (kif, plain) in [
        (
            KifConfig {
                weights,
                ..KifConfig::paper()
            },
            TwoLoopConfig::paper(),
        ),
        (
            KifConfig {
                weights,
                ..KifConfig::released()
            },
            TwoLoopConfig::released(),
        ),
    ] {
        let fused = params_after(&MethodConfig::Kif(kif), &tasks, 5);
        let replayed = params_after(&MethodConfig::ReplayMatched(plain), &tasks, 5);
        assert!(distance(&fused, &replayed) < 1e-5, "{fused:?} {replayed:?}");
    }
}

#[test]
fn empty_masks_of_the_paper_leave_the_parameters_alone() {
    let task = &stream(MemoryOrder::Drawn)[1];
    let config = MethodConfig::Kif(KifConfig {
        quantile: 1.0,
        ..KifConfig::paper()
    });
    let mut learner = learner(0.0);
    let mut method = config.build(learner.layout());
    let start = learner.params().to_vec();
    let batches = batches(method.as_ref(), task, 4);
    begin(&mut learner, method.as_mut(), task, batches.len());
    for (i, batch) in batches.iter().enumerate() {
        method.observe(&mut learner, batch).unwrap();
        assert_eq!(learner.params() == start, (i + 1) % 8 == 0, "step {i}");
    }
}

#[test]
fn halves_everywhere_are_plain_averaging() {
    let tasks = stream(MemoryOrder::Drawn);
    for (kif, plain) in [
        (KifConfig::paper(), TwoLoopConfig::paper()),
        (KifConfig::released(), TwoLoopConfig::released()),
    ] {
        let kif = MethodConfig::Kif(KifConfig {
            weights: FusionWeights::HALVES,
            ..kif
        });
        assert_eq!(
            params_after(&kif, &tasks, 5),
            params_after(&MethodConfig::Halve(plain), &tasks, 5)
        );
        let task = &tasks[1];
        let one_round = |config: MethodConfig| {
            let mut learner = learner(0.0);
            let mut method = config.build(learner.layout());
            let batches = batches(method.as_ref(), task, 2);
            begin(&mut learner, method.as_mut(), task, batches.len());
            for batch in &batches[..8] {
                method.observe(&mut learner, batch).unwrap();
            }
            learner.params().to_vec()
        };
        let start = learner(0.0).params().to_vec();
        let end = one_round(MethodConfig::ReplayMatched(plain));
        let mean: Vec<f32> = start.iter().zip(&end).map(|(a, b)| (a + b) / 2.0).collect();
        assert!(distance(&one_round(kif), &mean) < 1e-6);
    }
}

#[test]
fn the_first_task_is_plain_fine_tuning_to_the_bit() {
    let tasks = stream(MemoryOrder::Drawn);
    let plain = params_after(&MethodConfig::SeqLora, &tasks[..1], 5);
    for name in [
        "kif-paper",
        "kif-released",
        "replay_matched",
        "halve",
        "seq_lora_matched",
        "replay",
    ] {
        let config = MethodConfig::by_name(name).unwrap();
        assert_eq!(params_after(&config, &tasks[..1], 5), plain, "{name}");
    }
}

#[test]
fn steps_behind_the_last_full_round_stay_unfused() {
    let task = &stream(MemoryOrder::Drawn)[1];
    let config = MethodConfig::Kif(KifConfig {
        quantile: 1.0,
        ..KifConfig::paper()
    });
    let mut learner = learner(0.0);
    let mut method = config.build(learner.layout());
    let start = learner.params().to_vec();
    let n_batches = batches(method.as_ref(), task, 2).len();
    assert_ne!(n_batches % 8, 0);
    learn(&mut learner, method.as_mut(), task, 2);
    assert_ne!(learner.params(), start);
}

#[test]
fn nothing_but_parameters_goes_from_task_to_task() {
    let tasks = stream(MemoryOrder::Drawn);
    // EWC keeps what it knows of the earlier tasks' importance.
    let keeps_more = |config: &MethodConfig| matches!(config, MethodConfig::Ewc(_));
    for config in common::methods_of_one_slot() {
        if keeps_more(&config) {
            continue;
        }
        let mut learner = learner(0.0);
        let mut method = config.build(learner.layout());
        learn(&mut learner, method.as_mut(), &tasks[1], 3);
        let between = learner.params().to_vec();
        learn(&mut learner, method.as_mut(), &tasks[2], 3);

        let mut fresh = common::learner(0.0);
        fresh.set_params(&between).unwrap();
        let mut method = config.build(fresh.layout());
        learn(&mut fresh, method.as_mut(), &tasks[2], 3);
        assert_eq!(fresh.params(), learner.params(), "{}", config.name());
    }
}

#[test]
fn the_settings_make_a_difference() {
    let tasks = stream(MemoryOrder::Drawn);
    let paper = params_after(&MethodConfig::Kif(KifConfig::paper()), &tasks, 6);
    let released = KifConfig::released();
    let at_released = params_after(&MethodConfig::Kif(released), &tasks, 6);
    assert_ne!(paper, at_released);
    for other in [
        KifConfig {
            scope: KifScope::PerTensor,
            quantile: 0.6,
            ..released
        },
        KifConfig {
            cleared: Cleared::InnerAndOuter,
            ..released
        },
        KifConfig {
            uncertainty_beta: None,
            ..released
        },
        KifConfig {
            outer_optimizer: KifConfig::paper().outer_optimizer,
            ..released
        },
        KifConfig {
            outer_steps: 3,
            ..released
        },
    ] {
        assert_ne!(
            params_after(&MethodConfig::Kif(other), &tasks, 6),
            at_released,
            "{other:?}"
        );
    }
}

/// One round by hand, from the parts: 8 inner steps, 4 memory steps, masks, fusion.
#[test]
fn a_round_of_the_paper_by_hand() {
    let task = &stream(MemoryOrder::Cursor)[1];
    let config = KifConfig::paper();
    let mut fused = learner(0.0);
    let mut method = MethodConfig::Kif(config).build(fused.layout());
    let batches = batches(method.as_ref(), task, 2);
    begin(&mut fused, method.as_mut(), task, batches.len());
    for batch in &batches[..8] {
        method.observe(&mut fused, batch).unwrap();
    }

    let mut plain = learner(0.0);
    let mut nothing = MethodConfig::SeqLora.build(plain.layout());
    begin(&mut plain, nothing.as_mut(), task, batches.len());
    let average = |scores: &mut [f32; P], params: &[f32], grads: &[f32]| {
        for i in 0..P {
            scores[i] = 0.55 * scores[i] + 0.45 * (params[i] * grads[i]).abs();
        }
    };
    let start = plain.params().to_vec();
    let (mut inner, mut outer) = ([0.0; P], [0.0; P]);
    for batch in &batches[..8] {
        plain.gradient(batch).unwrap();
        average(&mut inner, plain.params(), plain.grad());
        plain.apply().unwrap();
    }
    let middle = plain.params().to_vec();
    let mut adamw = kif_runner::AdamW::new(&plain.config().optimizer, P);
    for draw in 0..4 {
        let rows = (3 * draw..3 * draw + 3).map(|i| &task.memory[i % 4]);
        plain
            .memory_gradient(&kif_data::Batch::from_rows(rows), 1.0)
            .unwrap();
        average(&mut outer, plain.params(), plain.grad());
        plain.apply_with(&mut adamw, 1e-3).unwrap();
    }
    let (inner_threshold, outer_threshold) = (
        quantile(&inner, 0.8).unwrap(),
        quantile(&outer, 0.8).unwrap(),
    );
    let expected: Vec<f32> = (0..P)
        .map(|i| {
            let (m_in, m_out) = (inner[i] > inner_threshold, outer[i] > outer_threshold);
            let d_in = f32::from(u8::from(m_in)) * (middle[i] - start[i]);
            start[i] + d_in + f32::from(u8::from(m_out)) * (plain.params()[i] - middle[i])
        })
        .collect();
    assert!(
        distance(fused.params(), &expected) < 1e-6,
        "{:?} {expected:?}",
        fused.params()
    );
    assert!(distance(fused.params(), &start) > 1e-3);
}
