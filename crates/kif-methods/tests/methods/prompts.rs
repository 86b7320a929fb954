//! What the methods with soft prompts claim, on the embedded bases.

use std::sync::Arc;

use crate::common::quick::{Quick, on_every_base};
use crate::common::{batches, begin, distance, learn, loss_on, mean_divergence};
use kif_data::{Batch, Encoded};
use kif_methods::methods::{self, L2pConfig, Lfpt5Config, ProgPromptConfig};
use kif_methods::{Learner, Method, MethodConfig, State, TaskView};
use kif_model::{ParamGroup, closest_keys, cosine};

// With so many rows of every task.
on_every_base! {
    every_method_with_prompts_learns_its_tasks: 32,
    progressive_prompts_answer_an_old_task_for_ever_as_when_it_was_learned: 16,
    the_pull_of_l2p_brings_keys_and_texts_together_and_nothing_else_moves_keys: 32,
    l2p_leaves_prompts_that_no_text_chose_alone: 8,
    lfpt5_draws_rows_by_seed_and_goes_on_from_them: 32,
    lfpt5_reads_no_row_of_an_earlier_task: 16,
    the_divergence_holds_lfpt5_near_the_predictions_of_the_last_prompt: 32,
}

/// The embedding of the small base is that of no large one: short prompts, and rates that it learns
/// with.
fn prog_prompt() -> MethodConfig {
    MethodConfig::ProgPrompt(ProgPromptConfig { length: 6, lr: 0.1 })
}

fn l2p(pull: f64) -> MethodConfig {
    MethodConfig::L2p(L2pConfig {
        pool_size: 6,
        length: 4,
        pull,
        lr: 0.1,
        ..L2pConfig::default()
    })
}

fn lfpt5() -> MethodConfig {
    MethodConfig::Lfpt5(Lfpt5Config {
        length: 16,
        lr: 0.1,
        share: 0.25,
        lm_weight: 1.0,
        kl_weight: 0.2,
        top_k: 4,
        ..Lfpt5Config::default()
    })
}

fn every_method_with_prompts_learns_its_tasks(quick: &Quick) {
    for config in [prog_prompt(), l2p(0.5), lfpt5()] {
        let (mut learner, mut method) = quick.start(&config, 0.0);
        for task in &quick.tasks[..2] {
            begin(&mut learner, method.as_mut(), task, 1);
            let before = loss_on(&learner, &task.rows);
            learn(&mut learner, method.as_mut(), task, 8);
            method.before_evaluation(&mut learner, task.index).unwrap();
            let after = loss_on(&learner, &task.rows);
            let name = config.name();
            assert!(
                after < 0.7 * before,
                "{name} on task {}: {before} to {after}",
                task.index
            );
        }
    }
}

/// Logits of the first rows of a task, as the run evaluates it.
fn evaluated(learner: &mut Learner, method: &mut dyn Method, task: &TaskView) -> Vec<Vec<f32>> {
    method.before_evaluation(learner, task.index).unwrap();
    let batch = Batch::from_rows(&task.rows[..8]);
    learner
        .model()
        .distributions()
        .unwrap()
        .target_logits(&batch)
        .unwrap()
}

fn progressive_prompts_answer_an_old_task_for_ever_as_when_it_was_learned(quick: &Quick) {
    let (mut learner, mut method) = quick.start(&prog_prompt(), 0.05);
    let places = learner.layout().prompts();
    assert_eq!((places.len(), learner.params().len()), (3, places[2].end));
    let fresh = learner.params().to_vec();
    let (mut answers, mut prompts) = (Vec::new(), Vec::new());
    for (k, task) in quick.tasks.iter().enumerate() {
        // What is not learned yet is answered with all that is.
        if k > 0 {
            let ahead = evaluated(&mut learner, method.as_mut(), task);
            let active: Vec<usize> = (0..k).rev().collect();
            assert_eq!(learner.model().prompted().unwrap().active_prompts(), active);
            learner.model_mut().activate_prompts(&active).unwrap();
            let batch = Batch::from_rows(&task.rows[..8]);
            assert_eq!(
                learner
                    .model()
                    .distributions()
                    .unwrap()
                    .target_logits(&batch)
                    .unwrap(),
                ahead
            );
        }
        learn(&mut learner, method.as_mut(), task, 2);
        answers.push(evaluated(&mut learner, method.as_mut(), task));
        prompts.push(learner.params()[places[k].clone()].to_vec());
        assert_ne!(prompts[k], fresh[places[k].clone()]);
        for (t, place) in places.iter().enumerate().skip(k + 1) {
            assert_eq!(
                learner.params()[place.clone()],
                fresh[place.clone()],
                "prompt {t}"
            );
        }
        for (earlier, answered) in answers.iter().enumerate() {
            let now = evaluated(&mut learner, method.as_mut(), &quick.tasks[earlier]);
            assert!(now == *answered, "task {earlier} after task {k}");
            assert_eq!(learner.params()[places[earlier].clone()], prompts[earlier]);
        }
    }
    // And it is the task that makes the difference.
    learner.model_mut().activate_prompts(&[2, 1, 0]).unwrap();
    let batch = Batch::from_rows(&quick.tasks[0].rows[..8]);
    assert_ne!(
        learner
            .model()
            .distributions()
            .unwrap()
            .target_logits(&batch)
            .unwrap(),
        answers[0]
    );
}

/// Mean cosine of every text and the keys that it chooses.
fn matched(learner: &Learner, rows: &[Encoded], top_k: usize) -> (f64, Vec<Vec<usize>>) {
    let keys = &learner.params()[learner.layout().group(ParamGroup::PromptKeys)[0].clone()];
    let batch = Batch::from_rows(rows);
    let queries = learner
        .model()
        .insights()
        .unwrap()
        .mean_embeddings(&batch.inputs)
        .unwrap();
    let width = queries.len() / rows.len();
    let all: Vec<usize> = (0..keys.len() / width).collect();
    let (mut sum, mut chosen) = (0.0, Vec::new());
    for query in queries.chunks_exact(width) {
        let closest = closest_keys(keys, query, &all, top_k);
        let of_key = |i: &usize| cosine(&keys[i * width..][..width], query);
        sum += closest.iter().map(of_key).sum::<f64>();
        chosen.push(closest);
    }
    (sum / (rows.len() * top_k) as f64, chosen)
}

fn the_pull_of_l2p_brings_keys_and_texts_together_and_nothing_else_moves_keys(quick: &Quick) {
    let task = &quick.tasks[0];
    let keys = |learner: &Learner| {
        let at = learner.layout().group(ParamGroup::PromptKeys)[0].clone();
        learner.params()[at].to_vec()
    };
    let (mut learner, mut method) = quick.start(&l2p(0.5), 0.0);
    let (before, start) = (matched(&learner, &task.rows, 3).0, keys(&learner));
    learn(&mut learner, method.as_mut(), task, 4);
    let (after, chosen) = matched(&learner, &task.rows, 3);
    assert!(after > before + 0.1, "{before} to {after}");
    assert!(chosen.iter().all(|chosen| chosen.len() == 3));
    assert_eq!(
        matched(&learner, &task.rows, 3).1,
        chosen,
        "the same for the same text"
    );

    let (mut unpulled, mut method) = quick.start(&l2p(0.0), 0.0);
    learn(&mut unpulled, method.as_mut(), task, 4);
    assert_eq!(keys(&unpulled), start);
    assert_ne!(unpulled.params(), quick.start(&l2p(0.0), 0.0).0.params());
}

fn l2p_leaves_prompts_that_no_text_chose_alone(quick: &Quick) {
    let task = &quick.tasks[0];
    let (mut learner, mut method) = quick.start(&l2p(0.0), 0.0);
    let fresh = learner.params().to_vec();
    let (_, chosen) = matched(&learner, &task.rows, 3);
    learn(&mut learner, method.as_mut(), task, 2);
    let chosen = chosen.concat();
    for (prompt, place) in learner.layout().prompts().into_iter().enumerate() {
        let moved = learner.params()[place.clone()] != fresh[place];
        assert_eq!(
            moved,
            chosen.contains(&prompt),
            "prompt {prompt} of {chosen:?}"
        );
    }
    assert!((0..6).any(|prompt| !chosen.contains(&prompt)), "{chosen:?}");
}

/// The learner and the method after the first task, and the drawn rows as they are saved.
fn drawn(quick: &Quick, seed: u64) -> (Learner, Box<dyn Method>, Vec<f32>) {
    let task = TaskView {
        seed,
        ..quick.tasks[0].clone()
    };
    let (mut learner, mut method) = quick.start(&lfpt5(), 0.0);
    learn(&mut learner, method.as_mut(), &task, 12);
    let state = methods::save(&learner, method.as_ref());
    let len = state.counter("method.drawn_len").unwrap() as usize;
    let drawn = state.tensor("method.drawn", len).unwrap().to_vec();
    (learner, method, drawn)
}

fn lfpt5_draws_rows_by_seed_and_goes_on_from_them(quick: &Quick) {
    let (mut learner, mut method, first) = drawn(quick, 3);
    assert_eq!(drawn(quick, 3).2, first, "the same seed");
    assert_ne!(drawn(quick, 4).2, first, "another seed");
    assert!(first.len() > 8, "rows were drawn: {first:?}");

    let task = &quick.tasks[1];
    let batches = batches(method.as_ref(), task, 2);
    begin(&mut learner, method.as_mut(), task, batches.len());
    let places = learner.layout().prompts();
    let last = learner.params()[places[0].clone()].to_vec();
    for batch in &batches[..3] {
        method.observe(&mut learner, batch).unwrap();
    }
    assert_eq!(
        learner.params()[places[1].clone()],
        last,
        "the last prompt is frozen"
    );
    assert!(distance(&learner.params()[places[0].clone()], &last) > 1e-3);
    let saved = methods::save(&learner, method.as_ref()).to_bytes().unwrap();
    let (mut resumed, mut fresh) = quick.start(&lfpt5(), 0.0);
    begin(&mut resumed, fresh.as_mut(), task, batches.len());
    let state = State::from_bytes(&saved).unwrap();
    methods::resume(&mut resumed, fresh.as_mut(), &state).unwrap();
    for batch in &batches[3..] {
        let loss = method.observe(&mut learner, batch).unwrap();
        assert_eq!(fresh.observe(&mut resumed, batch).unwrap(), loss);
    }
    method.end_task(&mut learner, task).unwrap();
    fresh.end_task(&mut resumed, task).unwrap();
    let [one, two] = [(&learner, &method), (&resumed, &fresh)]
        .map(|(learner, method)| methods::save(learner, method.as_ref()).to_bytes().unwrap());
    assert!(one == two);
}

/// Rows that no model can read stand in the memory: they would be an error.
fn lfpt5_reads_no_row_of_an_earlier_task(quick: &Quick) {
    let nowhere = Encoded {
        input_ids: vec![u32::MAX],
        target_ids: vec![u32::MAX],
        cut: false,
    };
    let run = |memory: Option<Encoded>| {
        let (mut learner, mut method) = quick.start(&lfpt5(), 0.0);
        for task in &quick.tasks[..2] {
            let mut task = task.clone();
            if let Some(row) = &memory {
                task.memory = Arc::new(vec![row.clone()]);
                task.all_rows = task.memory.clone();
            }
            learn(&mut learner, method.as_mut(), &task, 1);
        }
        learner.params().to_vec()
    };
    assert_eq!(run(Some(nowhere)), run(None));
}

/// The drawn rows that a state has.
fn rows_of(drawn: &[f32]) -> Vec<Encoded> {
    let (mut rows, mut at) = (Vec::new(), 0);
    while at < drawn.len() {
        let (n_in, n_out) = (drawn[at] as usize, drawn[at + 1] as usize);
        let ids: Vec<u32> = (drawn[at + 2..at + 2 + n_in + n_out].iter())
            .map(|&id| id as u32)
            .collect();
        rows.push(Encoded {
            input_ids: ids[..n_in].to_vec(),
            target_ids: ids[n_in..].to_vec(),
            cut: false,
        });
        at += 2 + n_in + n_out;
    }
    rows
}

/// Mean KL divergence of the predictions of prompt 0 from those of prompt 1, in nats per target
/// token.
fn divergence(learner: &mut Learner, rows: &[Encoded]) -> f64 {
    let batch = Batch::from_rows(rows);
    let vocab_size = learner.model().vocab_size();
    let [now, last] = [0, 1].map(|prompt| {
        learner.model_mut().activate_prompts(&[prompt]).unwrap();
        learner
            .model()
            .distributions()
            .unwrap()
            .target_logits(&batch)
            .unwrap()
            .concat()
    });
    mean_divergence(&last, &now, vocab_size)
}

fn the_divergence_holds_lfpt5_near_the_predictions_of_the_last_prompt(quick: &Quick) {
    let (_, _, flat) = drawn(quick, 3);
    let rows = rows_of(&flat);
    let diverged = |kl_weight: f64| {
        let MethodConfig::Lfpt5(config) = lfpt5() else {
            unreachable!()
        };
        let config = MethodConfig::Lfpt5(Lfpt5Config {
            kl_weight,
            ..config
        });
        let (mut learner, mut method) = quick.start(&config, 0.0);
        learn(&mut learner, method.as_mut(), &quick.tasks[0], 12);
        learn(&mut learner, method.as_mut(), &quick.tasks[1], 4);
        divergence(&mut learner, &rows)
    };
    let (free, held) = (diverged(0.0), diverged(0.9));
    assert!(held < 0.5 * free, "{held} is not far below {free}");
}
