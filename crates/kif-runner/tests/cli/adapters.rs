//! What a run leaves in the place of one adapter: adapters with a router, soft prompts.

use std::fs;
use std::path::Path;

use kif_methods::MethodConfig;
use kif_methods::methods::Parts;
use kif_report::record::Record;
use serde_json::Value;

use crate::kit::{arg, fail, files, golden, small_benchmark, succeed};
use crate::runs::bench;

/// Names of the methods that train such parts in a stream of two tasks.
fn names(have: impl Fn(&Parts) -> bool) -> Vec<&'static str> {
    let methods = MethodConfig::all().into_iter();
    methods
        .filter(|method| have(&method.parts(2)))
        .map(|method| method.name())
        .collect()
}

/// `kif score` writes with them what the run wrote, and they are refused where they would be taken
/// for one adapter.
#[test]
fn adapters_with_a_router_answer_as_in_their_run() {
    let folder = tempfile::tempdir().unwrap();
    let protocol = small_benchmark(folder.path(), "\"seq_lora\"");
    let out = folder.path().join("run");
    let methods = names(|parts| parts.router.is_some());
    bench(&protocol, &out, &["--methods", &methods.join(",")]);
    let model = golden("tiny-t5");
    for method in methods {
        let cell = out.join(format!("cells/{method}-o1-s1"));
        let record = Record::read(&cell.join("record.json")).unwrap();
        let adapter = cell.join("adapter");
        for (task, expected) in &record.predictions {
            let data = folder.path().join(format!("data/{task}/test.jsonl"));
            let answers = folder.path().join("answers.jsonl");
            let with = [
                "--model",
                arg(&model),
                "--adapter",
                arg(&adapter),
                "--data",
                arg(&data),
            ];
            let how = [
                "--out",
                arg(&answers),
                "--max-new-tokens",
                "4",
                "--batch-size",
                "5",
            ];
            succeed(&[&["score"], &with[..], &how[..]].concat());
            let text = fs::read_to_string(&answers).unwrap();
            let prediction = |line: &str| {
                let line: Value = serde_json::from_str(line).unwrap();
                line["prediction"].as_str().unwrap().to_owned()
            };
            let found: Vec<String> = text.lines().map(prediction).collect();
            assert_eq!(&found, expected, "{method} on {task}");
        }
        let merged = folder.path().join("merged");
        let named = "adapters with a router";
        let merge = [
            "merge",
            "--model",
            arg(&model),
            "--adapter",
            arg(&adapter),
            "--out",
            arg(&merged),
        ];
        fail(2, &[named], &merge);
        let data = folder.path().join("data/a/train.jsonl");
        let learn = [
            "learn",
            "--model",
            arg(&model),
            "--adapter",
            arg(&adapter),
            "--task",
            arg(&data),
        ];
        fail(
            2,
            &[named],
            &[&learn[..], &["--out", arg(&merged)]].concat(),
        );
    }
}

/// Soft prompts are no PEFT adapter: `score` reads them, with those active that were last, and the
/// others say what they are.
#[test]
fn soft_prompts_are_written_read_back_and_no_adapter() {
    let folder = tempfile::tempdir().unwrap();
    let protocol = small_benchmark(folder.path(), "\"seq_lora\"");
    let (out, merged) = (folder.path().join("run"), folder.path().join("merged"));
    let methods = names(|parts| parts.prompts.is_some());
    bench(&protocol, &out, &["--methods", &methods.join(",")]);
    // Row 0 is that of the base, whoever makes it first. Not beside the other run, whose it would
    // take.
    let plain = folder.path().join("apart/plain");
    bench(&protocol, &plain, &["--epochs", "1"]);
    let base = |run: &Path| fs::read(run.join("base.json")).unwrap();
    assert_eq!(base(&out), base(&plain));
    let model = golden("tiny-t5");
    let test = folder.path().join("data/b/test.jsonl");
    for method in methods {
        let cell = out.join(format!("cells/{method}-o1-s1"));
        let adapter = cell.join("adapter");
        let names: Vec<_> = files(&adapter)
            .iter()
            .map(|f| f.file_name().unwrap().to_owned())
            .collect();
        assert_eq!(names, ["prompts.json", "prompts.safetensors"]);
        let answers = folder.path().join("answers.jsonl");
        let given = ["--model", arg(&model), "--adapter", arg(&adapter)];
        let more = [
            "--data",
            arg(&test),
            "--out",
            arg(&answers),
            "--max-new-tokens",
            "4",
        ];
        succeed(&[&["score"], &given[..], &more].concat());
        let answers = fs::read_to_string(&answers).unwrap();
        let answers: Vec<String> = (answers.lines())
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .map(|line| line["prediction"].as_str().unwrap().to_owned())
            .collect();
        let record = Record::read(&cell.join("record.json")).unwrap();
        assert_eq!(answers, record.predictions["b"], "{method}");
        let merge = [&["merge"], &given[..], &["--out", arg(&merged)]].concat();
        fail(2, &["soft prompts is not supported"], &merge);
        let learn = ["--task", arg(&test), "--out", arg(&merged)];
        fail(
            2,
            &["soft prompts"],
            &[&["learn"], &given[..], &learn].concat(),
        );
    }
}
