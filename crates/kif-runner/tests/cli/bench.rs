//! Whole runs of `kif bench` on two small tasks.

use std::fs;
use std::path::{Path, PathBuf};

use kif_methods::MethodConfig;
use kif_model::Weights;
use kif_protocol::Arch;
use kif_report::record::Record;
use serde_json::Value;

use crate::kit::{arg, fail, files, golden, kif, kif_with, small_benchmark, succeed};

const METHODS: &str = "\"seq_lora\", \"replay\", \"kif-released\", \"joint\", \"per_task\"";

fn bench(protocol: &Path, out: &Path, more: &[&str]) -> String {
    succeed(&[&["bench", arg(protocol), "--out", arg(out)], more].concat())
}

/// A record without what differs between two runs.
fn record(path: &Path) -> Value {
    let mut record: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    record.as_object_mut().unwrap().remove("timing").unwrap();
    record
}

/// All bits that two equal runs must share, by file name.
fn bits(out: &Path) -> Vec<(PathBuf, String)> {
    let keep = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        let content = match name {
            "record.json" => record(path).to_string(),
            "adapter_model.safetensors" => blake3_of(path),
            _ => return None,
        };
        Some((path.strip_prefix(out).unwrap().to_owned(), content))
    };
    files(out).iter().filter_map(keep).collect()
}

fn blake3_of(path: &Path) -> String {
    kif_io::hash::hash_of(path).unwrap()
}

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

/// What works on a T5 works on a decoder: the adapter sits on the modules of that name, under a template of one's own.
#[test]
fn a_run_on_a_decoder_is_one_like_any_other() {
    let folder = tempfile::tempdir().unwrap();
    let protocol = small_benchmark(
        folder.path(),
        r#""seq_lora", "kif-paper", "sapt_lora", "prog_prompt""#,
    );
    let (out, template) = (
        folder.path().join("run"),
        folder.path().join("template.txt"),
    );
    std::fs::write(&template, "w5 {{ instruction }}{{ input }} w6").unwrap();
    let model = golden("tiny-qwen3");
    let flags = [
        "--model",
        arg(&model),
        "--template",
        arg(&template),
        "--epochs",
        "1",
    ];
    bench(&protocol, &out, &flags);
    let run = out.join("cells/kif-paper-o1-s1");
    let config = std::fs::read_to_string(run.join("adapter/adapter_config.json")).unwrap();
    assert!(
        config.contains("q_proj") && config.contains("CAUSAL_LM"),
        "{config}"
    );
    let before = bits(&out);
    let again = folder.path().join("again");
    bench(
        &protocol,
        &again,
        &[&flags[..], &["--threads", "3"]].concat(),
    );
    assert_eq!(bits(&again), before, "threads change nothing");
    // Another template is another run.
    std::fs::write(&template, "{{ input }}").unwrap();
    let said = ["template.txt"];
    let arguments = ["bench", arg(&protocol), "--out", arg(&out)];
    crate::kit::fail(2, &said, &[&arguments[..], &flags].concat());
}

/// `bench quick` on one of the bases inside the program.
fn quick(arch: Arch, out: &Path, more: &[&str]) -> String {
    let flags = ["bench", "quick", "--arch", arch.name(), "--out", arg(out)];
    succeed(&[&flags[..], more].concat())
}

/// What the benchmark is for: plain fine-tuning learns every task and forgets it, and KIF keeps most of it.
#[test]
fn quick_shows_forgetting_and_what_helps_on_every_base_of_the_program() {
    for arch in Arch::ALL {
        let folder = tempfile::tempdir().unwrap();
        let methods = ["seq_lora", "kif-paper"];
        let small = ["--seeds", "1", "--limit-test", "40", "--methods"];
        quick(
            arch,
            folder.path(),
            &[&small[..], &[&methods.join(",")]].concat(),
        );
        let [plain, kif] = methods.map(|method| {
            let cell = folder.path().join(format!("cells/{method}-o1-s1"));
            Record::read(&cell.join("record.json")).unwrap()
        });
        let of = |record: &Record| [record.metrics["op"], record.metrics["bwt.gem"]];
        let ([op, bwt], [kif_op, kif_bwt]) = (of(&plain), of(&kif));
        println!("{arch}: OP {op} and {kif_op}, BWT {bwt} and {kif_bwt}");
        for task in 0..plain.tasks.len() {
            let learned = plain.scores.get(task + 1, task).unwrap();
            assert!(learned > 0.85, "{arch}: {} {learned}", plain.tasks[task]);
        }
        assert!(bwt < -0.6, "{arch}: {bwt}");
        assert!(kif_op > op + 0.3, "{arch}: {kif_op} after {op}");
        assert!(kif_bwt > 0.5 * bwt, "{arch}: {kif_bwt} after {bwt}");
    }
}

#[test]
fn a_run_is_of_one_base_and_says_which() {
    let folder = tempfile::tempdir().unwrap();
    let small = [
        "--methods",
        "seq_lora",
        "--seeds",
        "1",
        "--epochs",
        "1",
        "--limit-train",
        "8",
        "--limit-test",
        "4",
    ];
    for (arch, other) in [(Arch::T5, Arch::Decoder), (Arch::Decoder, Arch::T5)] {
        let out = folder.path().join(arch.name());
        quick(arch, &out, &small);
        let cell = out.join("cells/seq_lora-o1-s1");
        let record = Record::read(&cell.join("record.json")).unwrap();
        assert_eq!(record.settings.arch, Some(arch));
        let lock: Value =
            serde_json::from_slice(&fs::read(out.join("lock.json")).unwrap()).unwrap();
        assert_eq!(lock["settings"]["embedded base"], arch.name());
        let adapter = fs::read_to_string(cell.join("adapter/adapter_config.json")).unwrap();
        assert!(
            adapter.contains(&format!("\"{}\"", arch.base_name())),
            "{adapter}"
        );
        let report = fs::read_to_string(out.join("report.md")).unwrap();
        let named = report.contains("from the embedded decoder-only base");
        assert_eq!(named, arch == Arch::Decoder, "{report}");
        let names = ["embedded base: was ", arch.name(), ", is ", other.name()].concat();
        let again = ["bench", "quick", "--arch", other.name(), "--out", arg(&out)];
        fail(2, &[&names], &[&again[..], &small].concat());
    }
    // The T5 is the default.
    let out = folder.path().join("t5");
    succeed(&[&["bench", "quick", "--out", arg(&out)], &small[..]].concat());
}

#[test]
fn a_base_of_the_program_beside_another_base_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let model = golden("tiny-qwen3");
    let arch = ["--arch", "decoder"];
    let both = ["bench", "quick", "--model", arg(&model)];
    fail(2, &["--arch", "--model"], &[&both[..], &arch].concat());
    fail(
        2,
        &["arch is decoder", "--model"],
        &[&["bench", "standard"], &arch[..]].concat(),
    );
    let protocol = small_benchmark(folder.path(), "\"seq_lora\"");
    fail(
        2,
        &["arch is decoder"],
        &[&["bench", arg(&protocol)], &arch[..]].concat(),
    );
    fail(
        2,
        &["gpt", "t5", "decoder"],
        &["bench", "quick", "--arch", "gpt"],
    );
}

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
        let run = folder.path().join(threads);
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
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
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

/// Matrices of an adapter on `tiny-t5`: A and B on q and v of 2 and 3 self-attentions and 3 to the encoder.
const N_TENSORS: usize = 2 * 2 * (2 + 3 + 3);

/// Every method, from its settings to its record: nothing gets lost when a record is read, and the memory keeps to its
/// share.
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

/// `kif score` writes with them what the run wrote, and they are refused where they would be taken for one adapter.
#[test]
fn adapters_with_a_router_answer_as_in_their_run() {
    let folder = tempfile::tempdir().unwrap();
    let protocol = small_benchmark(folder.path(), "\"sapt_lora\", \"moe_lora\"");
    let out = folder.path().join("run");
    bench(&protocol, &out, &[]);
    let model = golden("tiny-t5");
    for method in ["sapt_lora", "moe_lora"] {
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
                let line: serde_json::Value = serde_json::from_str(line).unwrap();
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
            // The adapter or prompt of the first of two tasks.
            "inc_lora" | "o_lora" | "ella" | "prog_prompt" => n_bytes(p / 2),
            // Ids of the rows that it drew; how many is tested where they are drawn.
            "lfpt5" => kept.state_bytes / 4 * 4,
            // All parameters but those of one adapter; SAPT has the weights of two tasks between two adapters, too.
            "moe_lora" => n_bytes(p - n_values(&one_adapter(&path))),
            "sapt_lora" => n_bytes(p - n_values(&one_adapter(&path)) + 4),
            _ => 0,
        };
        assert_eq!(kept.state_bytes, state, "{name}");
        let rehearses = ["replay", "replay_matched", "halve", "a_gem"].contains(&name)
            || ["aim_merging", "forever", "sapt_lora", "vr_mcl"].contains(&name)
            || name.starts_with("kif-");
        let rows = match name {
            "joint" => 80,
            _ if rehearses => 16,
            _ => 0,
        };
        assert_eq!(kept.rows, rows, "{name}");
        // 4 words and an end token, then a word and an end token.
        assert_eq!(kept.row_bytes, rows * n_bytes(5 + 2), "{name}");
        let masked = name.starts_with("kif-") && name != "kif-soft";
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
            // 40 rows in batches of 8 twice over, and a round behind every 8th.
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

/// Soft prompts are no PEFT adapter: `score` reads them, with those active that were last, and the others say what they are.
#[test]
fn soft_prompts_are_written_read_back_and_no_adapter() {
    let folder = tempfile::tempdir().unwrap();
    let protocol = small_benchmark(folder.path(), "\"seq_lora\"");
    let (out, merged) = (folder.path().join("run"), folder.path().join("merged"));
    let methods = ["l2p", "lfpt5", "prog_prompt"];
    bench(&protocol, &out, &["--methods", &methods.join(",")]);
    // Row 0 is that of the base, whoever makes it first.
    let plain = folder.path().join("plain");
    bench(&protocol, &plain, &["--epochs", "1"]);
    let base = |run: &Path| fs::read(run.join("base.json")).unwrap();
    assert_eq!(base(&out), base(&plain));
    let model = crate::kit::golden("tiny-t5");
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
    let model = crate::kit::golden("tiny-t5");
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
