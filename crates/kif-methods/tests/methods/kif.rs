//! What KIF becomes when its masks or weights are trivial, and where its rounds begin and end.

use std::sync::Arc;

use crate::common::{P, batches, begin, distance, learn, learner, named, params_after, stream};
use kif_data::Encoded;
use kif_fusion::{FusionWeights, Regions};
use kif_importance::quantile;
use kif_methods::methods::kif::{ClearedAverages, KifFusion, KifScope};
use kif_methods::methods::{
    Distillation, HalveConfig, KifConfig, OuterOptimizer, ReplayMatchedConfig, TwoLoopConfig,
};
use kif_methods::{MemoryOrder, MethodConfig, Regime, TaskView, methods};

/// The settings of a built-in KIF.
fn preset(name: &str) -> KifConfig {
    match named(name) {
        MethodConfig::Kif(config) => config,
        other => panic!("{other:?}"),
    }
}

/// The same settings with another quantile, where masks need one.
fn at_quantile(mut config: KifConfig, at: f64) -> KifConfig {
    if let KifFusion::Masked { quantile, .. } = &mut config.fusion {
        *quantile = at;
    }
    config
}

/// The released settings with one change to the steps.
fn with_steps(change: impl FnOnce(&mut TwoLoopConfig)) -> KifConfig {
    let mut config = KifConfig::released();
    change(&mut config.two_loop);
    config
}

#[test]
fn full_weights_everywhere_are_sequential_replay() {
    let tasks = stream(MemoryOrder::Drawn);
    let full = preset("kif-no-masks");
    let released = KifConfig {
        fusion: full.fusion,
        ..KifConfig::released()
    };
    for (kif, plain) in [
        (full, TwoLoopConfig::paper()),
        (released, TwoLoopConfig::released()),
    ] {
        let fused = params_after(&MethodConfig::Kif(kif), &tasks, 5);
        let replayed = params_after(&MethodConfig::from(ReplayMatchedConfig(plain)), &tasks, 5);
        assert!(distance(&fused, &replayed) < 1e-5, "{fused:?} {replayed:?}");
    }
}

#[test]
fn empty_masks_of_the_paper_leave_the_parameters_alone() {
    let task = &stream(MemoryOrder::Drawn)[1];
    let config = MethodConfig::Kif(at_quantile(KifConfig::paper(), 1.0));
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
    let released = KifConfig {
        fusion: KifFusion::PAPER.with_weights(FusionWeights::HALVES),
        ..KifConfig::released()
    };
    for (kif, plain) in [
        (preset("kif-global"), TwoLoopConfig::paper()),
        (released, TwoLoopConfig::released()),
    ] {
        let kif = MethodConfig::Kif(kif);
        assert_eq!(
            params_after(&kif, &tasks, 5),
            params_after(&HalveConfig(plain).into(), &tasks, 5)
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
        let end = one_round(ReplayMatchedConfig(plain).into());
        let mean: Vec<f32> = start.iter().zip(&end).map(|(a, b)| (a + b) / 2.0).collect();
        assert!(distance(&one_round(kif), &mean) < 1e-6);
    }
}

#[test]
fn the_first_task_is_plain_fine_tuning_to_the_bit() {
    let tasks = stream(MemoryOrder::Drawn);
    let plain = params_after(&named("seq_lora"), &tasks[..1], 5);
    for config in crate::common::methods_of_one_slot() {
        let name = config.name();
        // Its penalty is there from the first task on.
        let has_own_loss = name == "tas_lora";
        if config.regime() == Regime::Stream && !has_own_loss {
            assert_eq!(params_after(&config, &tasks[..1], 5), plain, "{name}");
        }
    }
}

#[test]
fn steps_after_the_last_full_round_stay_unfused() {
    let task = &stream(MemoryOrder::Drawn)[1];
    let config = MethodConfig::Kif(at_quantile(KifConfig::paper(), 1.0));
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
    let methods = crate::common::methods_of_one_slot().into_iter();
    for config in methods.filter(|config| !config.needs_stream()) {
        let mut learner = learner(0.0);
        let mut method = config.build(learner.layout());
        learn(&mut learner, method.as_mut(), &tasks[1], 3);
        let between = learner.params().to_vec();
        learn(&mut learner, method.as_mut(), &tasks[2], 3);

        let mut fresh = crate::common::learner(0.0);
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
            fusion: KifFusion::Masked {
                quantile: 0.6,
                scope: KifScope::PerTensor,
                weights: FusionWeights::RELEASED,
            },
            ..released
        },
        KifConfig {
            cleared: ClearedAverages::InnerAndOuter,
            ..released
        },
        KifConfig {
            uncertainty_beta: None,
            ..released
        },
        with_steps(|steps| steps.outer_optimizer = TwoLoopConfig::paper().outer_optimizer),
        with_steps(|steps| steps.outer_steps = 3),
        with_steps(|steps| steps.memory_order = MemoryOrder::Cycled),
        with_steps(|steps| steps.slow_average = Some(0.5)),
        with_steps(|steps| {
            steps.outer_optimizer = OuterOptimizer::OwnScheduled { ratio: 1.0 };
        }),
    ] {
        assert_ne!(
            params_after(&MethodConfig::Kif(other), &tasks, 6),
            at_released,
            "{other:?}"
        );
    }
}

/// The first round of a task, of steps that no fusion has touched.
struct Round {
    start: Vec<f32>,
    middle: Vec<f32>,
    end: Vec<f32>,
    /// Averages of `|w g|` of the inner and the outer loop.
    scores: [[f32; P]; 2],
}

/// 8 inner steps and 4 memory steps by hand, with the paper's averages.
fn round_by_hand() -> Round {
    let task = &stream(MemoryOrder::Cursor)[1];
    let mut plain = learner(0.0);
    let mut nothing = named("seq_lora").build(plain.layout());
    let batches = batches(nothing.as_ref(), task, 2);
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
    let mut adamw = kif_methods::AdamW::new(&plain.config().optimizer, P);
    for draw in 0..4 {
        let rows = (3 * draw..3 * draw + 3).map(|i| &task.memory[i % 4]);
        plain
            .memory_gradient(&kif_data::Batch::from_rows(rows), 1.0)
            .unwrap();
        average(&mut outer, plain.params(), plain.grad());
        plain.apply_with(Some(&mut adamw), 1e-3).unwrap();
    }
    Round {
        start,
        middle,
        end: plain.params().to_vec(),
        scores: [inner, outer],
    }
}

impl Round {
    /// Where a parameter ends whose updates weigh so much.
    fn fused(&self, i: usize, w_in: f32, w_out: f32) -> f32 {
        let (d_in, d_out) = (self.middle[i] - self.start[i], self.end[i] - self.middle[i]);
        self.start[i] + w_in * d_in + w_out * d_out
    }

    /// Whether a parameter is above the quantile of `among` in the inner loop, in the outer loop.
    fn masks(&self, i: usize, q: f64, among: std::ops::Range<usize>) -> [bool; 2] {
        let above = |scores: &[f32; P]| scores[i] > quantile(&scores[among.clone()], q).unwrap();
        self.scores.each_ref().map(above)
    }
}

/// The parameters after the method's own first round of the same task.
fn first_round(config: KifConfig) -> Vec<f32> {
    first_round_and_regions(config).0
}

/// The same, and what the masks of the round chose of both matrices.
fn first_round_and_regions(config: KifConfig) -> (Vec<f32>, Option<Vec<Regions>>) {
    let task = &stream(MemoryOrder::Cursor)[1];
    let mut fused = learner(0.0);
    let mut method = MethodConfig::Kif(config).build(fused.layout());
    let batches = batches(method.as_ref(), task, 2);
    begin(&mut fused, method.as_mut(), task, batches.len());
    for batch in &batches[..8] {
        assert_eq!(
            method.take_regions(),
            None,
            "before the first round is over"
        );
        method.observe(&mut fused, batch).unwrap();
    }
    let regions = method.take_regions();
    assert_eq!(method.take_regions(), None, "a round is told once");
    (fused.params().to_vec(), regions)
}

/// Compares the first round of a preset with `expected`, parameter for parameter.
fn same_round(config: KifConfig, round: &Round, expected: impl Fn(usize) -> f32) {
    let expected: Vec<f32> = (0..P).map(expected).collect();
    let found = first_round(config);
    assert!(distance(&found, &expected) < 1e-6, "{found:?} {expected:?}");
    assert!(distance(&found, &round.start) > 1e-3);
}

fn weight(mask: bool) -> f32 {
    f32::from(u8::from(mask))
}

#[test]
fn a_round_of_the_paper_by_hand() {
    let round = round_by_hand();
    same_round(KifConfig::paper(), &round, |i| {
        let [m_in, m_out] = round.masks(i, 0.8, 0..P);
        round.fused(i, weight(m_in), weight(m_out))
    });
}

#[test]
fn without_the_shared_region_parameters_in_both_masks_stay() {
    let round = round_by_hand();
    let q = 0.4; // so that the masks share parameters of the toy
    let config = at_quantile(preset("kif-no-share"), q);
    let shared = |i: usize| round.masks(i, q, 0..P) == [true, true];
    assert!((0..P).any(shared) && !(0..P).all(shared));
    same_round(config, &round, |i| {
        let [m_in, m_out] = round.masks(i, q, 0..P);
        let both = m_in && m_out;
        round.fused(i, weight(m_in && !both), weight(m_out && !both))
    });
    let found = first_round(config);
    assert!(
        (0..P)
            .filter(|i| shared(*i))
            .all(|i| found[i] == round.start[i])
    );
}

#[test]
fn what_the_masks_chose_is_counted_by_matrix() {
    let round = round_by_hand();
    let q = 0.4;
    let with = |name: &str| at_quantile(preset(name), q);
    let count = |matrix: std::ops::Range<usize>| {
        let number = |wanted: [bool; 2]| {
            let of = |i: &usize| round.masks(*i, q, 0..P) == wanted;
            matrix.clone().filter(of).count() as u64
        };
        Regions {
            inner_only: number([true, false]),
            outer_only: number([false, true]),
            both: number([true, true]),
        }
    };
    let expected = vec![count(0..4), count(4..8)];
    let (_, regions) = first_round_and_regions(with("kif-paper"));
    assert_eq!(regions, Some(expected));
    let (_, regions) = first_round_and_regions(with("kif-soft"));
    assert_eq!(regions, None, "soft weights have no masks");
}

#[test]
fn local_thresholds_are_those_of_each_matrix() {
    let round = round_by_hand();
    let q = 0.6; // 2 of 4 in each matrix, 3 of 8 in all
    let with = |name: &str| at_quantile(preset(name), q);
    let local = with("kif-local");
    same_round(local, &round, |i| {
        let matrix = if i < 4 { 0..4 } else { 4..8 };
        let [m_in, m_out] = round.masks(i, q, matrix);
        round.fused(i, weight(m_in), weight(m_out))
    });
    assert_ne!(first_round(local), first_round(with("kif-paper")));
}

#[test]
fn soft_weights_are_the_softmax_of_both_importances() {
    let round = round_by_hand();
    same_round(preset("kif-soft"), &round, |i| {
        let [n_in, n_out] = round.scores.map(|scores| {
            let least = scores.iter().copied().fold(f32::MAX, f32::min);
            let most = scores.iter().copied().fold(0.0, f32::max);
            ((scores[i] - least) / (most - least) / 0.25).exp()
        });
        round.fused(i, n_in / (n_in + n_out), n_out / (n_in + n_out))
    });
}

#[test]
fn static_importance_is_that_of_the_first_round_of_a_task() {
    let tasks = stream(MemoryOrder::Drawn);
    let held = |config: KifConfig| {
        let mut learner = learner(0.0);
        let mut method = MethodConfig::Kif(config).build(learner.layout());
        let mut states = Vec::new();
        for task in &tasks[1..] {
            let batches = batches(method.as_ref(), task, 6);
            begin(&mut learner, method.as_mut(), task, batches.len());
            for (i, batch) in batches.iter().enumerate() {
                method.observe(&mut learner, batch).unwrap();
                if (i + 1) % 8 == 0 {
                    let state = kif_methods::methods::save(&learner, method.as_ref());
                    states.push((task.index, learner.params().to_vec(), state));
                }
            }
            method.end_task(&mut learner, task).unwrap();
        }
        states
    };
    let (fixed, moving) = (held(preset("kif-static")), held(KifConfig::paper()));
    assert_eq!(fixed[0].1, moving[0].1, "the first rounds are the same");
    assert_ne!(fixed[2].1, moving[2].1, "and later ones differ");
    let scores = |at: usize| {
        let (task, _, state) = &fixed[at];
        let names = ["method.inner_held", "method.outer_held"];
        (
            *task,
            names.map(|name| state.tensor(name, P).unwrap().to_vec()),
        )
    };
    for at in 1..fixed.len() {
        let (before, now) = (scores(at - 1), scores(at));
        assert_eq!(before.1 == now.1, before.0 == now.0, "round {at}");
    }
}

#[test]
fn a_slow_average_is_what_a_task_leaves_behind() {
    let task = &stream(MemoryOrder::Drawn)[1];
    let config = |slow_average| {
        MethodConfig::from(ReplayMatchedConfig(TwoLoopConfig {
            slow_average,
            ..TwoLoopConfig::paper()
        }))
    };
    let (mut fast, mut slow) = (learner(0.0), learner(0.0));
    let mut methods = [config(None), config(Some(0.75))].map(|c| c.build(fast.layout()));
    let batches = batches(methods[0].as_ref(), task, 5);
    begin(&mut fast, methods[0].as_mut(), task, batches.len());
    begin(&mut slow, methods[1].as_mut(), task, batches.len());
    let mut expected = fast.params().to_vec();
    for (step, batch) in batches.iter().enumerate() {
        methods[0].observe(&mut fast, batch).unwrap();
        methods[1].observe(&mut slow, batch).unwrap();
        assert_eq!(fast.params(), slow.params(), "step {step}");
        if (step + 1) % 8 == 0 {
            for (mean, now) in expected.iter_mut().zip(fast.params()) {
                *mean = 0.75 * *mean + 0.25 * now;
            }
        }
    }
    methods[1].end_task(&mut slow, task).unwrap();
    assert!(distance(slow.params(), &expected) < 1e-6);
    assert_ne!(slow.params(), fast.params());
}

#[test]
fn an_outer_rate_that_follows_the_schedule_is_its_multiple() {
    let task = &stream(MemoryOrder::Drawn)[1];
    let after_a_round = |outer_optimizer| {
        let config = TwoLoopConfig {
            outer_optimizer,
            ..TwoLoopConfig::paper()
        };
        let mut learner = learner(0.0);
        let mut method = MethodConfig::from(ReplayMatchedConfig(config)).build(learner.layout());
        let batches = batches(method.as_ref(), task, 2);
        begin(&mut learner, method.as_mut(), task, batches.len());
        batches[..8].iter().for_each(|batch| {
            method.observe(&mut learner, batch).unwrap();
        });
        (learner.params().to_vec(), learner.next_rate())
    };
    let (scheduled, rate) = after_a_round(OuterOptimizer::OwnScheduled { ratio: 2.0 });
    let (constant, _) = after_a_round(OuterOptimizer::Own { lr: 2.0 * rate });
    assert_eq!(scheduled, constant);
}

/// Without a share of them, kept predictions change nothing.
#[test]
fn der_without_predictions_is_replay_matched_to_the_bit() {
    let after = |distillation| {
        let config = TwoLoopConfig {
            distillation,
            ..TwoLoopConfig::paper()
        };
        let config = MethodConfig::from(ReplayMatchedConfig(config));
        params_after(&config, &stream(MemoryOrder::Drawn), 4)
    };
    let with = |share| after(Some(Distillation { share, top_k: 3 }));
    assert_eq!(with(0.0), after(None));
    assert_ne!(with(0.5), after(None));
    let der = MethodConfig::by_name("der").unwrap();
    assert_ne!(
        params_after(&der, &stream(MemoryOrder::Drawn), 4),
        after(None)
    );
}

/// A reservoir drops rows, and others move up: what was predicted for a row goes with it.
#[test]
fn kept_predictions_go_with_their_rows() {
    let der = MethodConfig::by_name("der").unwrap();
    let mut learner = learner(0.0);
    let mut method = der.build(learner.layout());
    let tasks = stream(MemoryOrder::Drawn);
    let mut kept = |memory: &[Encoded], task: &TaskView| {
        let task = TaskView {
            memory: Arc::new(memory.to_vec()),
            memory_sizes: vec![memory.len()],
            ..task.clone()
        };
        learn(&mut learner, method.as_mut(), &task, 3);
        let n: usize = memory.iter().map(|row| row.target_ids.len() * P).sum();
        let state = methods::save(&learner, method.as_ref());
        let tensor = state.tensor("method.likeliest_log_probs", n).unwrap();
        tensor.to_vec()
    };
    let rows = tasks[0].rows.as_slice();
    // Targets of two tokens, one and one.
    let before = kept(&rows[..3], &tasks[1]);
    let after = kept(
        &[rows[2].clone(), rows[3].clone(), rows[1].clone()],
        &tasks[2],
    );
    assert_eq!(after[..P], before[3 * P..4 * P]);
    assert_eq!(after[3 * P..], before[2 * P..3 * P]);
    assert_ne!(after[P..2 * P], before[..P]);
}
