//! `kif perf`.

use crate::kit::{fail, succeed};

#[test]
fn a_tiny_model_is_timed_in_both_formats_of_the_cpu() {
    let stdout = succeed(&[
        "perf",
        "--shapes",
        "tiny",
        "--batches",
        "2x8,1x4",
        "--steps",
        "2",
        "--matrix",
        "64",
    ]);
    let lines: Vec<Vec<&str>> = stdout
        .lines()
        .map(|line| line.split_whitespace().collect())
        .filter(|cells: &Vec<&str>| cells[0] == "tiny")
        .collect();
    let works: Vec<_> = lines.iter().map(|cells| (cells[1], cells[2])).collect();
    let expected = [
        ("f32", "2x8"),
        ("f32", "1x4"),
        ("bf16", "2x8"),
        ("bf16", "1x4"),
    ];
    assert_eq!(works, expected, "{stdout}");
    for cells in lines {
        // Time, input and target tokens per second.
        for cell in &cells[3..6] {
            let number: f64 = cell.parse().expect(cell);
            assert!(number.is_finite() && number > 0.0, "{stdout}");
        }
        assert_eq!(cells.len(), 9, "{stdout}");
    }
}

/// Of a build without the feature, as tests are.
#[test]
fn what_cannot_be_measured_is_bad_input() {
    fail(2, &["--features cuda"], &["perf", "--device", "cuda"]);
    fail(
        2,
        &["f16"],
        &["perf", "--precisions", "f16", "--matrix", "64"],
    );
    fail(2, &["no-python"], &["perf", "--peer", "no-python"]);
    fail(2, &["8x128"], &["perf", "--batches", "8"]);
}
