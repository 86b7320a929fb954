//! How commands end when something is wrong: the exit code, and a message that names it.

use std::fs;
use std::path::Path;

use crate::kit::{arg, fail, golden, kif, kif_with, rows, small_benchmark, succeed};

#[test]
fn usage_errors_are_bad_input() {
    fail(2, &["--task"], &["learn", "--model", "m", "--out", "o"]);
    fail(2, &["unrecognized subcommand"], &["lern"]);
    fail(2, &["f64"], &["bench", "quick", "--precision", "f64"]);
    fail(
        2,
        &["expected at least 1"],
        &[
            "learn",
            "--model",
            "m",
            "--task",
            "t",
            "--out",
            "o",
            "--batch-size",
            "0",
        ],
    );
    assert_eq!(kif(&["--version"]).code, 0);
}

#[test]
fn bad_rows_are_named_by_file_line_and_field() {
    let folder = tempfile::tempdir().unwrap();
    let (model, out) = (golden("tiny-t5"), folder.path().join("out"));
    let data = folder.path().join("rows.jsonl");
    let learn = [
        "learn",
        "--model",
        arg(&model),
        "--task",
        arg(&data),
        "--out",
        arg(&out),
    ];
    fail(2, &["rows.jsonl"], &learn);
    fs::write(&data, "{\"id\": \"1\", \"input\": \"w3\", \"output\": \"w4\"}\n{\"id\": \"2\", \"input\": \"w3\"}\n").unwrap();
    fail(2, &["rows.jsonl:2", "output"], &learn);
    fs::write(
        &data,
        "{\"id\": \"1\", \"input_ids\": [3, 999999], \"target_ids\": [4, 1]}\n",
    )
    .unwrap();
    fail(2, &["row 1: token id 999999"], &learn);
    assert!(!out.join("adapter_config.json").exists());
}

#[test]
fn models_and_adapters_that_do_not_fit_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let model = golden("tiny-t5");
    let data = at("rows.jsonl");
    fs::write(&data, rows("a", 8, 0)).unwrap();
    fail(
        2,
        &["no-such-model"],
        &["score", "--model", "no-such-model", "--data", arg(&data)],
    );
    let adapter = at("adapter");
    fs::create_dir(&adapter).unwrap();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(model.join("adapter").join(name), adapter.join(name)).unwrap();
    }
    let score = [
        "score",
        "--model",
        arg(&model),
        "--data",
        arg(&data),
        "--adapter",
        arg(&adapter),
    ];
    succeed(&[&score[..], &["--max-new-tokens", "1"]].concat());
    let config = adapter.join("adapter_config.json");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(
        &config,
        text.replace("\"use_dora\": false", "\"use_dora\": true"),
    )
    .unwrap();
    fail(2, &["use_dora"], &score);
    fs::write(&config, text.replace("\"r\": 8", "\"r\": 4")).unwrap();
    fail(2, &["lora_A"], &score);
    fs::write(&config, &text).unwrap();
    let out = at("out");
    let learn = [
        "learn",
        "--model",
        arg(&model),
        "--task",
        arg(&data),
        "--out",
        arg(&out),
        "--adapter",
        arg(&adapter),
    ];
    fail(
        2,
        &["--rank 4 contradicts"],
        &[&learn[..], &["--rank", "4"]].concat(),
    );
}

#[test]
fn settings_outside_their_range_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (model, out, data) = (
        golden("tiny-t5"),
        folder.path().join("out"),
        folder.path().join("rows.jsonl"),
    );
    fs::write(&data, rows("a", 8, 0)).unwrap();
    let learn = |more: &[&'static str], said: &[&str]| {
        let flags = [
            "learn",
            "--model",
            arg(&model),
            "--task",
            arg(&data),
            "--out",
            arg(&out),
        ];
        fail(2, said, &[&flags[..], more].concat());
    };
    learn(&["--lr=-1"], &["lr is -1"]);
    learn(&["--dropout", "1.5"], &["dropout"]);
    learn(&["--rank", "0"], &["rank"]);
    learn(&["--targets", "q,z"], &["\"z\"", "wi_0"]);
    learn(&["--method", "sgd"], &["sgd", "seq_lora", "kif-released"]);
    learn(&["--method", "joint"], &["kif bench"]);
    learn(
        &["--method", "ewc"],
        &["ewc needs all tasks of a stream", "kif bench"],
    );
    learn(
        &["--method", "seq_lora", "--preset", "paper"],
        &["--preset"],
    );
    learn(&["--steps", "3", "--epochs", "2"], &["--epochs"]);
    learn(&["--precision", "f16"], &["f16"]);
    if cfg!(not(feature = "cuda")) {
        learn(&["--device", "cuda"], &["cuda", "--features"]);
    }
    fail(2, &["nonesuch", "standard"], &["bench", "nonesuch"]);
    fail(
        2,
        &["--data"],
        &["bench", "standard", "--model", arg(&model)],
    );
    fail(
        2,
        &["orders is 4"],
        &[
            "bench", "standard", "--model", "m", "--data", "d", "--orders", "4",
        ],
    );
    let protocol = small_benchmark(folder.path(), "\"seq_lora\"");
    let text = fs::read_to_string(&protocol).unwrap();
    fs::write(&protocol, text.replace("epochs: 4", "epoch: 4")).unwrap();
    fail(
        2,
        &["small.ron, line 7", "epoch"],
        &["bench", arg(&protocol)],
    );
}

#[test]
fn diverging_training_stops_before_the_update_and_names_the_place() {
    let folder = tempfile::tempdir().unwrap();
    let (model, out, data) = (
        golden("tiny-t5"),
        folder.path().join("out"),
        folder.path().join("rows.jsonl"),
    );
    fs::write(&data, rows("a", 16, 0)).unwrap();
    let flags = [
        "learn",
        "--model",
        arg(&model),
        "--task",
        arg(&data),
        "--out",
        arg(&out),
        "--warmup",
        "0",
    ];
    fail(
        3,
        &["step", "task rows"],
        &[&flags[..], &["--lr", "1e30"]].concat(),
    );
    assert!(!out.join("adapter_config.json").exists());
    let protocol = small_benchmark(folder.path(), "\"seq_lora\"");
    let run = folder.path().join("run");
    fail(
        3,
        &["seq_lora-o1-s1", "step", "task a"],
        &["bench", arg(&protocol), "--out", arg(&run), "--lr", "1e30"],
    );
}

#[test]
fn a_run_that_cannot_be_leaves_no_lock_behind() {
    let folder = tempfile::tempdir().unwrap();
    let protocol = small_benchmark(folder.path(), "\"seq_lora\"");
    let run = folder.path().join("run");
    let flags = ["bench", arg(&protocol), "--out", arg(&run)];
    fail(2, &["f16"], &[&flags[..], &["--precision", "f16"]].concat());
    succeed(&flags);
}

/// The files of a golden model, in a folder of their own.
fn copy_base(name: &str, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(golden(name)).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
}

#[test]
fn an_end_token_that_cannot_be_read_is_bad_input() {
    let folder = tempfile::tempdir().unwrap();
    let (model, data) = (folder.path().join("model"), folder.path().join("rows"));
    copy_base("tiny-llama", &model);
    fs::write(&data, rows("a", 4, 0)).unwrap();
    let settings = model.join("tokenizer_config.json");
    let flags = [
        "score",
        "--max-new-tokens",
        "1",
        "--model",
        arg(&model),
        "--data",
        arg(&data),
    ];
    succeed(&flags);
    for (text, said) in [
        ("{", "EOF"),
        ("{\"eos_token\": 1}", "expected a token's name"),
    ] {
        fs::write(&settings, text).unwrap();
        fail(2, &["tokenizer_config.json", said], &flags);
    }
    fs::write(&settings, "{\"eos_token\": \"</s>\"}").unwrap();
    succeed(&flags);
}

#[test]
fn a_stopped_training_goes_on_with_its_own_base_only() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (model, data, out) = (at("model"), at("rows.jsonl"), at("out"));
    copy_base("tiny-t5", &model);
    fs::write(&data, rows("a", 16, 0)).unwrap();
    let flags = [
        "learn",
        "--model",
        arg(&model),
        "--task",
        arg(&data),
        "--out",
        arg(&out),
    ];
    let ended = kif_with(&flags, &[("KIF_STOP_AFTER_POLLS", "5")]);
    assert_eq!(ended.code, 75, "{}", ended.stderr);
    let bf16 = [&flags[..], &["--precision", "bf16"]].concat();
    fail(2, &["checkpoint", "settings"], &bf16);
    let weights = model.join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&weights, bytes).unwrap();
    fail(2, &["checkpoint", "base"], &flags);
}

#[cfg(unix)]
#[test]
fn a_closed_stdout_is_no_failure() {
    use std::process::{Command, Stdio};

    let folder = tempfile::tempdir().unwrap();
    let (model, data) = (golden("tiny-t5"), folder.path().join("rows.jsonl"));
    fs::write(&data, rows("a", 4, 0)).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_kif"))
        .args([
            "score",
            "--model",
            arg(&model),
            "--data",
            arg(&data),
            "--max-new-tokens",
            "1",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn an_output_that_is_in_the_way_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (model, file) = (golden("tiny-t5"), folder.path().join("file"));
    fs::write(&file, rows("a", 4, 0)).unwrap();
    fail(
        2,
        &["there is a file"],
        &[
            "learn",
            "--model",
            arg(&model),
            "--task",
            arg(&file),
            "--out",
            arg(&file),
        ],
    );
    fail(
        2,
        &["exists"],
        &[
            "merge",
            "--model",
            arg(&model),
            "--adapter",
            "x",
            "--out",
            arg(folder.path()),
        ],
    );
}
