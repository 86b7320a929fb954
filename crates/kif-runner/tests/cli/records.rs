//! What the record of a cell says, and whether it is read as it was written.

use std::fs;
use std::path::{Path, PathBuf};

use kif_methods::methods::KifConfig;
use kif_methods::methods::kif::KifFusion;
use kif_methods::{MethodConfig, Regime};
use kif_model::Weights;
use kif_report::record::Record;

use crate::kit::{arg, kif, small_benchmark, succeed};
use crate::runs::{bench, record};

/// Matrices of an adapter on `tiny-t5`: A and B on q and v of 2 and 3 self-attentions and 3 to the
/// encoder.
const N_TENSORS: usize = 2 * 2 * (2 + 3 + 3);

/// The values of the first of several adapters of the cell with this record.
fn one_adapter(record: &Path) -> PathBuf {
    record.with_file_name("adapter/adapters/0/adapter_model.safetensors")
}

/// Numbers in a file of tensors.
fn n_values(path: &Path) -> usize {
    let weights = Weights::read_file(path).unwrap();
    let size = |name: &str| weights.shape(name).unwrap().iter().product::<usize>();
    weights.names().map(size).sum()
}

/// Every method, from its settings to its record: nothing gets lost when a record is read, and the
/// memory keeps to its share.
#[test]
fn records_of_all_methods_survive_reading_and_writing() {
    let folder = tempfile::tempdir().unwrap();
    let protocol = small_benchmark(folder.path(), "\"seq_lora\"");
    let out = folder.path().join("run");
    bench(&protocol, &out, &["--methods", "all", "--epochs", "2"]);
    for method in MethodConfig::all() {
        let path = out.join(format!("cells/{}-o1-s1/record.json", method.name()));
        let record = Record::read(&path).unwrap();
        let again = folder.path().join("again.json");
        record.write(&again).unwrap();
        assert_eq!(fs::read(&again).unwrap(), fs::read(&path).unwrap());
        assert_eq!(Record::read(&again).unwrap(), record);
        let name = record.settings.method.name();
        assert_eq!(name, method.name(), "the settings are those of the method");
        for note in &record.task_notes {
            assert_eq!(note.memory_rows, 8, "0.2 of 40 rows: {name}");
        }
        let n_bytes = |n_floats: usize| 4 * n_floats as u64;
        let p = record.n_params;
        let kept = record.kept.unwrap();
        let state = match name {
            "ewc" | "ewc-textbook" => n_bytes(2 * p),
            "slao" | "per_task" => n_bytes(p),
            // A number for each of the matrices or ranks.
            "tasl" => n_bytes(N_TENSORS),
            "tas_lora" => n_bytes(N_TENSORS / 2 * record.settings.adapter.rank),
            "prog_prompt" => n_bytes(p / 2),
            // An id and a probability for each of 32 tokens, at 2 positions of 8 rows.
            "der" => 8 * 32 * 2 * 8,
            // Ids of the rows that it drew; how many is tested where they are drawn.
            "lfpt5" => kept.state_bytes / 4 * 4,
            // All parameters but those of one adapter; SAPT has the weights of two tasks between
            // two adapters, too.
            "moe_lora" => n_bytes(p - n_values(&one_adapter(&path))),
            "sapt_lora" => n_bytes(p - n_values(&one_adapter(&path)) + 4),
            // The adapter of the first of two tasks.
            _ if method.parts(2).n_slots == 2 => n_bytes(p / 2),
            // What else needs a stream tests for itself what it keeps of it.
            _ if method.needs_stream() => kept.state_bytes,
            _ => 0,
        };
        assert_eq!(kept.state_bytes, state, "{name}");
        let rows = match method.regime() {
            Regime::Joint => 80,
            _ if method.keeps_memory() => 16,
            _ => 0,
        };
        assert_eq!(kept.rows, rows, "{name}");
        // 4 words and an end token, then a word and an end token.
        assert_eq!(kept.row_bytes, rows * n_bytes(5 + 2), "{name}");
        let masked = matches!(
            method,
            MethodConfig::Kif(KifConfig {
                fusion: KifFusion::Masked { .. },
                ..
            })
        );
        assert_eq!(record.fusion.is_some(), masked, "{name}");
        if let Some(trace) = record.fusion {
            assert_eq!(trace.sizes.iter().sum::<u64>(), p as u64);
            assert_eq!(
                (trace.tensors.len(), trace.sizes.len()),
                (N_TENSORS, N_TENSORS)
            );
            let [second] = &trace.tasks[..] else {
                panic!("only the second task has a memory: {trace:?}")
            };
            // 40 rows in batches of 8 twice over, and a round after every 8th.
            assert_eq!((second.task, second.rounds), (1, 1), "{name}");
        }
    }
}

#[test]
fn a_record_from_before_some_fields_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let protocol = small_benchmark(folder.path(), "\"kif-paper\"");
    let out = folder.path().join("run");
    bench(&protocol, &out, &["--epochs", "1"]);
    let path = out.join("cells/kif-paper-o1-s1/record.json");
    let whole = Record::read(&path).unwrap();
    let mut older = record(&path);
    older["timing"] = serde_json::to_value(&whole.timing).unwrap();
    for field in ["kept", "fusion"] {
        older.as_object_mut().unwrap().remove(field).unwrap();
    }
    let cost = older["cost"].as_object_mut().unwrap();
    cost.remove("forward_only_tokens").unwrap();
    fs::write(&path, older.to_string()).unwrap();
    let read = Record::read(&path).unwrap();
    assert_eq!((read.kept, &read.fusion), (None, &None));
    assert_eq!(read.scores, whole.scores);
    succeed(&["report", arg(&out)]);
}

#[test]
fn needed_cells_are_those_of_all_and_the_report_says_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let protocol = small_benchmark(folder.path(), "\"seq_lora\"");
    let of = |cells: &str| {
        let out = folder.path().join(cells);
        let said = bench(&protocol, &out, &["--orders", "1", "--cells", cells]);
        let record = Record::read(&out.join("cells/seq_lora-o1-s1/record.json")).unwrap();
        (record, said)
    };
    let ((all, said_of_all), (needed, said)) = (of("all"), of("needed"));
    for (after, task, is_needed) in [(0, 0, true), (1, 0, true), (1, 1, false), (2, 0, true)] {
        let expected = all.scores.get(after, task).filter(|_| is_needed);
        assert_eq!(needed.scores.get(after, task), expected);
    }
    for metric in ["op", "bwt.gem"] {
        assert_eq!(needed.metrics[metric], all.metrics[metric], "{metric}");
    }
    let note = "evaluation.cells: needed";
    assert!(said.contains(note) && !said_of_all.contains(note), "{said}");
}

#[test]
fn a_run_takes_the_answers_of_the_base_from_a_run_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let protocol = small_benchmark(folder.path(), "\"seq_lora\"");
    let run = |name: &str, more: &[&str]| {
        let out = folder.path().join(name);
        let bench = ["bench", arg(&protocol), "--epochs", "1", "--out", arg(&out)];
        let ended = kif(&[&bench[..], more].concat());
        assert_eq!(ended.code, 0, "{}", ended.stderr);
        let base = fs::read_to_string(out.join("base.json")).unwrap();
        (base, ended.stderr)
    };
    let taken = "the base's answers to";
    let (first, said) = run("first", &[]);
    assert!(!said.contains(taken), "{said}");
    // Of a base that nobody has: that they are taken is seen in the answers.
    let start = "\"predictions\": [\n        \"";
    let marked = first.replacen(start, &format!("{start}marked "), 1);
    assert_ne!(marked, first);
    fs::write(folder.path().join("first/base.json"), &marked).unwrap();
    fs::create_dir(folder.path().join("broken")).unwrap();
    fs::write(folder.path().join("broken/base.json"), "{").unwrap();
    let (second, said) = run(
        "second",
        &["--methods", "halve", "--cells", "needed", "--seeds", "3"],
    );
    assert!(
        said.contains(&format!("{taken} 2 tasks are those of")),
        "{said}"
    );
    assert_eq!(second, marked);
    for other in [
        ["--max-new-tokens", "3"],
        ["--precision", "bf16"],
        ["--limit-test", "8"],
    ] {
        let (base, said) = run(&other.concat(), &other);
        assert!(
            !said.contains(taken) && !base.contains("marked"),
            "{other:?}: {said}"
        );
    }
}
