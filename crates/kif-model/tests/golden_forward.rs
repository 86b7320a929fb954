//! Logits, losses and LoRA gradients against PyTorch and peft (`fixtures/golden/make_golden.py`,
//! `make_golden_causal.py`).

mod common;
#[path = "common/numbers.rs"]
mod numbers;

use std::path::PathBuf;

use common::{distance, length, mean_loss_and_grad};
use kif_data::{Batch, Encoded};
use kif_model::{Adapter, EngineKind, LanguageModel, ModelConfig, ModelOptions, Trainable, load};
use numbers::{Golden, decoders, golden};

fn with_golden_adapter(name: &str, engine: EngineKind) -> Box<dyn LanguageModel> {
    let adapter = Adapter::read(&golden(name).join("adapter")).unwrap();
    let mut options = ModelOptions::cpu(Trainable::Adapter(adapter.config.clone()));
    options.engine = engine;
    let mut model = load(&golden(name), &options).unwrap();
    let params = adapter.into_params(model.layout()).unwrap();
    model.set_params(&params).unwrap();
    model
}

fn agrees_with_pytorch(name: &str, engine: EngineKind) {
    let mut model = with_golden_adapter(name, engine);
    let expected = Golden::read(&golden(name).join("forward.safetensors"));
    let batch = expected.batch();

    let logits = model
        .distributions()
        .unwrap()
        .target_logits(&batch)
        .unwrap();
    expected.assert_logits(&logits, &format!("{name} in {engine:?}"));
    for (ours, theirs) in model
        .nll_per_row(&batch)
        .unwrap()
        .iter()
        .zip(expected.f32("nll_per_example"))
    {
        assert!(
            (ours - f64::from(theirs)).abs() < 1e-4,
            "nll {ours} instead of {theirs}"
        );
    }
    let (loss, grad) = mean_loss_and_grad(model.as_mut(), &batch, None);
    let expected_loss = f64::from(expected.f32("mean_loss")[0]);
    assert!(
        (loss - expected_loss).abs() < 1e-5,
        "loss {loss} instead of {expected_loss}"
    );
    for spec in model.layout().specs() {
        let expected = expected.f32(&format!("grad.{}", spec.name));
        let error = distance(&grad[spec.range.clone()], &expected) / length(&expected);
        assert!(
            error < 1e-4,
            "gradient of {}: relative error {error:e}",
            spec.name
        );
    }
}

/// The continuations that PyTorch wrote, which do not stop at the end token: ours are those up to
/// it.
fn writes_what_pytorch_writes(name: &str, engine: EngineKind) {
    let model = with_golden_adapter(name, engine);
    let expected = Golden::read(&golden(name).join("forward.safetensors"));
    let end_ids = ModelConfig::read(&golden(name)).unwrap().end_ids().to_vec();
    let prompts = expected.rows("input");
    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    let written = model.generate(&prompts, 20).unwrap();
    for (row, written) in written.iter().enumerate() {
        let greedy = expected.i64(&format!("greedy.{row}"));
        let greedy = greedy.iter().map(|&id| id as u32);
        let expected: Vec<u32> = greedy.take_while(|id| !end_ids.contains(id)).collect();
        assert_eq!(*written, expected, "row {row}");
    }
}

#[test]
fn decoders_agree_in_both_engines() {
    for name in decoders() {
        for engine in [EngineKind::Fused, EngineKind::Stock] {
            agrees_with_pytorch(name, engine);
        }
    }
}

#[test]
fn decoders_write_the_same_tokens_in_both_engines() {
    for name in decoders() {
        for engine in [EngineKind::Fused, EngineKind::Stock] {
            writes_what_pytorch_writes(name, engine);
        }
    }
}

/// Weights that were trained: `KIF_LLAMA` names a folder with stories260K in Hugging Face layout
/// and the `golden.json` of an independent computation in f64.
#[test]
fn trained_llama_weights_tell_the_story_that_they_tell_elsewhere() {
    let Some(dir) = std::env::var_os("KIF_LLAMA").map(PathBuf::from) else {
        say("skipped: KIF_LLAMA does not name a folder of stories260K with its golden.json");
        return;
    };
    let text = std::fs::read(dir.join("golden.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let tokens: Vec<u32> = serde_json::from_value(expected["greedy_tokens_60"].clone()).unwrap();
    for engine in [EngineKind::Fused, EngineKind::Stock] {
        let mut options = ModelOptions::cpu(Trainable::All);
        options.engine = engine;
        let model = load(&dir, &options).unwrap();
        let written = model.generate(&[&tokens[..1]], tokens.len() - 1).unwrap();
        assert_eq!(written[0], tokens[1..]);
        let rows = [Encoded {
            input_ids: tokens[..1].to_vec(),
            target_ids: tokens[1..5].to_vec(),
            cut: false,
        }];
        let logits = model
            .distributions()
            .unwrap()
            .target_logits(&Batch::from_rows(&rows))
            .unwrap();
        let golden: Vec<Vec<f32>> =
            serde_json::from_value(expected["logits_first_4_positions"].clone()).unwrap();
        for (ours, theirs) in logits[0].iter().zip(golden.concat()) {
            assert!((ours - theirs).abs() < 1e-3, "{ours} instead of {theirs}");
        }
    }
}

/// Past the test harness, which keeps what a passing test prints to itself.
fn say(text: &str) {
    use std::io::Write;

    writeln!(std::io::stderr(), "{text}").expect("standard error");
}

#[test]
fn t5_v1_0_agrees_in_the_fused_engine() {
    agrees_with_pytorch("tiny-t5", EngineKind::Fused);
}

#[test]
fn t5_v1_0_agrees_in_the_stock_engine() {
    agrees_with_pytorch("tiny-t5", EngineKind::Stock);
}

#[test]
fn t5_v1_1_agrees_in_the_fused_engine() {
    agrees_with_pytorch("tiny-t5-gated", EngineKind::Fused);
}

#[test]
fn t5_v1_1_agrees_in_the_stock_engine() {
    agrees_with_pytorch("tiny-t5-gated", EngineKind::Stock);
}
