//! `kif metrics`: one matrix as other projects would print it.

use std::fs;

use crate::kit::{arg, fail, small_benchmark, succeed};

/// The cells of a peer's line.
fn line<'a>(stdout: &'a str, peer: &str) -> Vec<&'a str> {
    let line = stdout
        .lines()
        .find(|line| line.starts_with(peer))
        .expect(peer);
    line.split("  ")
        .map(str::trim)
        .filter(|cell| !cell.is_empty())
        .collect()
}

#[test]
fn a_plain_matrix_is_read_with_and_without_the_base() {
    let folder = tempfile::tempdir().unwrap();
    let csv = folder.path().join("m.csv");
    fs::write(&csv, "90,40\n50,80\n").unwrap();
    let stdout = succeed(&["metrics", arg(&csv), "--percent"]);
    assert_eq!(
        line(&stdout, "Recurrent-KIF"),
        [
            "Recurrent-KIF",
            "65.00",
            "-40.00",
            "not printed",
            "not printed"
        ]
    );
    assert_eq!(
        line(&stdout, "SAPT"),
        ["SAPT", "65.00", "-20.00", "34.06", "40.00"]
    );
    assert_eq!(
        line(&stdout, "Mammoth"),
        [
            "Mammoth",
            "65.00",
            "-40.00",
            "needs cells that were not evaluated",
            "40.00"
        ]
    );
    assert!(stdout.contains("  BWT        1/K sum_{j=1..K} (a[K,j] - a[j,j])\n"));

    let json = folder.path().join("m.json");
    fs::write(&json, "[[0.1, 0.2], [0.9, 0.4], [0.5, 0.8]]").unwrap();
    let stdout = succeed(&["metrics", arg(&json), "--single-task", "0.9,0.9"]);
    assert_eq!(line(&stdout, "Mammoth")[3], "20.00");
    assert_eq!(line(&stdout, "AIMMerging")[3], "-5.00");
}

#[test]
fn what_is_no_matrix_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        arg(&path).to_owned()
    };
    fail(
        2,
        &["--percent"],
        &["metrics", &at("a.csv", "90,40\n50,80\n")],
    );
    fail(
        2,
        &["line 2, column 1: `x`"],
        &["metrics", &at("b.csv", "0.9,0.4\nx,0.8\n")],
    );
    fail(2, &["not a record"], &["metrics", &at("c.json", "{}")]);
    fail(
        2,
        &["not an array of rows"],
        &["metrics", &at("d.json", "[[\"a\"]]")],
    );
    let good = at("e.csv", "0.9,0.4\n0.5,0.8\n");
    fail(
        2,
        &["--single-task has 1 scores for 2 tasks"],
        &["metrics", &good, "--single-task", "0.9"],
    );
    fail(2, &["no finished cell"], &["metrics", arg(folder.path())]);
    fail(2, &["reading nonesuch"], &["metrics", "nonesuch"]);
}

#[test]
fn a_run_says_what_its_cells_would_have_been() {
    let folder = tempfile::tempdir().unwrap();
    let protocol = small_benchmark(folder.path(), "\"seq_lora\", \"per_task\", \"joint\"");
    let out = folder.path().join("run");
    let run = ["bench", arg(&protocol), "--out", arg(&out), "--epochs", "1"];
    let table = succeed(&run);
    assert!(table.contains("95 % interval  ± test rows"), "{table}");
    let stdout = succeed(&["metrics", arg(&out)]);
    assert!(
        stdout.contains("seq_lora, order 1, seed 1, 2 tasks"),
        "{stdout}"
    );
    assert!(!stdout.contains("per_task, order"), "{stdout}");
    // Joint training has no matrix but its last row.
    let joint = &stdout[stdout.find("joint, order 1").unwrap()..];
    assert_eq!(
        line(joint, "SAPT")[2],
        "needs cells that were not evaluated"
    );
    let seq_lora = &stdout[stdout.find("seq_lora, order 1").unwrap()..];
    assert!(
        line(seq_lora, "AIMMerging")[3].parse::<f64>().is_ok(),
        "{stdout}"
    );
    let record = out.join("cells/seq_lora-o1-s1/record.json");
    let alone = succeed(&["metrics", arg(&record)]);
    assert_eq!(line(&alone, "SAPT"), line(seq_lora, "SAPT"));
    assert_eq!(line(&alone, "AIMMerging")[3], "needs --single-task");
}

#[test]
fn answers_can_be_chosen_among_labels() {
    let folder = tempfile::tempdir().unwrap();
    let protocol = small_benchmark(folder.path(), "\"seq_lora\"");
    let out = folder.path().join("labels");
    let run = [
        "bench",
        arg(&protocol),
        "--out",
        arg(&out),
        "--epochs",
        "1",
        "--score",
        "labels",
    ];
    succeed(&run);
    let written = fs::read_to_string(out.join("protocol.ron")).unwrap();
    assert!(written.contains("score: labels"), "{written}");
    fail(
        2,
        &["exact", "labels"],
        &["bench", arg(&protocol), "--score", "rouge_l"],
    );
}
