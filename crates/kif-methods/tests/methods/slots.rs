//! What methods with an adapter for each task claim, on both bases of `fixtures/quick`.

use std::ops::Range;

use crate::common::quick::{N_TASKS, Quick, RANK, on_every_base};
use crate::common::{distance, dot, learn, named};
use kif_data::Batch;
use kif_methods::methods::{EllaConfig, OLoraConfig};
use kif_methods::{Learner, MethodConfig, TaskView};
use kif_model::{Adapter, LORA_A, LORA_B, ModelOptions, Trainable};

// With so many rows of every task.
on_every_base! {
    adapters_side_by_side_train_one_slot_after_the_other: 16,
    the_first_task_of_adapters_side_by_side_is_plain_fine_tuning: 16,
    adapters_side_by_side_are_one_valid_adapter: 16,
    a_stream_longer_than_its_slots_is_refused: 8,
    subspaces_of_o_lora_are_nearly_orthogonal: 64,
    updates_of_ella_keep_out_of_what_earlier_ones_fill: 64,
}

fn gather(values: &[f32], ranges: &[Range<usize>]) -> Vec<f32> {
    ranges
        .iter()
        .flat_map(|range| values[range.clone()].to_vec())
        .collect()
}

fn adapters_side_by_side_train_one_slot_after_the_other(quick: &Quick) {
    for config in [
        named("inc_lora"),
        MethodConfig::Ella(EllaConfig::default()),
        MethodConfig::OLora(OLoraConfig {
            lambda2: 0.1,
            ..OLoraConfig::default()
        }),
    ] {
        let (mut learner, mut method) = quick.start(&config, 0.05);
        let layout = learner.layout().clone();
        for task in &quick.tasks {
            let before = learner.params().to_vec();
            learn(&mut learner, method.as_mut(), task, 1);
            for slot in 0..N_TASKS {
                let ranges = layout.slot(slot);
                let (before, after) = (gather(&before, &ranges), gather(learner.params(), &ranges));
                assert_eq!(before == after, slot != task.index, "slot {slot}");
            }
            for spec in layout.specs().iter().filter(|s| s.name.ends_with(LORA_B)) {
                let behind = (task.index + 1) * RANK;
                for row in learner.params()[spec.range.clone()].chunks(N_TASKS * RANK) {
                    assert!(row[behind..].iter().all(|x| *x == 0.0), "{}", spec.name);
                }
            }
        }
    }
}

fn the_first_task_of_adapters_side_by_side_is_plain_fine_tuning(quick: &Quick) {
    let plain = quick.learned(&named("seq_lora"), 1, 1);
    let slots = quick.learned(&named("inc_lora"), 1, 1);
    let own = gather(slots.params(), &slots.layout().slot(0));
    // The order of B's entries is the same: row by row.
    assert!(distance(&own, plain.params()) < 1e-5);
}

fn adapters_side_by_side_are_one_valid_adapter(quick: &Quick) {
    let config = MethodConfig::OLora(OLoraConfig::default());
    let learner = quick.learned(&config, 2, 1);
    let lora = quick.lora(&config);
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("adapter");
    Adapter::write(&dir, &lora, learner.layout(), learner.params(), "embedded").unwrap();
    let read = Adapter::read(&dir).unwrap();
    assert_eq!((read.config.rank, read.config.alpha), (12, 48.0));
    let options = ModelOptions::cpu(Trainable::Adapter(read.config.clone()));
    let mut model = kif_model::load(&quick.model, &options).unwrap();
    let params = read.into_params(model.layout()).unwrap();
    model.set_params(&params).unwrap();
    let batch = Batch::from_rows(&quick.tasks[1].rows[..8]);
    assert_eq!(
        model.nll_per_row(&batch).unwrap(),
        learner.model().nll_per_row(&batch).unwrap()
    );
}

fn a_stream_longer_than_its_slots_is_refused(quick: &Quick) {
    let (mut learner, mut method) = quick.start(&named("inc_lora"), 0.0);
    let beyond = TaskView {
        index: N_TASKS,
        ..quick.tasks[0].clone()
    };
    let error = method.begin_task(&mut learner, &beyond).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("is number 4 of its stream, and the adapter has a slot for each of 3"),
        "{error}"
    );
}

/// Mean |cosine| between rows of A of the last task's slot and of earlier slots.
fn overlap(learner: &Learner) -> f64 {
    let (mut sum, mut n) = (0.0, 0);
    for spec in learner.layout().specs() {
        if !spec.name.ends_with(LORA_A) {
            continue;
        }
        let a = &learner.params()[spec.range.clone()];
        let row = |i: usize| &a[i * spec.shape[1]..(i + 1) * spec.shape[1]];
        let first_own = (N_TASKS - 1) * RANK;
        for j in first_own..N_TASKS * RANK {
            for i in 0..first_own {
                let length = (dot(row(i), row(i)) * dot(row(j), row(j))).sqrt();
                sum += (dot(row(i), row(j)) / length).abs();
                n += 1;
            }
        }
    }
    sum / f64::from(n)
}

fn subspaces_of_o_lora_are_nearly_orthogonal(quick: &Quick) {
    let free = overlap(&quick.learned(&named("inc_lora"), N_TASKS, 4));
    let config = MethodConfig::OLora(OLoraConfig::default());
    let held = overlap(&quick.learned(&config, N_TASKS, 4));
    println!("mean |cos| {free} without the penalty, {held} with it");
    assert!(held < 0.03 && held < free / 3.0, "{free} {held}");
}

/// Share of the last task's update that lies where earlier ones are large: the norm of the
/// entrywise product over the product of the norms.
fn collision(learner: &Learner) -> f64 {
    let (mut products, mut own_square, mut past_square) = (0.0, 0.0, 0.0);
    for pair in learner.layout().specs().chunks(2) {
        let (a, b) = (&pair[0], &pair[1]);
        let entry = |o: usize, i: usize, ranks: Range<usize>| -> f64 {
            let b_row = b.range.start + o * b.shape[1];
            let at = |r: usize| (b_row + r, a.range.start + r * a.shape[1] + i);
            let terms = ranks
                .map(at)
                .map(|(b, a)| (learner.params()[b], learner.params()[a]));
            terms.map(|(b, a)| f64::from(b) * f64::from(a)).sum()
        };
        let first_own = (N_TASKS - 1) * RANK;
        for o in 0..b.shape[0] {
            for i in 0..a.shape[1] {
                let (past, own) = (
                    entry(o, i, 0..first_own),
                    entry(o, i, first_own..N_TASKS * RANK),
                );
                products += (past * own).powi(2);
                own_square += own * own;
                past_square += past * past;
            }
        }
    }
    (products / own_square / past_square).sqrt()
}

fn updates_of_ella_keep_out_of_what_earlier_ones_fill(quick: &Quick) {
    let of = |lambda: f64| {
        let config = MethodConfig::Ella(EllaConfig { lambda });
        collision(&quick.learned(&config, N_TASKS, 4))
    };
    let plain = collision(&quick.learned(&named("inc_lora"), N_TASKS, 4));
    let (free, held) = (of(0.0), of(EllaConfig::default().lambda));
    println!("collision {free} without the penalty, {held} with it");
    assert_eq!(free, plain, "without the penalty it is IncLoRA");
    assert!(held < 0.6 * free, "{held} of {free}");
}
