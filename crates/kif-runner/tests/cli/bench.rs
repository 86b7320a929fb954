//! Whole runs of `kif bench` on two small tasks: what they leave, how they grow, what they refuse.

use std::fs;
use std::path::Path;

use crate::kit::{arg, fail, files, kif, small_benchmark, succeed};
use crate::runs::{bench, record};

const METHODS: &str = "\"seq_lora\", \"replay\", \"kif-released\", \"joint\", \"per_task\"";

#[test]
fn a_run_leaves_records_adapters_and_a_report_and_is_not_run_twice() {
    let folder = tempfile::tempdir().unwrap();
    let protocol = small_benchmark(folder.path(), METHODS);
    let out = folder.path().join("run");
    let long = ["--epochs", "20"];
    let stdout = bench(&protocol, &out, &long);
    for word in [
        "seq_lora",
        "kif-released",
        "majority class",
        "OP",
        "BWT",
        "FWT",
        "forgetting",
        "report.md",
    ] {
        assert!(stdout.contains(word), "{word}: {stdout}");
    }
    check_cells(&out);

    let records = || {
        files(&out)
            .into_iter()
            .filter(|path| path.ends_with("record.json"))
    };
    let times = || {
        records()
            .map(|path| fs::metadata(path).unwrap().modified().unwrap())
            .collect::<Vec<_>>()
    };
    let (n_files, first) = (files(&out).len(), times());
    assert_eq!(bench(&protocol, &out, &long), stdout);
    assert_eq!(times(), first);
    assert_eq!(files(&out).len(), n_files);

    let html = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(
        html.starts_with("<!DOCTYPE html>") && !html.contains("://"),
        "{}",
        &html[..200]
    );
    fail(
        2,
        &["no finished cell of ewc"],
        &["report", arg(&out), "--reference", "ewc"],
    );
    fs::remove_file(out.join("report.html")).unwrap();
    assert_eq!(succeed(&["report", arg(&out)]), stdout);
    assert_eq!(fs::read_to_string(out.join("report.html")).unwrap(), html);

    // A run may grow: another seed is added, the table covers both.
    let grown = bench(
        &protocol,
        &out,
        &["--seeds", "2", "--methods", "seq_lora", "--epochs", "20"],
    );
    assert!(grown.contains('±'), "{grown}");
    assert!(out.join("cells/seq_lora-o1-s2/record.json").exists());
}

/// What each method learned and forgot, and what a cell leaves behind.
fn check_cells(out: &Path) {
    let cell = out.join("cells/seq_lora-o1-s1");
    let record = record(&cell.join("record.json"));
    let scores = record["scores"].as_array().unwrap();
    assert_eq!(scores.len(), 3);
    assert!(
        scores[1][0].as_f64().unwrap() > 0.9,
        "task a is learned: {scores:?}"
    );
    assert!(
        scores[2][0].as_f64().unwrap() < 0.5,
        "and forgotten: {scores:?}"
    );
    assert!(
        scores[1][1].is_number(),
        "the next task is evaluated for forward transfer: {scores:?}"
    );
    assert_eq!(record["correctness"].as_array().unwrap().len(), 6);
    assert_eq!(
        record["correctness"][0]["correct"].as_str().unwrap().len(),
        12
    );
    assert_eq!(record["task_notes"][0]["majority"], 0.25);
    assert_eq!(record["task_notes"][0]["memory_rows"], 8);
    assert!(record["metrics"]["bwt.gem"].is_number());
    assert!(cell.join("adapter/adapter_model.safetensors").exists());
    assert!(!cell.join("checkpoint").exists());
    let kif = self::record(&out.join("cells/kif-released-o1-s1/record.json"));
    assert!(
        kif["scores"][2][0].as_f64() > record["scores"][2][0].as_f64(),
        "{}",
        kif["scores"]
    );
    let joint = self::record(&out.join("cells/joint-o1-s1/record.json"));
    assert!(joint["scores"][1][0].is_null() && joint["scores"][2][0].is_number());
    let alone = self::record(&out.join("cells/per_task-o1-s1/record.json"));
    assert_eq!(alone["scores"][1][0], alone["scores"][2][0]);
}

#[test]
fn a_run_under_other_data_or_settings_is_refused_with_the_difference() {
    let folder = tempfile::tempdir().unwrap();
    let protocol = small_benchmark(folder.path(), "\"seq_lora\"");
    let out = folder.path().join("run");
    bench(&protocol, &out, &[]);
    fail(
        2,
        &["training: was", "lr:"],
        &["bench", arg(&protocol), "--out", arg(&out), "--lr", "0.5"],
    );
    fail(
        2,
        &["precision: was f32, is bf16"],
        &[
            "bench",
            arg(&protocol),
            "--out",
            arg(&out),
            "--precision",
            "bf16",
        ],
    );
    let file = folder.path().join("data/b/train.jsonl");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("b-0", "b-x")).unwrap();
    fail(
        2,
        &["data file b/train.jsonl: was"],
        &["bench", arg(&protocol), "--out", arg(&out), "--seeds", "2"],
    );
}

#[test]
fn a_report_of_a_folder_without_a_run_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    fail(2, &["is not a run"], &["report", arg(folder.path())]);
    assert_eq!(kif(&["report"]).code, 2);
}

#[test]
fn limits_take_fixed_class_balanced_rows() {
    let folder = tempfile::tempdir().unwrap();
    let protocol = small_benchmark(folder.path(), "\"seq_lora\"");
    let out = folder.path().join("run");
    bench(
        &protocol,
        &out,
        &[
            "--limit-train",
            "20",
            "--limit-test",
            "8",
            "--epochs",
            "1",
            "--orders",
            "2",
        ],
    );
    let record = record(&out.join("cells/seq_lora-o2-s1/record.json"));
    assert_eq!(record["tasks"][0], "b");
    let note = &record["task_notes"][1];
    assert_eq!(
        (note["train_rows"].as_u64(), note["test_rows"].as_u64()),
        (Some(20), Some(8))
    );
    assert_eq!(note["majority"], 0.25);
}
