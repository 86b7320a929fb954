//! Bases that are GGUF files, and bases by their name on the hub.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::kit::{arg, fail, golden, kif_with, small_benchmark, succeed};
use crate::runs::bench;

/// Rows of text and of ids for the tokenizer of `tiny.gguf`.
const ROWS: &str = r#"{"id": "1", "input": "hello world 12", "output": "hello"}
{"id": "2", "input_ids": [17, 40, 99], "target_ids": [55, 0]}
"#;

fn answers(model: &str, adapter: Option<&Path>, data: &Path, out: &Path) -> Vec<Value> {
    let adapter = adapter.map_or(vec![], |adapter| vec!["--adapter", arg(adapter)]);
    let flags = [
        "score",
        "--model",
        model,
        "--data",
        arg(data),
        "--out",
        arg(out),
    ];
    succeed(&[&flags[..], &["--max-new-tokens", "5"], &adapter].concat());
    let text = fs::read_to_string(out).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn a_gguf_file_and_the_directory_imported_from_it_are_the_same_base() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (file, data) = (golden("gguf/tiny.gguf"), at("rows.jsonl"));
    fs::write(&data, ROWS).unwrap();
    let said = succeed(&[
        "import",
        arg(&file),
        "--out",
        arg(&at("base")),
        "--dtype",
        "f32",
    ]);
    for part in [
        "model      llama",
        "float32",
        "2 Q5_0",
        "tokens     270",
        "dropped    1 metadata",
        "general.name",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let learn = |model: &Path, out: &str| {
        let out = at(out);
        let flags = [
            "learn",
            "--model",
            arg(model),
            "--task",
            arg(&data),
            "--out",
            arg(&out),
        ];
        succeed(
            &[
                &flags[..],
                &["--steps", "3", "--warmup", "1", "--lr", "1e-2"],
            ]
            .concat(),
        );
        fs::read(out.join("adapter_model.safetensors")).unwrap()
    };
    assert_eq!(learn(&file, "of-file"), learn(&at("base"), "of-folder"));
    let adapter = at("of-file");
    for adapter in [None, Some(adapter.as_path())] {
        let of_file = answers(arg(&file), adapter, &data, &at("a.jsonl"));
        assert_eq!(
            of_file,
            answers(arg(&at("base")), adapter, &data, &at("b.jsonl"))
        );
    }
    // Merged into the file's values, with the file's texts beside them.
    let merged = at("merged");
    let merge = [
        "merge",
        "--model",
        arg(&file),
        "--adapter",
        arg(&adapter),
        "--out",
        arg(&merged),
    ];
    succeed(&merge);
    for name in [
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    ] {
        let texts = ["base", "merged"].map(|of| fs::read(at(of).join(name)).unwrap());
        assert_eq!(texts[0], texts[1], "{name}");
    }
    let answered = answers(arg(&merged), None, &data, &at("c.jsonl"));
    assert_eq!(
        answered,
        answers(arg(&file), Some(&adapter), &data, &at("d.jsonl"))
    );
}

#[test]
fn a_run_on_a_gguf_file_is_locked_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let protocol = small_benchmark(folder.path(), "\"seq_lora\"");
    let (file, out) = (folder.path().join("base.gguf"), folder.path().join("run"));
    fs::copy(golden("gguf/tiny.gguf"), &file).unwrap();
    let flags = ["--model", arg(&file), "--epochs", "1"];
    bench(&protocol, &out, &flags);
    let lock: Value = serde_json::from_slice(&fs::read(out.join("lock.json")).unwrap()).unwrap();
    let names: Vec<&String> = lock["model"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["base.gguf"]);
}

#[test]
fn an_import_needs_a_gguf_file_and_a_vacant_place() {
    let folder = tempfile::tempdir().unwrap();
    let (file, out) = (golden("gguf/tiny.gguf"), folder.path().join("out"));
    let no_gguf = golden("tiny-llama");
    fail(
        2,
        &["expected a GGUF file"],
        &["import", arg(&no_gguf), "--out", arg(&out)],
    );
    fail(
        2,
        &["no-such.gguf"],
        &["import", "no-such.gguf", "--out", arg(&out)],
    );
    assert!(!out.exists());
    fs::create_dir(&out).unwrap();
    succeed(&["import", arg(&file), "--out", arg(&out)]);
    fail(
        2,
        &["needs a new folder"],
        &["import", arg(&file), "--out", arg(&out)],
    );
    // Nothing is left of an import that fails.
    let (cut, broken) = (folder.path().join("cut.gguf"), folder.path().join("broken"));
    let bytes = fs::read(&file).unwrap();
    fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    fail(
        2,
        &["cut.gguf", "truncated"],
        &["import", arg(&cut), "--out", arg(&broken)],
    );
    assert!(!broken.exists());
    let data = folder.path().join("rows.jsonl");
    fs::write(&data, ROWS).unwrap();
    let said = "there is no such folder or GGUF file";
    let score = ["score", "--model", "no-such.gguf", "--data", arg(&data)];
    fail(2, &[said], &score);
}

#[test]
fn names_on_the_hub_are_found_in_its_cache_or_named_with_the_command_that_brings_them() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, commit) = (
        folder.path().join("hub"),
        "0123456789abcdef0123456789abcdef01234567",
    );
    let model = cache.join("models--some--tiny");
    fs::create_dir_all(model.join("refs")).unwrap();
    fs::create_dir_all(model.join("snapshots").join(commit)).unwrap();
    fs::write(model.join("refs/main"), commit).unwrap();
    let file = model.join("snapshots").join(commit).join("tiny-mixed.gguf");
    fs::copy(golden("gguf/tiny.gguf"), file).unwrap();
    let (data, out) = (folder.path().join("rows.jsonl"), folder.path().join("out"));
    fs::write(&data, ROWS).unwrap();
    let of = |name: &str| {
        let arguments = [
            "learn",
            "--model",
            name,
            "--task",
            arg(&data),
            "--out",
            arg(&out),
            "--steps",
            "1",
        ];
        kif_with(&arguments, &[("HF_HUB_CACHE", arg(&cache))])
    };
    let ended = of("some/tiny@main");
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let config = fs::read_to_string(out.join("adapter_config.json")).unwrap();
    assert!(
        config.contains(r#""base_model_name_or_path": "some/tiny""#),
        "{config}"
    );
    for (name, command) in [
        ("some/other", "hf download some/other"),
        ("some/tiny@v2", "hf download some/tiny --revision v2"),
    ] {
        let ended = of(name);
        assert_eq!(ended.code, 2, "{}", ended.stderr);
        assert!(ended.stderr.contains(command), "{}", ended.stderr);
    }
}

#[test]
fn a_folder_without_a_configuration_is_no_model_for_any_command() {
    let folder = tempfile::tempdir().unwrap();
    let (empty, data) = (folder.path().join("empty"), folder.path().join("rows"));
    fs::create_dir(&empty).unwrap();
    fs::write(&data, ROWS).unwrap();
    let out = folder.path().join("out");
    let said = format!("model {}: has no config.json, expected", empty.display());
    let model = ["--model", arg(&empty), "--out", arg(&out)];
    for flags in [["score", "--data"], ["learn", "--task"]] {
        fail(2, &[&said], &[&flags[..], &[arg(&data)], &model].concat());
    }
    let protocol = small_benchmark(folder.path(), "\"kif\"");
    let flags = ["bench", arg(&protocol)];
    fail(2, &[&said], &[&flags[..], &model].concat());
}
