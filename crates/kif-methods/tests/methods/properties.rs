//! Invariants of every method: same seed, same bits; resumed equals uninterrupted; no row is read
//! that the method is not given; the base stays as it is.

use std::collections::BTreeSet;

use crate::common::quick::{Quick, on_every_base};
use crate::common::{
    N_TASKS, batches, begin, learn, learner_for, params_after, stream, watched_learner,
};
use kif_data::{Batch, Encoded};
use kif_methods::{
    Learner, MemoryOrder, Method, MethodConfig, Regime, Schedule, State, TaskView, methods,
};
use proptest::prelude::*;

// With so many rows of every task.
on_every_base! {
    the_base_is_the_same_bits_after_learning: 16,
}

fn any_method() -> impl Strategy<Value = MethodConfig> {
    prop::sample::select(MethodConfig::all())
}

fn any_order() -> impl Strategy<Value = MemoryOrder> {
    prop_oneof![Just(MemoryOrder::Drawn), Just(MemoryOrder::Cursor)]
}

/// The tasks that a method learns one after the other.
fn tasks_of(config: &MethodConfig, tasks: &[TaskView]) -> Vec<TaskView> {
    match config.regime() {
        Regime::Joint => tasks[..1].to_vec(),
        Regime::Stream | Regime::PerTask => tasks.to_vec(),
    }
}

/// The state after the last batch of the last task, learned from `from` on in a task that has
/// begun.
fn learn_on(
    learner: &mut Learner,
    method: &mut dyn Method,
    tasks: &[TaskView],
    from: usize,
) -> Vec<u8> {
    let mut state = Vec::new();
    for (i, task) in tasks.iter().enumerate() {
        let batches = batches(method, task, 4);
        if i > 0 {
            begin(learner, method, task, batches.len());
        }
        for batch in &batches[if i == 0 { from } else { 0 }..] {
            method.observe(learner, batch).unwrap();
        }
        state = methods::save(learner, method).to_bytes().unwrap();
        method.end_task(learner, task).unwrap();
    }
    state.extend(methods::save(learner, method).to_bytes().unwrap());
    state.extend(method.kept_bytes().to_le_bytes());
    state
}

proptest! {
    /// What is carried from task to task is part of the state, too: a run goes on with a fresh
    /// method.
    #[test]
    fn a_run_that_was_resumed_in_any_step_of_any_task_equals_the_uninterrupted_one(
        config in any_method(),
        order in any_order(),
        stop_task in 0..N_TASKS,
        stop in any::<prop::sample::Index>(),
    ) {
        let mut learner = learner_for(&config, 0.1);
        let mut method = config.build(learner.layout());
        let tasks = tasks_of(&config, &stream(order));
        let stop_task = stop_task.min(tasks.len() - 1);
        for task in &tasks[..stop_task] {
            learn(&mut learner, method.as_mut(), task, 4);
        }
        let task = &tasks[stop_task];
        let batches = batches(method.as_ref(), task, 4);
        let stop = stop.index(batches.len() + 1);
        begin(&mut learner, method.as_mut(), task, batches.len());
        for batch in &batches[..stop] {
            method.observe(&mut learner, batch).unwrap();
        }
        let bytes = methods::save(&learner, method.as_ref()).to_bytes().unwrap();
        let whole = learn_on(&mut learner, method.as_mut(), &tasks[stop_task..], stop);

        let mut resumed = learner_for(&config, 0.1);
        let mut fresh = config.build(resumed.layout());
        begin(&mut resumed, fresh.as_mut(), task, batches.len());
        methods::resume(&mut resumed, fresh.as_mut(), &State::from_bytes(&bytes).unwrap()).unwrap();
        prop_assert!(
            learn_on(&mut resumed, fresh.as_mut(), &tasks[stop_task..], stop) == whole,
            "{} differs", config.name()
        );
    }

    #[test]
    fn rates_stay_between_zero_and_the_peak(
        peak in 0.0..1.0f64,
        warmup_steps in 0..100u64,
        total_steps in 0..100u64,
        k in 0..200u64,
    ) {
        let rate = Schedule::Linear { peak, warmup_steps, total_steps }.rate(k);
        prop_assert!((0.0..=peak).contains(&rate), "{}", rate);
    }
}

#[test]
fn the_same_seed_gives_the_same_parameters_and_another_one_others() {
    for order in [MemoryOrder::Drawn, MemoryOrder::Cursor] {
        let tasks = stream(order);
        let mut reseeded = tasks.clone();
        reseeded.iter_mut().for_each(|task| task.seed += 1);
        for config in MethodConfig::all() {
            let params = params_after(&config, &tasks, 3);
            assert!(
                params_after(&config, &tasks, 3) == params,
                "{}",
                config.name()
            );
            assert!(
                params_after(&config, &reseeded, 3) != params,
                "{}",
                config.name()
            );
        }
    }
}

fn inputs_of(rows: &[Encoded]) -> BTreeSet<u32> {
    rows.iter().map(|row| row.input_ids[0]).collect()
}

/// Of earlier tasks only what the memory holds, and of later tasks nothing: although every view has
/// all rows.
#[test]
fn no_row_is_read_before_its_time_and_of_earlier_tasks_only_the_memory() {
    for config in MethodConfig::all() {
        let name = config.name();
        let (mut learner, seen) = watched_learner(config.parts(N_TASKS), 0.0);
        let mut method = config.build(learner.layout());
        let regime = config.regime();
        for task in tasks_of(&config, &stream(MemoryOrder::Drawn)) {
            seen.lock().unwrap().clear();
            // Long enough for a day of `forever`.
            learn(&mut learner, method.as_mut(), &task, 12);
            let seen = seen.lock().unwrap();
            let (own, memory) = (inputs_of(&task.rows), inputs_of(&task.memory));
            match regime {
                Regime::Joint => assert_eq!(*seen, inputs_of(&task.all_rows), "{name}"),
                Regime::PerTask => assert_eq!(*seen, own, "{name}"),
                Regime::Stream => {
                    assert!(own.is_subset(&seen), "{name}");
                    let given = own.union(&memory).copied().collect();
                    assert!(seen.is_subset(&given), "{name} in task {}", task.index);
                    assert!(seen.difference(&own).count() <= memory.len(), "{name}");
                    let reads = !seen.is_disjoint(&memory);
                    // What LFPT5 draws may begin as a row of the memory does; `prompts.rs`
                    // shows that it reads none.
                    if !matches!(config, MethodConfig::Lfpt5(_)) {
                        assert_eq!(reads, task.index > 0 && config.keeps_memory(), "{name}");
                    }
                }
            }
        }
    }
}

fn the_base_is_the_same_bits_after_learning(quick: &Quick) {
    for config in MethodConfig::all() {
        let (mut learner, mut method) = quick.start(&config, 0.05);
        let fresh = learner.params().to_vec();
        let batch = Batch::from_rows(&quick.tasks[2].rows[..4]);
        let of_base = learner.model().nll_per_row(&batch).unwrap();
        for task in tasks_of(&config, &quick.tasks[..2]) {
            learn(&mut learner, method.as_mut(), &task, 1);
        }
        assert!(learner.params() != fresh, "{} learns", config.name());
        learner.set_params(&fresh).unwrap();
        if learner.model().prompted().is_some() {
            learner.model_mut().activate_prompts(&[]).unwrap();
        }
        let after = learner.model().nll_per_row(&batch).unwrap();
        assert_eq!(after, of_base, "{}", config.name());
    }
}
