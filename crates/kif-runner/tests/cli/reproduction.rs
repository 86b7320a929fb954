//! Runs that are kept, and held against published results.

use std::fs;

use kif_runner::protocol::Protocol;
use kif_runner::record::Record;

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
    protocol.stream = kif_runner::protocol::StreamSource::Builtin(benchmark.into());
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
    let mark = |method: &str, source: &str| {
        let row = text
            .lines()
            .find(|line| line.starts_with(&format!("| {method} |")) && line.contains(source));
        row.unwrap_or_else(|| panic!("{method}: {text}"))
            .rsplit('|')
            .nth(1)
            .unwrap()
            .trim()
            .to_owned()
    };
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
fn a_folder_without_runs_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("nowhere");
    fail(
        2,
        &["is not a folder of runs"],
        &["reproduction", arg(&nowhere)],
    );
}
