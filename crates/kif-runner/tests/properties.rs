//! Invariants of the methods: same seed, same bits; resumed equals uninterrupted.

mod common;

use common::{batches, begin, learner, params_after, stream};
use kif_runner::{MemoryOrder, MethodConfig, Schedule, State, methods};
use proptest::prelude::*;

fn any_method() -> impl Strategy<Value = MethodConfig> {
    prop::sample::select(common::methods_of_one_slot())
}

fn any_order() -> impl Strategy<Value = MemoryOrder> {
    prop_oneof![Just(MemoryOrder::Drawn), Just(MemoryOrder::Cursor)]
}

proptest! {
    #[test]
    fn a_run_that_was_resumed_at_any_step_equals_the_uninterrupted_one(
        config in any_method(),
        order in any_order(),
        task_idx in 0..3usize,
        stop in 0..30usize,
    ) {
        let task = &stream(order)[task_idx];
        let mut learner = learner(0.1);
        let mut method = config.build(learner.layout());
        let batches = batches(method.as_ref(), task, 6);
        begin(&mut learner, method.as_mut(), task, batches.len());
        let mut bytes = Vec::new();
        for (i, batch) in batches.iter().enumerate() {
            if i == stop {
                bytes = methods::save(&learner, method.as_ref()).to_bytes().unwrap();
            }
            method.observe(&mut learner, batch).unwrap();
        }

        let mut resumed = common::learner(0.1);
        let mut fresh = config.build(resumed.layout());
        begin(&mut resumed, fresh.as_mut(), task, batches.len());
        methods::resume(&mut resumed, fresh.as_mut(), &State::from_bytes(&bytes).unwrap()).unwrap();
        for batch in &batches[stop..] {
            fresh.observe(&mut resumed, batch).unwrap();
        }
        let (a, b) = (methods::save(&learner, method.as_ref()), methods::save(&resumed, fresh.as_ref()));
        prop_assert_eq!(a.to_bytes().unwrap(), b.to_bytes().unwrap());
    }

    #[test]
    fn the_same_seed_gives_the_same_parameters(config in any_method(), order in any_order()) {
        let tasks = stream(order);
        prop_assert_eq!(params_after(&config, &tasks, 3), params_after(&config, &tasks, 3));
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
