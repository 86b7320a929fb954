//! What is written loads in Python's peft and transformers. Needs `KIF_PYTHON`, a Python that has them.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use kif_model::{Adapter, Dtype, ModelConfig, Weights, merge, write_model};

use crate::{golden, layout_of};

/// Every architecture.
const BASES: [&str; 5] = [
    "tiny-t5",
    "tiny-t5-gated",
    "tiny-llama",
    "tiny-llama3",
    "tiny-qwen3",
];

/// Runs `tests/peft_round_trip.py`; `false` if there is no Python to run it with.
fn python_agrees(kind: &str, paths: &[&Path]) -> bool {
    let Some(python) = std::env::var_os("KIF_PYTHON") else {
        say("skipped: KIF_PYTHON does not name a Python that has peft");
        return false;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peft_round_trip.py");
    let arguments = [script.as_os_str(), OsStr::new(kind)]
        .into_iter()
        .chain(paths.iter().map(|p| p.as_os_str()));
    let output = Command::new(python).args(arguments).output().unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{kind} {paths:?}\n{out}\n{err}");
    print!("{out}");
    true
}

#[test]
fn a_written_adapter_is_the_golden_one_to_peft() {
    for name in BASES {
        let (model, out) = (golden(name), tempfile::tempdir().unwrap());
        let adapter = Adapter::read(&model.join("adapter")).unwrap();
        let (config, layout) = (adapter.config.clone(), layout_of(&adapter));
        let params = adapter.into_params(&layout).unwrap();
        Adapter::write(out.path(), &config, &layout, &params, "tiny").unwrap();
        if !python_agrees("adapter", &[&model, out.path(), &model.join("adapter")]) {
            return;
        }
    }
}

#[test]
fn a_written_base_is_the_golden_one_to_transformers() {
    for name in BASES {
        let (model, out) = (golden(name), tempfile::tempdir().unwrap());
        let config = ModelConfig::read(&model).unwrap();
        write_model(
            out.path(),
            &config,
            &Weights::read(&model).unwrap(),
            Dtype::F32,
        )
        .unwrap();
        if !python_agrees("model", &[out.path(), &model]) {
            return;
        }
    }
}

#[test]
fn a_merged_base_is_the_adapted_one_to_peft() {
    for name in BASES {
        let (model, out) = (golden(name), tempfile::tempdir().unwrap());
        let mut weights = Weights::read(&model).unwrap();
        merge(
            &mut weights,
            &Adapter::read(&model.join("adapter")).unwrap(),
        )
        .unwrap();
        write_model(
            out.path(),
            &ModelConfig::read(&model).unwrap(),
            &weights,
            Dtype::F32,
        )
        .unwrap();
        if !python_agrees("merged", &[out.path(), &model, &model.join("adapter")]) {
            return;
        }
    }
}

/// Past the test harness, which keeps what a passing test prints to itself.
fn say(text: &str) {
    use std::io::Write;

    writeln!(std::io::stderr(), "{text}").expect("standard error");
}
