//! Whether a run has the same bits on other threads, in other batches and after a stop.

use std::fs;
use std::path::Path;

use crate::kit::{arg, kif_with, small_benchmark};
use crate::runs::{bench, bits};

#[test]
fn results_are_the_same_bits_for_any_number_of_threads_and_any_evaluation_batch() {
    let folder = tempfile::tempdir().unwrap();
    let protocol = small_benchmark(folder.path(), "\"replay\", \"kif-paper\"");
    let text = fs::read_to_string(&protocol).unwrap();
    let other = folder.path().join("other.ron");
    fs::write(
        &other,
        text.replace("max_new_tokens: 4", "max_new_tokens: 4, batch_tokens: 9"),
    )
    .unwrap();
    let bits_on = |threads: &str, protocol: &Path| {
        // Not beside another run, whose answers of the base it would take.
        let run = folder.path().join(threads).join("run");
        bench(protocol, &run, &["--threads", threads]);
        let files = bits(&run).into_iter();
        files
            .map(|(_, text)| text.replace("\"batch_tokens\":9,", "\"batch_tokens\":4096,"))
            .collect::<Vec<_>>()
    };
    let one = bits_on("1", &protocol);
    assert_eq!(one, bits_on("2", &protocol));
    assert_eq!(one, bits_on("4", &other));
}

#[test]
fn a_stopped_run_goes_on_with_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let protocol = small_benchmark(folder.path(), "\"kif-released\", \"per_task\"");
    let text = fs::read_to_string(&protocol).unwrap();
    let loss = "fraction: 0.2, policy: highest_loss";
    fs::write(&protocol, text.replace("fraction: 0.2", loss)).unwrap();
    let (whole, parts) = (
        folder.path().join("whole"),
        folder.path().join("apart/parts"),
    );
    bench(&protocol, &whole, &[]);
    // Every process gets a bit further: in the base's evaluation, in trainings and in evaluations.
    let mut ends = Vec::new();
    for polls in [1, 2, 8, 13, 24, 3, 20, 22, 21, 2, 9, 30, 17]
        .iter()
        .cycle()
        .take(40)
    {
        let polls = polls.to_string();
        let ended = kif_with(
            &["bench", arg(&protocol), "--out", arg(&parts)],
            &[("KIF_STOP_AFTER_POLLS", &polls)],
        );
        ends.push(ended.code);
        assert!([0, 75].contains(&ended.code), "{}", ended.stderr);
        if ended.code == 0 {
            break;
        }
    }
    assert_eq!(ends.last(), Some(&0), "{ends:?}");
    assert!(ends.len() > 5, "{ends:?}");
    assert_eq!(bits(&whole), bits(&parts));
    let table = |out: &Path| {
        fs::read_to_string(out.join("report.md"))
            .unwrap()
            .split("## Costs")
            .next()
            .unwrap()
            .to_owned()
    };
    assert_eq!(table(&whole), table(&parts));
}

#[cfg(unix)]
#[test]
fn a_terminated_run_saves_and_says_so() {
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    let folder = tempfile::tempdir().unwrap();
    let protocol = small_benchmark(folder.path(), "\"seq_lora\"");
    let out = folder.path().join("run");
    let mut child = Command::new(env!("CARGO_BIN_EXE_kif"))
        .args([
            "bench",
            arg(&protocol),
            "--out",
            arg(&out),
            "--epochs",
            "2000",
        ])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let started = Instant::now();
    while !out.join("base.json").exists() && started.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(300));
    Command::new("kill")
        .args(["-TERM", &child.id().to_string()])
        .status()
        .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(75));
    assert!(out.join("cells/seq_lora-o1-s1/checkpoint").exists());
    assert!(!out.join("cells/seq_lora-o1-s1/record.json").exists());
}
