//! Every method learns the toy stream, each in its own way.

use crate::common::{batches, begin, learn, learner, loss_on, named, params_after, stream};
use kif_methods::methods::{EwcConfig, SeqLoraMatchedConfig, TaslConfig, VrMclConfig};
use kif_methods::{MemoryOrder, MethodConfig, Regime};

/// The settings with which a method can learn on the toy.
fn fit(config: MethodConfig) -> MethodConfig {
    // The toy's Fisher information is thousands of times that of a language model.
    match config {
        MethodConfig::Ewc(config) => MethodConfig::Ewc(EwcConfig {
            lambda: 0.01,
            ..config
        }),
        // And its 8 parameters share a gradient of norm 1: rates would grow until one inner step
        // solves a task.
        MethodConfig::VrMcl(config) => MethodConfig::VrMcl(VrMclConfig {
            rate_lr: 0.0,
            ..config
        }),
        // And it has two matrices, of which the same one matters most to every task.
        MethodConfig::Tasl(config) => MethodConfig::Tasl(TaslConfig {
            past_share: 0.0,
            ..config
        }),
        other => other,
    }
}

#[test]
fn every_method_learns_the_toy_stream() {
    // Both loops find the same 2 of the toy's 8 parameters important, and without the shared region
    // these stay. And its A and B are no product, so an orthogonal start is a new beginning. Both
    // learn in `baselines.rs`.
    let cannot = |config: &MethodConfig| ["kif-no-share", "slao"].contains(&config.name());
    let methods = crate::common::methods_of_one_slot().into_iter();
    for config in methods.filter(|config| !cannot(config)).map(fit) {
        let mut learner = learner(0.05);
        let mut method = config.build(learner.layout());
        let tasks = stream(MemoryOrder::Drawn);
        let (tasks, rows) = match config.regime() {
            Regime::Joint => (&tasks[..1], &tasks[0].all_rows),
            Regime::Stream | Regime::PerTask => (&tasks[..], &tasks[2].rows),
        };
        let before = loss_on(&learner, rows);
        for task in tasks {
            learn(&mut learner, method.as_mut(), task, 12);
        }
        let after = loss_on(&learner, rows);
        assert!(
            after < 0.75 * before,
            "{}: {before} to {after}",
            config.name()
        );
    }
}

#[test]
fn methods_with_a_memory_forget_less_than_plain_fine_tuning() {
    let forgotten = |config: &MethodConfig| {
        let mut learner = learner(0.0);
        let mut method = config.build(learner.layout());
        let tasks = stream(MemoryOrder::Drawn);
        learn(&mut learner, method.as_mut(), &tasks[0], 20);
        let before = loss_on(&learner, &tasks[0].rows);
        learn(&mut learner, method.as_mut(), &tasks[1], 20);
        loss_on(&learner, &tasks[0].rows) - before
    };
    let plain = forgotten(&named("seq_lora"));
    let methods = crate::common::methods_of_one_slot().into_iter();
    for config in methods.filter(|config| config.keeps_memory()).map(fit) {
        let (name, now) = (config.name(), forgotten(&config));
        // `forever` has few days in so few steps.
        assert!(now < 0.98 * plain, "{name} forgets {now} of {plain}");
    }
}

#[test]
fn replay_adds_the_memory_and_joint_takes_everything() {
    let tasks = stream(MemoryOrder::Drawn);
    let n_rows = |name: &str| {
        let config = MethodConfig::by_name(name).unwrap();
        config
            .build(learner(0.0).layout())
            .training_rows(&tasks[2])
            .len()
    };
    assert_eq!(n_rows("seq_lora"), 13);
    assert_eq!(n_rows("replay"), 13 + 2 * 4);
    assert_eq!(n_rows("joint"), 3 * 13);
    assert_eq!(n_rows("kif"), 13);
}

#[test]
fn per_task_starts_every_task_from_the_initial_parameters() {
    let tasks = stream(MemoryOrder::Drawn);
    let alone = params_after(&named("per_task"), &tasks[2..], 3);
    assert_eq!(params_after(&named("per_task"), &tasks, 3), alone);
}

#[test]
fn matched_methods_take_four_steps_more_after_every_eighth() {
    let tasks = stream(MemoryOrder::Drawn);
    for (name, memory_rows) in [
        ("seq_lora_matched", 0),
        ("replay_matched", 12),
        ("kif", 12),
        ("halve", 12),
    ] {
        let mut learner = learner(0.0);
        let mut method = MethodConfig::by_name(name).unwrap().build(learner.layout());
        let batches = batches(method.as_ref(), &tasks[1], 4);
        begin(&mut learner, method.as_mut(), &tasks[1], batches.len());
        for (i, batch) in batches[..20].iter().enumerate() {
            method.observe(&mut learner, batch).unwrap();
            let n_rounds = (i as u64 + 1) / 8;
            assert_eq!(learner.steps(), i as u64 + 1, "{name}");
            assert_eq!(
                learner.counters().updates,
                i as u64 + 1 + 4 * n_rounds,
                "{name}"
            );
            assert_eq!(
                learner.counters().memory_rows,
                memory_rows * n_rounds,
                "{name}"
            );
        }
    }
}

#[test]
fn passes_that_only_go_forward_are_counted_apart() {
    let tasks = stream(MemoryOrder::Drawn);
    for config in crate::common::methods_of_one_slot() {
        let name = config.name();
        let mut learner = learner(0.0);
        let mut method = config.build(learner.layout());
        learn(&mut learner, method.as_mut(), &tasks[0], 1);
        let first = learner.counters();
        assert_eq!(first.forward_only_tokens, 0, "{name}");
        assert!(first.tokens > 0 && first.tokens_forward() == first.tokens);
        if config.regime() != Regime::Stream {
            continue;
        }
        learn(&mut learner, method.as_mut(), &tasks[1], 1);
        let both = learner.counters();
        let forward = both.forward_only_tokens;
        match name {
            // Every batch is looked at once.
            "migu" => assert_eq!(forward, both.tokens - first.tokens),
            // The 4 rows of the memory, when they are new: 4 inputs and 6 targets.
            "der" => assert_eq!(forward, 10),
            // A batch of the memory after each of 5 steps: 3 rows of 2 or 3 tokens.
            "aim_merging" => assert!((30..=45).contains(&forward), "{forward}"),
            _ => assert_eq!(forward, 0, "{name}"),
        }
        assert_eq!(both.tokens_forward(), both.tokens + forward);
    }
}

#[test]
fn extra_steps_on_the_task_learn_it_faster() {
    let tasks = stream(MemoryOrder::Drawn);
    let loss = |config: MethodConfig| {
        let mut learner = learner(0.0);
        let mut method = config.build(learner.layout());
        learn(&mut learner, method.as_mut(), &tasks[1], 2);
        loss_on(&learner, &tasks[1].rows)
    };
    let config = SeqLoraMatchedConfig {
        inner_steps: 2,
        outer_steps: 1,
    };
    assert!(loss(MethodConfig::SeqLoraMatched(config)) < loss(named("seq_lora")));
}
