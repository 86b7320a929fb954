//! What the methods that merge adapters claim, on the bases that the program brings along: TaSL,
//! TasLoRA, AIMMerging, FOREVER.

use crate::common::quick::{Quick, RANK, on_every_base};
use crate::common::{batches, begin, learn, loss_on, named};
use kif_importance::quantile;
use kif_methods::methods::{ForeverConfig, TasLoraConfig, save};
use kif_methods::{Learner, Method, MethodConfig};
use kif_model::{LORA_A, ParamSpec};

// With so many rows of every task.
on_every_base! {
    tasl_takes_every_matrix_from_where_it_matters: 64,
    tas_lora_weighs_a_row_of_a_and_its_column_of_b_alike_by_importance: 64,
    merging_and_replay_forget_less_than_plain_fine_tuning: 64,
    the_penalty_of_tas_lora_keeps_ranks_apart: 32,
    aim_merging_merges_both_loops_at_intervals_that_follow_the_training: 64,
    forever_replays_the_whole_memory_at_growing_distances_and_stays_near_its_anchor: 64,
}

/// The parameters before the second task, at its end, and after what the method makes of them.
struct Merge {
    learner: Learner,
    start: Vec<f32>,
    end: Vec<f32>,
    /// Sensitivity times uncertainty of every parameter, at the ends of the first task and of the
    /// second.
    scores: [Vec<f32>; 2],
}

fn scores(learner: &Learner, method: &dyn Method) -> Vec<f32> {
    let state = save(learner, method);
    let of = |name: &str| state.tensor(name, learner.params().len()).unwrap().to_vec();
    let pairs = of("method.sensitivity")
        .into_iter()
        .zip(of("method.uncertainty"));
    pairs.map(|(s, u)| s * u).collect()
}

fn merge(quick: &Quick, name: &str) -> Merge {
    let config = MethodConfig::by_name(name).unwrap();
    let (mut learner, mut method) = quick.start(&config, 0.0);
    learn(&mut learner, method.as_mut(), &quick.tasks[0], 2);
    let first = scores(&learner, method.as_ref());
    let start = learner.params().to_vec();
    let batches = batches(method.as_ref(), &quick.tasks[1], 2);
    begin(
        &mut learner,
        method.as_mut(),
        &quick.tasks[1],
        batches.len(),
    );
    for batch in &batches {
        method.observe(&mut learner, batch).unwrap();
    }
    let (second, end) = (scores(&learner, method.as_ref()), learner.params().to_vec());
    method.end_task(&mut learner, &quick.tasks[1]).unwrap();
    Merge {
        learner,
        start,
        end,
        scores: [first, second],
    }
}

fn mean(values: &[f32]) -> f64 {
    values.iter().map(|x| f64::from(*x)).sum::<f64>() / values.len() as f64
}

fn tasl_takes_every_matrix_from_where_it_matters(quick: &Quick) {
    let merge = merge(quick, "tasl");
    let specs = merge.learner.layout().specs();
    let of = |scores: &[f32]| -> Vec<f32> {
        specs
            .iter()
            .map(|s| mean(&scores[s.range.clone()]) as f32)
            .collect()
    };
    let [past, present] = merge.scores.each_ref().map(|scores| of(scores));
    let above = |units: &[f32], unit: usize| units[unit] > quantile(units, 0.8).unwrap();
    let mut counts = [0; 4];
    for (unit, spec) in specs.iter().enumerate() {
        let (now, before) = (above(&present, unit), above(&past, unit));
        let weight = [[0.5, 0.0], [1.0, 0.3]][usize::from(now)][usize::from(before)];
        counts[usize::from(now) + 2 * usize::from(before)] += 1;
        for i in spec.range.clone() {
            let expected = weight * merge.end[i] + (1.0 - weight) * merge.start[i];
            let found = merge.learner.params()[i];
            assert!((found - expected).abs() < 1e-6, "{}: {found}", spec.name);
        }
    }
    println!("neither, present, past, both: {counts:?}");
    let several = counts.iter().filter(|n| **n > 0).count() > 1;
    assert!(counts[0] > 0 && several, "{counts:?}");
}

/// Where the entries of rank `r` of a module lie.
fn rank_unit(a: &ParamSpec, b: &ParamSpec, r: usize) -> [Vec<usize>; 2] {
    let row = (0..a.shape[1]).map(|i| a.range.start + r * a.shape[1] + i);
    let column = (0..b.shape[0]).map(|i| b.range.start + i * RANK + r);
    [row.collect(), column.collect()]
}

fn tas_lora_weighs_a_row_of_a_and_its_column_of_b_alike_by_importance(quick: &Quick) {
    let merge = merge(quick, "tas_lora");
    let specs = merge.learner.layout().specs();
    let mut units = Vec::new();
    for pair in specs.chunks(2) {
        assert!(pair[0].name.ends_with(LORA_A));
        units.extend((0..RANK).map(|r| rank_unit(&pair[0], &pair[1], r)));
    }
    let normalised = |scores: &[f32]| -> Vec<f64> {
        let of = |part: &Vec<usize>| mean(&part.iter().map(|&i| scores[i]).collect::<Vec<_>>());
        let values: Vec<f64> = units.iter().map(|[a, b]| of(a) * of(b)).collect();
        let least = values.iter().copied().fold(f64::MAX, f64::min);
        let most = values.iter().copied().fold(0.0, f64::max);
        values
            .iter()
            .map(|x| (x - least) / (most - least))
            .collect()
    };
    let [past, present] = merge.scores.each_ref().map(|scores| normalised(scores));
    let mut weights = Vec::new();
    for (unit, parts) in units.iter().enumerate() {
        let powers = [present[unit] / 0.25, past[unit] / 0.25].map(f64::exp);
        let weight = powers[0] / (powers[0] + powers[1]);
        weights.push(weight);
        for &i in parts.iter().flatten() {
            let (start, end) = (f64::from(merge.start[i]), f64::from(merge.end[i]));
            let expected = weight * end + (1.0 - weight) * start;
            let found = f64::from(merge.learner.params()[i]);
            assert!((found - expected).abs() < 1e-5, "{found} {expected}");
        }
    }
    let largest = weights.iter().copied().fold(0.0, f64::max);
    let least = weights.iter().copied().fold(1.0, f64::min);
    println!("weights of the present: {least} to {largest}");
    assert!(least < 0.5 && largest > 0.55, "{least} {largest}");
}

fn merging_and_replay_forget_less_than_plain_fine_tuning(quick: &Quick) {
    let loss = |config: MethodConfig| {
        // A day of 24 steps is most of a task here.
        let config = match config {
            MethodConfig::Forever(config) => MethodConfig::Forever(ForeverConfig {
                day_steps: 3,
                ..config
            }),
            other => other,
        };
        loss_on(&quick.learned(&config, 3, 4), &quick.tasks[0].rows)
    };
    let plain = loss(named("seq_lora"));
    for name in ["tasl", "tas_lora", "aim_merging", "forever", "slao"] {
        let merged = loss(MethodConfig::by_name(name).unwrap());
        println!("{name}: {merged}, seq_lora: {plain}");
        let most = quick.bound(0.9, 0.95) * plain;
        assert!(merged < most, "{name}: {merged} of {plain}");
    }
}

fn the_penalty_of_tas_lora_keeps_ranks_apart(quick: &Quick) {
    let overlap = |orthogonality: f64| {
        let config = MethodConfig::TasLora(TasLoraConfig {
            orthogonality,
            ..TasLoraConfig::default()
        });
        let learner = quick.learned(&config, 1, 8);
        let (mut sum, mut n) = (0.0, 0);
        for spec in learner
            .layout()
            .specs()
            .iter()
            .filter(|s| s.name.ends_with(LORA_A))
        {
            let a = &learner.params()[spec.range.clone()];
            let row = |r: usize| &a[r * spec.shape[1]..(r + 1) * spec.shape[1]];
            let dot = |r: usize, s: usize| -> f64 {
                let pairs = row(r).iter().zip(row(s));
                pairs.map(|(x, y)| f64::from(x * y)).sum()
            };
            for r in 0..RANK {
                for s in 0..r {
                    sum += (dot(r, s) / (dot(r, r) * dot(s, s)).sqrt()).abs();
                    n += 1;
                }
            }
        }
        sum / f64::from(n)
    };
    let (free, held) = (overlap(0.0), overlap(30.0));
    println!("mean |cos| of rows of A: {free} without, {held} with the penalty");
    assert!(held < 0.5 * free, "{held} of {free}");
}

fn aim_merging_merges_both_loops_at_intervals_that_follow_the_training(quick: &Quick) {
    let config = MethodConfig::by_name("aim_merging").unwrap();
    let (mut learner, mut method) = quick.start(&config, 0.0);
    learn(&mut learner, method.as_mut(), &quick.tasks[0], 2);
    let batches = batches(method.as_ref(), &quick.tasks[1], 24);
    begin(
        &mut learner,
        method.as_mut(),
        &quick.tasks[1],
        batches.len(),
    );
    let mut start = learner.params().to_vec();
    let (mut n_rows, mut intervals) = (0, vec![8]);
    for batch in &batches {
        let before = save(&learner, method.as_ref());
        let n_updates = learner.counters().updates;
        method.observe(&mut learner, batch).unwrap();
        let after = save(&learner, method.as_ref());
        let of = |name: &str| after.counter(name).unwrap();
        if of("method.n_merges") == before.counter("method.n_merges").unwrap() {
            assert_eq!(learner.counters().updates, n_updates + 1);
            continue;
        }
        let n_outer = (intervals.last().unwrap() / 2).max(1);
        assert_eq!(learner.counters().updates, n_updates + 1 + n_outer);
        n_rows += 8 * n_outer;
        intervals.push(of("method.interval"));
        let now = after.tensor("method.start", start.len()).unwrap().to_vec();
        assert!(now == learner.params() && now != start);
        start = now;
    }
    println!("intervals {intervals:?}");
    assert_eq!(learner.counters().memory_rows, n_rows);
    assert!(intervals[..4].iter().all(|&steps| steps == 8));
    assert!(intervals.iter().all(|steps| (2..=128).contains(steps)));
    assert!(
        intervals[4..].iter().any(|&steps| steps != 8),
        "{intervals:?}"
    );
}

fn forever_replays_the_whole_memory_at_growing_distances_and_stays_near_its_anchor(quick: &Quick) {
    let run = |anchor: f64| {
        let config = MethodConfig::Forever(ForeverConfig {
            day_steps: 4,
            anchor,
            ..ForeverConfig::default()
        });
        let (mut learner, mut method) = quick.start(&config, 0.0);
        learn(&mut learner, method.as_mut(), &quick.tasks[0], 2);
        let start = learner.params().to_vec();
        let batches = batches(method.as_ref(), &quick.tasks[1], 12);
        begin(
            &mut learner,
            method.as_mut(),
            &quick.tasks[1],
            batches.len(),
        );
        let mut replays = Vec::new();
        for batch in &batches {
            let n_rows = learner.counters().memory_rows;
            method.observe(&mut learner, batch).unwrap();
            if learner.counters().memory_rows > n_rows {
                assert_eq!(learner.counters().memory_rows, n_rows + 8, "all rows, once");
                replays.push(learner.steps());
            }
        }
        let pairs = learner.params().iter().zip(&start);
        let square: f64 = pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum();
        (replays, square.sqrt())
    };
    let (free, free_distance) = run(0.0);
    let (_, held_distance) = run(10.0);
    println!("replays at {free:?}; moved {free_distance} freely, {held_distance} anchored");
    assert_eq!(free[0], 4);
    assert!(free.len() >= 4, "{free:?}");
    assert!(held_distance < 0.97 * free_distance);
}
