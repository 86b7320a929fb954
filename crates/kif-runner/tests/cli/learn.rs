//! One task after the other with `kif learn`, and what the other commands make of the adapter.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use crate::kit::{arg, decoders, golden, kif_with, rows, succeed};

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn exact(stdout: &str) -> f64 {
    let line = stdout
        .lines()
        .find_map(|line| line.strip_prefix("exact"))
        .unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn an_adapter_is_learned_scored_inspected_and_merged() {
    for base in ["tiny-t5"].into_iter().chain(decoders()) {
        learned_scored_inspected_and_merged(base);
    }
}

/// A base, two tasks, and the adapters after the first and after both.
struct Tried {
    folder: TempDir,
    model: PathBuf,
    /// The first task's rows, which are the memory beside the second's.
    memory: PathBuf,
    task: PathBuf,
    first: PathBuf,
    second: PathBuf,
}

fn learned_scored_inspected_and_merged(base: &str) {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let tried = Tried {
        model: golden(base),
        memory: at("a.jsonl"),
        task: at("b.jsonl"),
        first: at("first"),
        second: at("second"),
        folder,
    };
    fs::write(&tried.memory, rows("a", 40, 0)).unwrap();
    fs::write(&tried.task, rows("b", 40, 1)).unwrap();
    let change = tried.learn();
    tried.score();
    tried.merge_and_inspect(&change);
}

impl Tried {
    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Learns both tasks; returns what became of the loss on the first.
    fn learn(&self) -> Value {
        let Self {
            model,
            memory,
            task,
            first,
            second,
            ..
        } = self;
        let common = ["--model", arg(model), "--lr", "1e-2", "--warmup", "2"];

        let flags = [
            "learn",
            "--task",
            arg(memory),
            "--out",
            arg(first),
            "--epochs",
            "25",
        ];
        succeed(&[&flags[..], &common].concat());
        let record = json(&first.join("learn.json"));
        assert_eq!(record["settings"]["method"], "seq_lora");
        assert_eq!(record["losses"].as_array().unwrap().len(), 125);
        let losses: Vec<f64> = record["losses"]
            .as_array()
            .unwrap()
            .iter()
            .map(|x| x.as_f64().unwrap())
            .collect();
        assert!(losses[124] < 0.5 * losses[0], "{losses:?}");
        assert!(!first.join("checkpoint").exists());

        let flags = [
            "learn",
            "--task",
            arg(task),
            "--memory",
            arg(memory),
            "--adapter",
            arg(first),
            "--out",
        ];
        succeed(&[&flags[..], &[arg(second), "--steps", "16"], &common].concat());
        let record = json(&second.join("learn.json"));
        assert!(
            record["settings"]["method"]["kif"].is_object(),
            "{}",
            record["settings"]["method"]
        );
        assert_eq!(record["memory_losses"].as_array().unwrap().len(), 8);
        let change = &record["forgetting"][0];
        assert_eq!(change["memory"], arg(memory));
        change.clone()
    }

    fn score(&self) {
        let Self {
            model,
            memory,
            first,
            ..
        } = self;
        let answers = self.at("answers.jsonl");
        let score = |adapter: &Path, batch: &str, out: &Path| {
            let flags = [
                "score",
                "--model",
                arg(model),
                "--adapter",
                arg(adapter),
                "--data",
                arg(memory),
                "--out",
            ];
            succeed(
                &[
                    &flags[..],
                    &[arg(out), "--batch-size", batch, "--max-new-tokens", "4"],
                ]
                .concat(),
            )
        };
        let stdout = score(first, "7", &answers);
        assert!(exact(&stdout) > 0.9, "{stdout}");
        let first_line: Value = serde_json::from_str(
            fs::read_to_string(&answers)
                .unwrap()
                .lines()
                .next()
                .unwrap(),
        )
        .unwrap();
        assert_eq!(first_line["id"], "a-0");
        assert_eq!(first_line["references"][0], "w20");
        let others = self.at("others.jsonl");
        score(first, "1", &others);
        assert_eq!(
            fs::read(&answers).unwrap(),
            fs::read(&others).unwrap(),
            "batches must not change answers"
        );
        let flags = [
            "score",
            "--model",
            arg(model),
            "--adapter",
            arg(first),
            "--data",
            arg(memory),
        ];
        let by_label = succeed(&[&flags[..], &["--score", "labels"]].concat());
        assert!(exact(&by_label) > 0.9, "{by_label}");
    }

    /// The loss on `change` is that of `inspect`, and a merged adapter is the adapter.
    fn merge_and_inspect(&self, change: &Value) {
        let Self {
            model,
            memory,
            task,
            first,
            second,
            ..
        } = self;
        let merged = self.at("merged");
        succeed(&[
            "merge",
            "--model",
            arg(model),
            "--adapter",
            arg(first),
            "--out",
            arg(&merged),
        ]);
        let inspect_on = |data: &Path, model: &Path, adapter: Option<&Path>, out: &Path| {
            let mut flags = vec![
                "inspect",
                "--model",
                arg(model),
                "--data",
                arg(data),
                "--out",
                arg(out),
            ];
            adapter
                .iter()
                .for_each(|adapter| flags.extend(["--adapter", arg(adapter)]));
            let stdout = succeed(&flags);
            stdout
                .split_whitespace()
                .last()
                .unwrap()
                .parse::<f64>()
                .unwrap()
        };
        for (adapter, when) in [(first, "before"), (second, "after")] {
            let loss = inspect_on(memory, model, Some(adapter), &self.at("memory.safetensors"));
            let reported = change[when].as_f64().unwrap();
            assert!(
                (loss - reported).abs() < 1e-4,
                "{when}: {loss} and {reported}"
            );
        }
        let inspect = |model: &Path, adapter: Option<&Path>, out: &Path| {
            inspect_on(task, model, adapter, out)
        };
        let with_adapter = inspect(model, Some(first), &self.at("one.safetensors"));
        let of_merged = inspect(&merged, None, &self.at("two.safetensors"));
        assert!(
            (with_adapter - of_merged).abs() < 1e-4,
            "{with_adapter} against {of_merged}"
        );
    }
}

#[test]
fn an_adapter_is_learned_and_scored_on_a_base_in_8_bits() {
    for base in ["tiny-t5-gated", "tiny-llama"] {
        let folder = tempfile::tempdir().unwrap();
        let (model, task) = (golden(base), folder.path().join("a.jsonl"));
        let adapter = folder.path().join("adapter");
        fs::write(&task, rows("a", 40, 0)).unwrap();
        let flags = "--lr 1e-2 --warmup 2 --epochs 25 --precision int8".split(' ');
        let flags: Vec<&str> = flags
            .chain(["--model", arg(&model), "--task", arg(&task)])
            .chain(["--out", arg(&adapter)])
            .collect();
        succeed(&[&["learn"], &flags[..]].concat());
        let record = json(&adapter.join("learn.json"));
        assert_eq!(record["settings"]["precision"], "int8");
        let flags = "--precision int8 --max-new-tokens 4".split(' ');
        let flags: Vec<&str> = flags
            .chain(["--model", arg(&model), "--adapter", arg(&adapter)])
            .chain(["--data", arg(&task)])
            .collect();
        let stdout = succeed(&[&["score"], &flags[..]].concat());
        assert!(exact(&stdout) > 0.9, "{base}: {stdout}");
    }
}

#[test]
fn a_stopped_training_goes_on_with_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let model = golden("tiny-t5");
    fs::write(at("a.jsonl"), rows("a", 30, 0)).unwrap();
    fs::write(at("b.jsonl"), rows("b", 30, 1)).unwrap();
    for order in [&[][..], &["--no-shuffle"]] {
        for name in ["whole", "parts"] {
            let out = at(name);
            let (task, memory) = (at("b.jsonl"), at("a.jsonl"));
            let flags = [
                "learn",
                "--model",
                arg(&model),
                "--task",
                arg(&task),
                "--memory",
                arg(&memory),
            ];
            let rest = [
                "--steps",
                "21",
                "--lr",
                "1e-2",
                "--preset",
                "released",
                "--out",
                arg(&out),
            ];
            let flags = [&flags[..], &rest, order].concat();
            let stops: &[&str] = if name == "parts" {
                &["5", "9", "1"]
            } else {
                &[]
            };
            for polls in stops {
                let ended = kif_with(&flags, &[("KIF_STOP_AFTER_POLLS", polls)]);
                assert_eq!(ended.code, 75, "{}", ended.stderr);
                assert!(out.join("checkpoint").exists());
            }
            succeed(&flags);
        }
        let adapter = |name: &str| fs::read(at(name).join("adapter_model.safetensors")).unwrap();
        assert_eq!(adapter("whole"), adapter("parts"));
        let (whole, parts) = (json(&at("whole/learn.json")), json(&at("parts/learn.json")));
        for field in ["losses", "memory_losses", "forgetting", "settings"] {
            assert_eq!(whole[field], parts[field], "{field}");
        }
        ["whole", "parts"]
            .iter()
            .for_each(|name| fs::remove_dir_all(at(name)).unwrap());
    }
}

#[test]
fn rows_of_ids_are_learned_and_scored_as_given() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let row = |i: usize| {
        format!(
            "{{\"id\": \"r{i}\", \"input_ids\": [{}, 9, 1], \"target_ids\": [{}, 1]}}\n",
            5 + i % 2,
            20 + i % 2
        )
    };
    fs::write(at("ids.jsonl"), (0..16).map(row).collect::<String>()).unwrap();
    let (model, data, out) = (golden("tiny-t5"), at("ids.jsonl"), at("adapter"));
    let flags = [
        "learn",
        "--model",
        arg(&model),
        "--task",
        arg(&data),
        "--out",
        arg(&out),
        "--lr",
        "1e-2",
        "--warmup",
    ];
    succeed(
        &[
            &flags[..],
            &["0", "--epochs", "30", "--rank", "4", "--targets", "q,k,v,o"],
        ]
        .concat(),
    );
    let stdout = succeed(&[
        "score",
        "--model",
        arg(&model),
        "--adapter",
        arg(&out),
        "--data",
        arg(&data),
    ]);
    assert_eq!(exact(&stdout), 1.0, "{stdout}");
}
