//! Which base a run is on: a T5 or a decoder, in a folder or inside the program.

use std::fs;
use std::path::Path;

use kif_protocol::Arch;
use kif_report::record::Record;
use serde_json::Value;

use crate::kit::{arg, fail, golden, small_benchmark, succeed};
use crate::runs::{bench, bits};

/// What works on a T5 works on a decoder: the adapter sits on the modules of that name, under a
/// template of one's own.
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
    fs::write(&template, "w5 {{ instruction }}{{ input }} w6").unwrap();
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
    let config = fs::read_to_string(run.join("adapter/adapter_config.json")).unwrap();
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
    fs::write(&template, "{{ input }}").unwrap();
    let said = ["template.txt"];
    let arguments = ["bench", arg(&protocol), "--out", arg(&out)];
    fail(2, &said, &[&arguments[..], &flags].concat());
}

/// `bench quick` on one of the bases inside the program.
fn quick(arch: Arch, out: &Path, more: &[&str]) -> String {
    let flags = ["bench", "quick", "--arch", arch.name(), "--out", arg(out)];
    succeed(&[&flags[..], more].concat())
}

/// What the benchmark is for: plain fine-tuning learns every task and forgets it, and KIF keeps
/// most of it.
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
