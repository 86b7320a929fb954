//! Runs that are kept, and held against published results.

use std::fs;

use kif_protocol::Protocol;
use kif_report::record::{Record, Settings};

use crate::kit::{arg, fail, small_benchmark, succeed};

#[test]
fn a_kept_run_has_its_scores_and_no_answers() {
    let folder = tempfile::tempdir().unwrap();
    let protocol = small_benchmark(folder.path(), "\"seq_lora\", \"joint\"");
    let (run, kept) = (folder.path().join("trial"), folder.path().join("kept"));
    succeed(&["bench", arg(&protocol), "--epochs", "1", "--out", arg(&run)]);
    let text = succeed(&["reproduction", arg(&kept), "--keep", arg(&run)]);
    assert!(text.starts_with("### trial\n"), "{text}");
    assert!(
        text.contains("| seq_lora |") && text.contains("no published number"),
        "{text}"
    );
    assert_eq!(succeed(&["reproduction", arg(&kept)]), text);

    let cell = "cells/seq_lora-o1-s1/record.json";
    let (was, is) = [&run, &kept.join("trial")]
        .map(|at| Record::read(&at.join(cell)).unwrap())
        .into();
    assert_eq!(was.scores, is.scores);
    assert!(!was.predictions.is_empty() && is.predictions.is_empty());
    succeed(&["report", arg(&kept.join("trial"))]);
}

/// Rewrites a finished run as one of a built-in benchmark, with other scores after the last task.
fn pretend(folder: &std::path::Path, benchmark: &str, op_of: &[(&str, f64)]) {
    let path = folder.join("protocol.ron");
    let mut protocol = Protocol::load(arg(&path)).unwrap();
    protocol.stream = kif_protocol::StreamSource::Builtin(benchmark.into());
    protocol.orders = vec![1, 2, 3];
    fs::write(&path, protocol.to_ron()).unwrap();
    for (method, op) in op_of {
        let first = folder.join(format!("cells/{method}-o1-s1/record.json"));
        let record = Record::read(&first).unwrap();
        for order in 1..=3 {
            let mut record = record.clone();
            record.order = order;
            let n_tasks = record.tasks.len();
            for task in 0..n_tasks {
                record.scores.set(n_tasks, task, op + 0.01 * order as f64);
            }
            let cell = folder.join(format!("cells/{method}-o{order}-s1"));
            fs::create_dir_all(&cell).unwrap();
            record.write(&cell.join("record.json")).unwrap();
        }
    }
}

/// The cells of a method's row for a source.
fn row(text: &str, method: &str, source: &str) -> Vec<String> {
    let of_both = |line: &&str| line.starts_with(&format!("| {method} |")) && line.contains(source);
    let line = text.lines().find(of_both);
    let line = line.unwrap_or_else(|| panic!("{method}, {source}: {text}"));
    let cells = line.trim_matches('|').split('|');
    cells.map(|cell| cell.trim().to_owned()).collect()
}

fn mark(text: &str, method: &str, source: &str) -> String {
    row(text, method, source).pop().unwrap()
}

#[test]
fn marks_say_no_more_than_the_cells_show() {
    let folder = tempfile::tempdir().unwrap();
    let methods = "\"seq_lora\", \"kif-paper\", \"tasl\", \"migu\", \"joint\"";
    let protocol = small_benchmark(folder.path(), methods);
    let run = folder.path().join("kept/standard");
    succeed(&["bench", arg(&protocol), "--epochs", "1", "--out", arg(&run)]);
    let scores = [
        ("seq_lora", 0.2),
        ("kif-paper", 0.4),
        ("tasl", 0.1),
        ("joint", 0.5),
    ];
    pretend(&run, "standard", &scores);
    let text = succeed(&["reproduction", arg(&folder.path().join("kept"))]);
    let mark = |method: &str, source: &str| mark(&text, method, source);
    assert_eq!(mark("kif-paper", "T5-large"), "direction only");
    assert_eq!(mark("seq_lora", "T5-large"), "direction only");
    assert_eq!(mark("joint", "T5-large"), "direction only");
    assert_eq!(mark("tasl", "T5-large"), "opposite direction");
    // One cell has no interval.
    assert_eq!(mark("migu", "T5-large"), "not yet");
    assert!(
        text.contains("| kif-paper | 1e-2 | 42.0 \\[39.5, 44.5\\] |"),
        "{text}"
    );
}

#[test]
fn a_number_is_held_against_the_orders_that_it_is_the_mean_of() {
    let folder = tempfile::tempdir().unwrap();
    let protocol = small_benchmark(folder.path(), "\"seq_lora\", \"kif-paper\"");
    let run = folder.path().join("kept/long");
    succeed(&["bench", arg(&protocol), "--epochs", "1", "--out", arg(&run)]);
    pretend(&run, "long", &[("seq_lora", 0.2), ("kif-paper", 0.4)]);
    let text = succeed(&["reproduction", arg(&folder.path().join("kept"))]);
    let whole = row(&text, "kif-paper", "Recurrent-KIF (ACL 2025), T5-large");
    assert_eq!(
        (whole[2].as_str(), whole[4].as_str()),
        ("42.0 \\[39.5, 44.5\\]", "3")
    );
    let ablation = row(&text, "kif-paper", "ablation");
    assert_eq!((ablation[2].as_str(), ablation[4].as_str()), ("41.0", "1"));
}

#[test]
fn only_the_published_base_and_settings_can_reproduce_a_number() {
    let folder = tempfile::tempdir().unwrap();
    let small = small_benchmark(folder.path(), "\"seq_lora\", \"joint\"");
    let run = folder.path().join("kept/standard");
    succeed(&["bench", arg(&small), "--epochs", "1", "--out", arg(&run)]);
    pretend(&run, "standard", &[("seq_lora", 0.417), ("joint", 0.7)]);
    let path = run.join("protocol.ron");
    let mut protocol = Protocol::load(arg(&path)).unwrap();
    protocol.model = Some("bases/t5-large".into());
    fs::write(&path, protocol.to_ron()).unwrap();
    let of = |change: &dyn Fn(&mut Settings)| {
        let published = Protocol::load("standard").unwrap();
        for order in 1..=3 {
            let path = run.join(format!("cells/seq_lora-o{order}-s1/record.json"));
            let mut record = Record::read(&path).unwrap();
            record.settings = Settings::new(&published, "seq_lora", record.settings.method);
            change(&mut record.settings);
            record.write(&path).unwrap();
        }
        let text = succeed(&["reproduction", arg(&folder.path().join("kept"))]);
        mark(&text, "seq_lora", "Recurrent-KIF (ACL 2025), T5-large")
    };
    assert_eq!(of(&|_| {}), "reproduced");
    assert_eq!(
        of(&|settings| settings.evaluation.batch_tokens = 7),
        "reproduced"
    );
    assert_eq!(
        of(&|settings| settings.training.lr = 1e-3),
        "direction only"
    );
    assert_eq!(
        of(&|settings| settings.limits.max_input = 256),
        "direction only"
    );
    assert_eq!(
        of(&|settings| settings.memory.fraction = 0.1),
        "direction only"
    );
}

#[test]
fn a_folder_without_runs_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("nowhere");
    fail(
        2,
        &["is not a folder of runs"],
        &["reproduction", arg(&nowhere)],
    );
}
