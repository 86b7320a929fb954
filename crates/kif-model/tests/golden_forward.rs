//! Logits, losses and LoRA gradients against PyTorch and peft (`fixtures/golden/make_golden.py`).

mod common;

use std::path::{Path, PathBuf};

use common::{distance, length, mean_loss_and_grad};
use kif_data::{Batch, Encoded};
use kif_model::{Adapter, EngineKind, LanguageModel, ModelOptions, Trainable, load};

/// A folder of golden numbers.
fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fixtures/golden")
        .join(name)
}

/// Tensors of a golden file.
struct Golden(safetensors::SafeTensors<'static>);

impl Golden {
    fn read(path: &Path) -> Self {
        // Leaked: a test reads a handful of small files.
        let bytes: &'static [u8] = std::fs::read(path).expect("a golden file").leak();
        Self(safetensors::SafeTensors::deserialize(bytes).expect("safetensors"))
    }

    fn f32(&self, name: &str) -> Vec<f32> {
        let data = self
            .0
            .tensor(name)
            .unwrap_or_else(|e| panic!("{name}: {e}"))
            .data()
            .to_vec();
        data.chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect()
    }

    fn i64(&self, name: &str) -> Vec<i64> {
        let data = self
            .0
            .tensor(name)
            .unwrap_or_else(|e| panic!("{name}: {e}"))
            .data()
            .to_vec();
        data.chunks_exact(8)
            .map(|b| i64::from_le_bytes(b.try_into().unwrap()))
            .collect()
    }

    /// Rows stored as `<name>.ids` and `<name>.offsets`.
    fn rows(&self, name: &str) -> Vec<Vec<u32>> {
        let ids = self.i64(&format!("{name}.ids"));
        let offsets = self.i64(&format!("{name}.offsets"));
        offsets
            .windows(2)
            .map(|w| {
                ids[w[0] as usize..w[1] as usize]
                    .iter()
                    .map(|&id| id as u32)
                    .collect()
            })
            .collect()
    }

    fn batch(&self, input: &str, target: &str) -> Batch {
        let rows: Vec<Encoded> = self
            .rows(input)
            .into_iter()
            .zip(self.rows(target))
            .map(|(input_ids, target_ids)| Encoded {
                input_ids,
                target_ids,
                cut: false,
            })
            .collect();
        Batch::from_rows(&rows)
    }
}

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
    let batch = expected.batch("input", "target");

    for (row, logits) in model.target_logits(&batch).unwrap().iter().enumerate() {
        let expected = expected.f32(&format!("logits.{row}"));
        assert_eq!(logits.len(), expected.len());
        for (ours, theirs) in logits.iter().zip(&expected) {
            assert!(
                (ours - theirs).abs() < 1e-4,
                "logits of row {row}: {ours} instead of {theirs}"
            );
        }
    }
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
