//! What is written loads in Python's peft and transformers, and what they write loads here. Needs
//! `KIF_PYTHON`, a Python that has them.

use std::path::{Path, PathBuf};
use std::process::Command;

use kif_model::{
    Adapter, Dtype, EngineKind, LanguageModel, LoraConfig, ModelConfig, ModelOptions, Trainable,
    Weights, import_gguf, load, merge, write_model,
};
use tempfile::TempDir;

use crate::numbers::Golden;
use crate::{decoders, golden, layout_of};

/// Every architecture.
fn bases() -> impl Iterator<Item = &'static str> {
    ["tiny-t5", "tiny-t5-gated"].into_iter().chain(decoders())
}

/// Runs `tests/peft_round_trip.py` on the paths of every base; `false` if there is no Python to run
/// it with.
fn python_agrees<const N: usize>(kind: &str, paths: &[[PathBuf; N]]) -> bool {
    let Some(python) = std::env::var_os("KIF_PYTHON") else {
        say("skipped: KIF_PYTHON does not name a Python that has peft");
        return false;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peft_round_trip.py");
    let mut command = Command::new(python);
    command.arg(script).arg(kind).args(paths.as_flattened());
    let output = command.output().unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{kind} {paths:?}\n{out}\n{err}");
    print!("{out}");
    true
}

/// A folder of which each base has a part.
fn folders() -> (TempDir, impl Fn(&str, &str) -> PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().to_owned();
    let of_base = move |base: &str, what: &str| {
        let of_base = root.join(base);
        std::fs::create_dir_all(&of_base).unwrap();
        of_base.join(what)
    };
    (folder, of_base)
}

/// LoRA on every module that a base has, with a scale that no default has.
fn everywhere(base: &str) -> LoraConfig {
    let targets = match base {
        "tiny-t5" => "k o q v wi wo",
        "tiny-t5-gated" => "k o q v wi_0 wi_1 wo",
        _ => "down_proj gate_proj k_proj o_proj q_proj up_proj v_proj",
    };
    LoraConfig {
        rank: 3,
        alpha: 7.5,
        dropout: 0.1,
        targets: targets.split(' ').map(str::to_owned).collect(),
    }
}

fn with_adapter_of(base: &str, config: &LoraConfig, engine: EngineKind) -> Box<dyn LanguageModel> {
    let mut options = ModelOptions::cpu(Trainable::Adapter(config.clone()));
    options.engine = engine;
    load(&golden(base), &options).unwrap()
}

/// Writes an adapter on every module, without a zero in it.
fn write_everywhere(base: &str, dir: &Path) {
    let config = everywhere(base);
    let model = with_adapter_of(base, &config, EngineKind::Fused);
    let value = |i: usize| ((i * 7919 % 997) as f32 - 498.5) * 2e-4;
    let params: Vec<f32> = (0..model.layout().n_params()).map(value).collect();
    Adapter::write(dir, &config, model.layout(), &params, base).unwrap();
}

/// The adapter computes here, in both engines, what `numbers` say that it computes in peft.
fn computes(base: &str, adapter: &Path, numbers: &Path) {
    let numbers = Golden::read(numbers);
    for engine in [EngineKind::Fused, EngineKind::Stock] {
        let adapter = Adapter::read(adapter).unwrap();
        assert_eq!(adapter.config, everywhere(base));
        let mut model = with_adapter_of(base, &adapter.config, engine);
        let params = adapter.into_params(model.layout()).unwrap();
        model.set_params(&params).unwrap();
        let logits = model
            .distributions()
            .unwrap()
            .target_logits(&numbers.batch())
            .unwrap();
        numbers.assert_logits(&logits, &format!("{base} in {engine:?}"));
    }
}

fn merge_into(base: &str, adapter: &Path, out: &Path) {
    let mut weights = Weights::read(&golden(base)).unwrap();
    merge(&mut weights, &Adapter::read(adapter).unwrap()).unwrap();
    let config = ModelConfig::read(&golden(base)).unwrap();
    write_model(out, &config, &weights, Dtype::F32).unwrap();
}

#[test]
fn a_written_adapter_is_the_golden_one_to_peft() {
    let (_folder, at) = folders();
    let paths = bases().map(|base| {
        let (model, out) = (golden(base), at(base, "adapter"));
        let adapter = Adapter::read(&model.join("adapter")).unwrap();
        let (config, layout) = (adapter.config.clone(), layout_of(&adapter));
        let params = adapter.into_params(&layout).unwrap();
        Adapter::write(&out, &config, &layout, &params, "tiny").unwrap();
        [model.clone(), out, model.join("adapter")]
    });
    python_agrees("adapter", &paths.collect::<Vec<_>>());
}

#[test]
fn an_adapter_on_every_module_computes_in_peft_what_it_computes_here() {
    let (_folder, at) = folders();
    let paths = bases().map(|base| {
        write_everywhere(base, &at(base, "adapter"));
        [golden(base), at(base, "adapter"), at(base, "numbers")]
    });
    if python_agrees("forward", &paths.collect::<Vec<_>>()) {
        bases().for_each(|base| computes(base, &at(base, "adapter"), &at(base, "numbers")));
    }
}

#[test]
fn an_adapter_that_peft_wrote_computes_here_what_it_computes_there() {
    let (_folder, at) = folders();
    let paths = bases().map(|base| {
        write_everywhere(base, &at(base, "settings"));
        let (settings, theirs) = (at(base, "settings"), at(base, "theirs"));
        [golden(base), settings, theirs, at(base, "numbers")]
    });
    if python_agrees("make", &paths.collect::<Vec<_>>()) {
        bases().for_each(|base| computes(base, &at(base, "theirs"), &at(base, "numbers")));
    }
}

#[test]
fn a_written_base_is_the_golden_one_to_transformers() {
    let (_folder, at) = folders();
    let paths = bases().map(|base| {
        let (model, out) = (golden(base), at(base, "model"));
        let config = ModelConfig::read(&model).unwrap();
        let weights = Weights::read(&model).unwrap();
        write_model(&out, &config, &weights, Dtype::F32).unwrap();
        [out, model]
    });
    python_agrees("model", &paths.collect::<Vec<_>>());
}

#[test]
fn a_merged_base_is_the_adapted_one_to_peft() {
    let (_folder, at) = folders();
    let paths = bases().flat_map(|base| {
        write_everywhere(base, &at(base, "adapter"));
        let adapters = [
            (golden(base).join("adapter"), at(base, "merged golden")),
            (at(base, "adapter"), at(base, "merged everywhere")),
        ];
        adapters.map(|(adapter, out)| {
            merge_into(base, &adapter, &out);
            [out, golden(base), adapter]
        })
    });
    python_agrees("merged", &paths.collect::<Vec<_>>());
}

/// Needs `KIF_SMOLLM2_GGUF` besides (see `gguf`).
#[test]
fn an_adapter_on_a_gguf_file_computes_in_peft_on_the_imported_folder_what_it_computes_here() {
    let Some(file) = std::env::var_os("KIF_SMOLLM2_GGUF").map(PathBuf::from) else {
        say("skipped: KIF_SMOLLM2_GGUF does not name a model.gguf");
        return;
    };
    let (_folder, at) = folders();
    let at = |what: &str| at("smollm2", what);
    let (adapter, numbers) = (at("adapter"), at("numbers"));
    import_gguf(&file, &at("model"), Dtype::F32).unwrap();
    let config = everywhere("smollm2");
    let mut model = load(
        &file,
        &ModelOptions::cpu(Trainable::Adapter(config.clone())),
    )
    .unwrap();
    let value = |i: usize| ((i * 7919 % 997) as f32 - 498.5) * 2e-5;
    let params: Vec<f32> = (0..model.layout().n_params()).map(value).collect();
    model.set_params(&params).unwrap();
    Adapter::write(&adapter, &config, model.layout(), &params, "smollm2").unwrap();
    if python_agrees("forward", &[[at("model"), adapter, numbers.clone()]]) {
        let numbers = Golden::read(&numbers);
        let distributions = model.distributions().unwrap();
        let logits = distributions.target_logits(&numbers.batch()).unwrap();
        for (row, logits) in logits.iter().enumerate() {
            let expected = numbers.f32(&format!("logits.{row}"));
            let pairs = logits.iter().zip(&expected);
            let far = pairs.map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
            say(&format!(
                "row {row}: largest difference of logits {far:.1e}"
            ));
            assert!(far < 1e-3 && logits.len() == expected.len());
        }
    }
}

/// Past the test harness, which keeps what a passing test prints to itself.
fn say(text: &str) {
    use std::io::Write;

    writeln!(std::io::stderr(), "{text}").expect("standard error");
}
