//! What the baselines claim, on the bases that the program brings along: EWC, O-LoRA, IncLoRA,
//! MIGU, A-GEM, VR-MCL.

use crate::common::quick::{Arch, N_TASKS, Quick, RANK, on_every_base};
use crate::common::{batches, begin, distance, dot, learn, mean_divergence, named};
use kif_data::{Batch, Encoded};
use kif_methods::methods::ewc::EwcFisher;
use kif_methods::methods::{
    DerConfig, Distillation, EwcConfig, MethodSpec, MiguConfig, OLoraConfig, OuterOptimizer,
    TwoLoopConfig, VrMclConfig, save,
};
use kif_methods::{Learner, MethodConfig, Regime, Sampler};
use kif_model::{LORA_A, LORA_B, ModelOptions, Trainable};

// With so many rows of every task.
on_every_base! {
    ewc_holds_what_matters_and_lets_go_of_the_rest: 64,
    ewc_without_strength_is_plain_fine_tuning_to_the_bit: 16,
    the_textbook_fisher_is_the_mean_of_squared_gradients_of_single_rows: 16,
    slao_starts_orthonormal_and_averages_b: 32,
    migu_leaves_masked_rows_alone_to_the_bit: 32,
    output_magnitudes_are_those_of_the_matrices: 8,
    a_gem_never_steps_against_the_memory: 64,
    a_hypergradient_by_hand: 16,
    momentum_reduces_the_variance_of_the_hypergradient: 64,
    der_stays_near_what_was_predicted_for_the_memory: 32,
    every_baseline_learns_a_task_of_the_stream: 64,
}

/// Mean absolute movement in the second task of the parameters with the `n` largest and of those
/// with the `n` smallest Fisher information of the first.
fn movement(quick: &Quick, ewc: EwcConfig, n: usize) -> (f64, f64) {
    let (mut learner, mut method) = quick.start(&MethodConfig::Ewc(ewc), 0.0);
    learn(&mut learner, method.as_mut(), &quick.tasks[0], 2);
    let start = learner.params().to_vec();
    let state = save(&learner, method.as_ref());
    let fisher = state.tensor("method.fisher", start.len()).unwrap();
    let mut order: Vec<usize> = (0..start.len()).collect();
    order.sort_by(|&i, &j| fisher[j].total_cmp(&fisher[i]));
    learn(&mut learner, method.as_mut(), &quick.tasks[1], 2);
    let mean = |indices: &[usize]| {
        let moved = |&i: &usize| f64::from((learner.params()[i] - start[i]).abs());
        indices.iter().map(moved).sum::<f64>() / indices.len() as f64
    };
    (mean(&order[..n]), mean(&order[order.len() - n..]))
}

fn ewc_holds_what_matters_and_lets_go_of_the_rest(quick: &Quick) {
    for (ewc, lambda) in [(EwcConfig::online(), 4e4), (EwcConfig::textbook(), 400.0)] {
        let (free_high, free_low) = movement(quick, EwcConfig { lambda: 0.0, ..ewc }, 200);
        let (high, low) = movement(quick, EwcConfig { lambda, ..ewc }, 200);
        println!("{}: {free_high} -> {high}, {free_low} -> {low}", ewc.name());
        assert!(
            high < 0.5 * free_high,
            "{}: {high} of {free_high}",
            ewc.name()
        );
        assert!(
            low / free_low > 1.5 * high / free_high,
            "{}: {low} of {free_low}, {high} of {free_high}",
            ewc.name()
        );
    }
}

fn ewc_without_strength_is_plain_fine_tuning_to_the_bit(quick: &Quick) {
    let plain = quick.learned(&named("seq_lora"), 2, 3);
    for ewc in [EwcConfig::online(), EwcConfig::textbook()] {
        let same = |ewc: EwcConfig| {
            quick.learned(&MethodConfig::Ewc(ewc), 2, 3).params() == plain.params()
        };
        assert!(same(EwcConfig { lambda: 0.0, ..ewc }), "{}", ewc.name());
        assert!(!same(ewc), "{}", ewc.name());
    }
}

fn the_textbook_fisher_is_the_mean_of_squared_gradients_of_single_rows(quick: &Quick) {
    let config = MethodConfig::Ewc(EwcConfig {
        fisher: EwcFisher::Textbook { rows: 100 },
        ..EwcConfig::textbook()
    });
    let (mut learner, mut method) = quick.start(&config, 0.05);
    learn(&mut learner, method.as_mut(), &quick.tasks[0], 1);
    let n = learner.params().len();
    let options = ModelOptions::cpu(Trainable::Adapter(quick.lora(&config)));
    let mut model = kif_model::load(&quick.model, &options).unwrap();
    model.set_params(learner.params()).unwrap();
    let mut expected = vec![0.0f64; n];
    for row in quick.tasks[0].rows.iter() {
        let mut grad = vec![0.0; n];
        let batch = Batch::from_rows([row]);
        model.loss_and_grad(&batch, 1.0, None, &mut grad).unwrap();
        for (sum, g) in expected.iter_mut().zip(&grad) {
            *sum += f64::from(*g) * f64::from(*g) / 16.0;
        }
    }
    let state = save(&learner, method.as_ref());
    let fisher = state.tensor("method.fisher", n).unwrap();
    let largest = expected.iter().copied().fold(0.0, f64::max);
    assert!(largest > 0.0);
    for (found, expected) in fisher.iter().zip(&expected) {
        assert!((f64::from(*found) - expected).abs() < 1e-5 * largest);
    }
}

fn slao_starts_orthonormal_and_averages_b(quick: &Quick) {
    let (mut learner, mut method) = quick.start(&named("slao"), 0.0);
    let specs = learner.layout().specs().to_vec();
    let mut merged = Vec::new();
    for (i, task) in quick.tasks.iter().enumerate() {
        let last = learner.params().to_vec();
        let batches = batches(method.as_ref(), task, 2);
        begin(&mut learner, method.as_mut(), task, batches.len());
        for spec in specs.iter().filter(|s| i > 0 && s.name.ends_with(LORA_A)) {
            let rows = |params: &[f32]| -> Vec<Vec<f32>> {
                let rows = params[spec.range.clone()].chunks(spec.shape[1]);
                rows.map(<[f32]>::to_vec).collect()
            };
            let (q, a) = (rows(learner.params()), rows(&last));
            for r in 0..RANK {
                for s in 0..RANK {
                    let expected = f64::from(u8::from(r == s));
                    assert!((dot(&q[r], &q[s]) - expected).abs() < 1e-5);
                }
                // Every row lies in the span of the last A's rows up to its own.
                let inside: f64 = (0..=r).map(|s| dot(&a[r], &q[s]).powi(2)).sum();
                assert!((inside / dot(&a[r], &a[r]) - 1.0).abs() < 1e-4);
            }
        }
        for batch in &batches {
            method.observe(&mut learner, batch).unwrap();
        }
        let end = learner.params().to_vec();
        method.end_task(&mut learner, task).unwrap();
        for spec in &specs {
            for j in spec.range.clone() {
                let share = if spec.name.ends_with(LORA_B) && i > 0 {
                    1.0 / (i as f32 + 1.0).sqrt()
                } else {
                    1.0
                };
                let before = merged.get(j).copied().unwrap_or(0.0);
                let expected = share * end[j] + (1.0 - share) * before;
                assert!(
                    (learner.params()[j] - expected).abs() < 1e-5,
                    "{}",
                    spec.name
                );
            }
        }
        merged = learner.params().to_vec();
    }
}

fn migu_leaves_masked_rows_alone_to_the_bit(quick: &Quick) {
    let config = MethodConfig::Migu(MiguConfig::default());
    let (mut learner, mut method) = quick.start(&config, 0.05);
    learn(&mut learner, method.as_mut(), &quick.tasks[0], 1);
    let batches = batches(method.as_ref(), &quick.tasks[1], 2);
    begin(
        &mut learner,
        method.as_mut(),
        &quick.tasks[1],
        batches.len(),
    );
    let (mut n_rows, mut n_moved) = (0, 0);
    for batch in &batches {
        let magnitudes = learner
            .model()
            .insights()
            .unwrap()
            .output_magnitudes(batch)
            .unwrap();
        let before = learner.params().to_vec();
        let first = learner.steps() == 0; // a warm-up starts at rate 0
        method.observe(&mut learner, batch).unwrap();
        for (spec, magnitudes) in learner.layout().specs().iter().zip(&magnitudes) {
            let mut sorted = magnitudes.clone();
            sorted.sort_by(f32::total_cmp);
            // At least as large as all rows up to the quantile's position.
            let below = sorted[(0.7 * (sorted.len() - 1) as f64).floor() as usize];
            let width = spec.range.len() / magnitudes.len();
            for (row, magnitude) in magnitudes.iter().enumerate() {
                let at = spec.range.start + row * width..spec.range.start + (row + 1) * width;
                let moved = before[at.clone()] != learner.params()[at];
                assert!(!moved || *magnitude > below, "row {row} of {}", spec.name);
                n_rows += usize::from(!first);
                n_moved += usize::from(moved);
            }
        }
    }
    let share = n_moved as f64 / n_rows as f64;
    assert!((0.25..0.45).contains(&share), "{share} of the rows moved");
}

fn output_magnitudes_are_those_of_the_matrices(quick: &Quick) {
    let learner = quick.learned(&named("seq_lora"), 1, 2);
    let batch = Batch::from_rows(&quick.tasks[1].rows[..4]);
    let magnitudes = learner
        .model()
        .insights()
        .unwrap()
        .output_magnitudes(&batch)
        .unwrap();
    let specs = learner.layout().specs();
    assert_eq!(magnitudes.len(), specs.len());
    for (spec, magnitudes) in specs.iter().zip(&magnitudes) {
        let n_rows = spec.shape[0];
        assert_eq!(magnitudes.len(), n_rows, "{}", spec.name);
        assert!(
            magnitudes.iter().all(|x| x.is_finite() && *x > 0.0),
            "{}",
            spec.name
        );
    }

    // What reads the prompt first, by hand: it reads the normed embeddings, in a decoder-only model
    // with those of the target behind them.
    let (first, norm, table) = match quick.arch {
        Arch::T5 => (
            "encoder.block.0.layer.0.SelfAttention.q",
            "encoder.block.0.layer.0.layer_norm",
            "shared",
        ),
        Arch::Decoder => (
            "model.layers.0.self_attn.q_proj",
            "model.layers.0.input_layernorm",
            "model.embed_tokens",
        ),
    };
    let read: Vec<u32> = (batch.inputs.rows().zip(batch.targets.rows()))
        .flat_map(|(input, target)| match quick.arch {
            Arch::T5 => input.to_vec(),
            Arch::Decoder => [input, &target[..target.len() - 1]].concat(),
        })
        .collect();
    assert!(specs[0].name.contains(&format!("{first}.lora_A")));
    let weights = kif_model::Weights::read(&quick.model).unwrap();
    let width = specs[0].shape[1];
    let table = weights.get(&format!("{table}.weight")).unwrap();
    let gain = weights.get(&format!("{norm}.weight")).unwrap();
    let product = |matrix: &[f32], x: &[f64]| -> Vec<f64> {
        let row = |row: &[f32]| row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum();
        matrix.chunks(x.len()).map(row).collect()
    };
    let (a, b) = (
        &learner.params()[specs[0].range.clone()],
        &learner.params()[specs[1].range.clone()],
    );
    let mut sums = [vec![0.0; RANK], vec![0.0; specs[1].shape[0]]];
    for &id in &read {
        let embedding = &table[id as usize * width..(id as usize + 1) * width];
        let square = dot(embedding, embedding) / width as f64;
        let x: Vec<f64> = (embedding.iter().zip(&gain))
            .map(|(x, gain)| f64::from(*x) / (square + 1e-6).sqrt() * f64::from(*gain))
            .collect();
        let hidden = product(a, &x);
        let output = product(b, &hidden);
        for (sums, outputs) in sums.iter_mut().zip([hidden, output]) {
            for (sum, x) in sums.iter_mut().zip(outputs) {
                *sum += x.abs() / read.len() as f64;
            }
        }
    }
    for (found, expected) in magnitudes.iter().zip(&sums) {
        for (found, expected) in found.iter().zip(expected) {
            assert!(
                (f64::from(*found) - expected).abs() < 1e-4 * expected,
                "{found} {expected}"
            );
        }
    }
}

fn a_gem_never_steps_against_the_memory(quick: &Quick) {
    let (mut learner, mut method) = quick.start(&named("a_gem"), 0.0);
    learn(&mut learner, method.as_mut(), &quick.tasks[0], 4);
    let task = &quick.tasks[1];
    let batches = batches(method.as_ref(), task, 4);
    begin(&mut learner, method.as_mut(), task, batches.len());
    let (mut shadow, _) = quick.start(&named("a_gem"), 0.0);
    let mut memory = Sampler::of_memory(task);
    let mut n_projected = 0;
    for batch in &batches {
        shadow.set_params(learner.params()).unwrap();
        shadow.memory_gradient(&memory.draw(), 1.0).unwrap();
        let reference = shadow.grad().to_vec();
        shadow.gradient(batch).unwrap();
        let raw = dot(shadow.grad(), &reference);
        method.observe(&mut learner, batch).unwrap();
        let kept = dot(learner.grad(), &reference);
        assert!(kept > -1e-6, "{kept}");
        if raw < 0.0 {
            assert!(kept.abs() < 1e-6, "{raw} {kept}");
            n_projected += 1;
        } else {
            assert!(learner.grad() == shadow.grad());
        }
    }
    println!("{n_projected} of {} steps were projected", batches.len());
    assert!(n_projected > 0 && n_projected < batches.len());
}

fn a_hypergradient_by_hand(quick: &Quick) {
    let task = &quick.tasks[1];
    let config = VrMclConfig {
        inner_steps: 1,
        inner_lr: 0.5,
        ..VrMclConfig::default()
    };
    let (mut learner, mut method) = quick.start(&MethodConfig::VrMcl(config), 0.0);
    let batches = batches(method.as_ref(), task, 1);
    let joined = |batch: usize, memory: &mut Sampler| {
        let (own, memory) = (&batches[batch], memory.draw());
        let rows = |own: &kif_data::Ragged, memory: &kif_data::Ragged| {
            kif_data::Ragged::from_rows(own.rows().chain(memory.rows()))
        };
        Batch {
            inputs: rows(&own.inputs, &memory.inputs),
            targets: rows(&own.targets, &memory.targets),
        }
    };
    begin(&mut learner, method.as_mut(), task, batches.len());
    let (mut hand, _) = quick.start(&named("seq_lora"), 0.0);
    let at = |hand: &mut Learner, theta: &[f32], rates: &[f32], own: &Batch, joined: &Batch| {
        hand.set_params(theta).unwrap();
        hand.gradient(own).unwrap();
        let inner = hand.grad().to_vec();
        let fast: Vec<f32> = (0..theta.len())
            .map(|i| theta[i] - rates[i].max(0.0) * inner[i])
            .collect();
        hand.set_params(&fast).unwrap();
        hand.gradient(joined).unwrap();
        (hand.grad().to_vec(), inner)
    };
    let mut memory = Sampler::of_memory(task);
    let theta0 = learner.params().to_vec();
    let mut rates = vec![0.5; theta0.len()];
    let joined0 = joined(0, &mut memory);
    let (first, inner) = at(&mut hand, &theta0, &rates, &batches[0], &joined0);
    method.observe(&mut learner, &batches[0]).unwrap();
    assert!(distance(learner.grad(), &first) < 1e-6);
    for ((rate, g), inner) in rates.iter_mut().zip(&first).zip(&inner) {
        *rate += 0.1 * g * inner;
    }
    let theta1 = learner.params().to_vec();
    let joined1 = joined(1, &mut memory);
    let now = at(&mut hand, &theta1, &rates, &batches[1], &joined1).0;
    let before = at(&mut hand, &theta0, &rates, &batches[1], &joined1).0;
    let mut expected: Vec<f32> = (0..now.len())
        .map(|i| now[i] + 0.9 * (first[i] - before[i]))
        .collect();
    let norm = dot(&expected, &expected).sqrt();
    if norm > 1.0 {
        expected.iter_mut().for_each(|x| *x /= norm as f32);
    }
    method.observe(&mut learner, &batches[1]).unwrap();
    assert!(distance(learner.grad(), &expected) < 1e-5);
}

fn momentum_reduces_the_variance_of_the_hypergradient(quick: &Quick) {
    let task = &quick.tasks[1];
    let start = quick.learned(&named("seq_lora"), 1, 2).params().to_vec();
    let variance = |momentum: f32| {
        let config = VrMclConfig {
            momentum,
            ..VrMclConfig::default()
        };
        let (mut learner, mut method) = quick.start(&MethodConfig::VrMcl(config), 0.05);
        learner.set_params(&start).unwrap();
        let batches = batches(method.as_ref(), task, 3);
        let schedule = kif_methods::Schedule::Constant { rate: 1e-5 };
        learner.begin_task(task.index, &task.name, schedule);
        method.begin_task(&mut learner, task).unwrap();
        let mut seen = Vec::new();
        for batch in &batches {
            method.observe(&mut learner, batch).unwrap();
            seen.push(learner.grad().to_vec());
        }
        let seen = &seen[seen.len() / 2..];
        let mean: Vec<f32> = (0..start.len())
            .map(|i| seen.iter().map(|g| g[i]).sum::<f32>() / seen.len() as f32)
            .collect();
        let off = |g: &Vec<f32>| {
            let off: Vec<f32> = g.iter().zip(&mean).map(|(g, m)| g - m).collect();
            dot(&off, &off)
        };
        seen.iter().map(off).sum::<f64>() / seen.len() as f64
    };
    let (plain, reduced) = (variance(0.0), variance(0.9));
    println!("variance {plain} without momentum, {reduced} with it");
    assert!(reduced < 0.5 * plain, "{plain} {reduced}");
}

fn der_stays_near_what_was_predicted_for_the_memory(quick: &Quick) {
    let memory = Batch::from_rows(quick.tasks[1].memory.iter());
    let diverged = |share: f64| {
        let distillation = Some(Distillation { share, top_k: 64 });
        let config = DerConfig(TwoLoopConfig {
            distillation,
            outer_optimizer: OuterOptimizer::Shared,
            ..TwoLoopConfig::paper()
        });
        let (mut learner, mut method) = quick.start(&MethodConfig::Der(config), 0.0);
        let predictions = |learner: &Learner| {
            let model = learner.model().distributions().unwrap();
            model.target_logits(&memory).unwrap().concat()
        };
        learn(&mut learner, method.as_mut(), &quick.tasks[0], 2);
        let before = predictions(&learner);
        learn(&mut learner, method.as_mut(), &quick.tasks[1], 8);
        let vocab_size = learner.model().vocab_size();
        mean_divergence(&before, &predictions(&learner), vocab_size)
    };
    let (answers, kept) = (diverged(0.0), diverged(1.0));
    println!("divergence from before: {answers} with answers alone, {kept} with predictions");
    assert!(kept < 0.5 * answers, "{kept} of {answers}");
}

/// A run that stops inside the second task and goes on elsewhere, with all that earlier tasks left
/// behind.
fn every_baseline_learns_a_task_of_the_stream(quick: &Quick) {
    let loss = |learner: &Learner, rows: &[Encoded]| crate::common::loss_on(learner, rows);
    // Others are shown to learn in files of their own, or with the numbers of PyTorch.
    let shown_here = |config: &MethodConfig| {
        use MethodConfig::{Halve, Kif, Replay, ReplayMatched, SeqLora, SeqLoraMatched};
        let parts = config.parts(N_TASKS);
        let one_of_many = config.name() == "kif-no-share";
        let is_schedule = matches!(
            config,
            Halve(_) | Kif(_) | Replay(_) | ReplayMatched(_) | SeqLora(_) | SeqLoraMatched(_)
        );
        let is_stream = config.regime() == Regime::Stream;
        is_stream
            && parts.prompts.is_none()
            && parts.router.is_none()
            && (one_of_many || !is_schedule)
    };
    for config in MethodConfig::all().into_iter().filter(shown_here) {
        let name = config.name();
        let (mut learner, mut method) = quick.start(&config, 0.05);
        learn(&mut learner, method.as_mut(), &quick.tasks[0], 2);
        let before = loss(&learner, &quick.tasks[1].rows);
        learn(&mut learner, method.as_mut(), &quick.tasks[1], 6);
        let after = loss(&learner, &quick.tasks[1].rows);
        println!("{name}: {before} to {after}");
        assert!(after < 0.75 * before, "{name}: {before} to {after}");
    }
}

#[test]
fn settings_outside_their_range_are_refused_by_name() {
    let refusal = |config: MethodConfig| config.check().unwrap_err().to_string();
    let ewc = EwcConfig::online();
    let cases = [
        (
            refusal(MethodConfig::Ewc(EwcConfig {
                lambda: -1.0,
                ..ewc
            })),
            "lambda is -1",
        ),
        (
            refusal(MethodConfig::Ewc(EwcConfig {
                fisher: EwcFisher::Online { decay: 1.5 },
                ..ewc
            })),
            "fisher.decay is 1.5",
        ),
        (
            refusal(MethodConfig::Ewc(EwcConfig {
                fisher: EwcFisher::Textbook { rows: 0 },
                ..ewc
            })),
            "fisher.rows is 0",
        ),
        (
            refusal(MethodConfig::Migu(MiguConfig { quantile: 1.1 })),
            "quantile is 1.1",
        ),
        (
            refusal(MethodConfig::OLora(OLoraConfig {
                lambda1: f64::NAN,
                lambda2: 0.0,
            })),
            "lambda1 is NaN",
        ),
        (
            refusal(MethodConfig::VrMcl(VrMclConfig {
                momentum: 1.0,
                ..VrMclConfig::default()
            })),
            "momentum is 1",
        ),
    ];
    for (found, expected) in cases {
        assert!(found.starts_with(expected), "{found}");
    }
}
