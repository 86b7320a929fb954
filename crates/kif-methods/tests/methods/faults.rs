//! A loss or gradient that is not finite stops the run before the update.

use std::sync::Arc;

use crate::common::{EXPLODE, P, POISON, batches, begin, learner, named, row, stream};
use kif_data::Batch;
use kif_methods::{MemoryOrder, MethodConfig, NonFinite, Quantity, State, methods};

fn fault(error: &anyhow::Error) -> &NonFinite {
    error.downcast_ref().expect("a typed error")
}

#[test]
fn a_loss_that_is_not_finite_stops_before_the_update() {
    let mut learner = learner(0.0);
    let task = &stream(MemoryOrder::Drawn)[0];
    let mut method = named("seq_lora").build(learner.layout());
    begin(&mut learner, method.as_mut(), task, 10);
    method
        .observe(&mut learner, &Batch::from_rows(&task.rows[..3]))
        .unwrap();
    let before = methods::save(&learner, method.as_ref());
    let error = method
        .observe(&mut learner, &Batch::from_rows(&[row(POISON, &[1])]))
        .unwrap_err();
    let fault = fault(&error);
    assert_eq!(
        (fault.task.as_str(), fault.step, fault.quantity),
        ("task 0", 1, Quantity::Loss)
    );
    assert_eq!(fault.parameter, None);
    assert_eq!(
        learner.params(),
        before.tensor("learner.params", P).unwrap()
    );
    assert_eq!(learner.counters().updates, 1);
}

#[test]
fn a_gradient_that_is_not_finite_names_its_parameter() {
    let mut learner = learner(0.0);
    learner.begin_task(2, "third", kif_methods::Schedule::Constant { rate: 0.1 });
    let before = learner.params().to_vec();
    let error = learner
        .step(&Batch::from_rows(&[row(EXPLODE, &[1])]))
        .unwrap_err();
    let fault = fault(&error);
    assert_eq!((fault.task.as_str(), fault.step), ("third", 0));
    assert_eq!(fault.quantity, Quantity::Gradient);
    assert_eq!(fault.parameter.as_deref(), Some("toy.lora_B.weight"));
    assert!(
        error
            .to_string()
            .contains("gradient is inf at step 0 of task third"),
        "{error}"
    );
    assert_eq!(learner.params(), before);
}

#[test]
fn memory_steps_are_watched_too() {
    for name in ["kif-paper", "kif-released", "replay_matched", "halve"] {
        let mut learner = learner(0.0);
        let mut task = stream(MemoryOrder::Drawn)[1].clone();
        task.memory = Arc::new(vec![row(EXPLODE, &[0])]);
        let mut method = MethodConfig::by_name(name).unwrap().build(learner.layout());
        let batches = batches(method.as_ref(), &task, 2);
        begin(&mut learner, method.as_mut(), &task, batches.len());
        for batch in &batches[..7] {
            method.observe(&mut learner, batch).unwrap();
        }
        let error = method.observe(&mut learner, &batches[7]).unwrap_err();
        assert_eq!(fault(&error).step, 8, "{name}");
        assert!(learner.params().iter().all(|p| p.is_finite()), "{name}");
        assert_eq!(learner.counters().updates, 8, "{name}");
    }
}

#[test]
fn a_state_that_does_not_fit_is_refused_by_name() {
    let task = &stream(MemoryOrder::Drawn)[1];
    let begun = |name: &str| {
        let mut learner = learner(0.0);
        let mut method = MethodConfig::by_name(name).unwrap().build(learner.layout());
        begin(&mut learner, method.as_mut(), task, 10);
        (learner, method)
    };
    let refusal = |name: &str, state: &State| {
        let (mut learner, mut method) = begun(name);
        methods::resume(&mut learner, method.as_mut(), state)
            .unwrap_err()
            .to_string()
    };
    let of = |name: &str| {
        let (learner, method) = begun(name);
        methods::save(&learner, method.as_ref())
    };
    let missing = refusal("kif-released", &of("kif-paper"));
    assert_eq!(missing, "method.inner_uncertainty is missing");
    let unknown = refusal("seq_lora", &of("replay_matched"));
    assert!(
        unknown.ends_with("belongs to no part of this run"),
        "{unknown}"
    );
    let mut short = of("seq_lora");
    short.put("learner.m", &[0.0]);
    assert_eq!(
        refusal("seq_lora", &short),
        "learner.m has 1 values, expected 8"
    );
}
