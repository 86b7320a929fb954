//! Which rows the memory keeps under every policy.

use std::fs;
use std::path::Path;

use kif_report::record::Record;

use crate::kit::{arg, golden, small_benchmark, succeed};
use crate::runs::bench;

/// Runs replay under a policy on tasks of 40 rows, 8 of which are kept.
fn record_under(policy: &str, folder: &Path) -> Record {
    let protocol = small_benchmark(folder, "\"replay\"");
    let text = fs::read_to_string(&protocol).unwrap();
    let memory = format!("fraction: 0.2, policy: {policy}");
    fs::write(&protocol, text.replace("fraction: 0.2", &memory)).unwrap();
    bench(&protocol, &folder.join("run"), &[]);
    Record::read(&folder.join("run/cells/replay-o1-s1/record.json")).unwrap()
}

#[test]
fn every_policy_keeps_the_budget_of_the_memory() {
    for policy in ["class_balanced", "random", "reservoir", "highest_loss"] {
        let kept = || {
            let folder = tempfile::tempdir().unwrap();
            let record = record_under(policy, folder.path());
            let kept = record.task_notes.iter().map(|note| {
                assert_eq!(note.memory_rows, note.kept.len());
                note.kept.clone()
            });
            kept.collect::<Vec<_>>()
        };
        let first = kept();
        assert_eq!(first.concat().len(), 16, "{policy}");
        assert!(first.concat().iter().all(|&row| row < 40), "{policy}");
        assert_eq!(first, kept(), "{policy}");
        if policy == "class_balanced" {
            let of_label = |label: usize| first[0].iter().filter(|&row| row % 4 == label).count();
            assert_eq!([0, 1, 2, 3].map(of_label), [2; 4]);
        }
    }
}

#[test]
fn the_highest_losses_are_those_that_the_adapter_has_on_the_rows() {
    let folder = tempfile::tempdir().unwrap();
    let record = record_under("highest_loss", folder.path());
    let at = |name: &str| folder.path().join(name);
    let (out, data) = (at("losses.safetensors"), at("data/b/train.jsonl"));
    let adapter = at("run/cells/replay-o1-s1/adapter");
    let model = golden("tiny-t5");
    let inputs = ["--model", arg(&model), "--adapter", arg(&adapter)];
    succeed(
        &[
            &["inspect"],
            &inputs[..],
            &["--data", arg(&data), "--out", arg(&out)],
        ]
        .concat(),
    );
    let bytes = fs::read(&out).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let nll: Vec<f32> = (tensors.tensor("nll_per_example").unwrap().data())
        .chunks(4)
        .map(|x| f32::from_le_bytes(x.try_into().unwrap()))
        .collect();
    // All targets are one word and the end token.
    let least = (record.task_notes[1].kept.iter().map(|&row| nll[row])).fold(f32::MAX, f32::min);
    let above = nll.iter().filter(|nll| **nll > least * 1.0001).count();
    assert!(above < 8, "{above} rows have more than {least}: {nll:?}");
    assert_eq!(record.task_notes[1].kept.len(), 8);
}
