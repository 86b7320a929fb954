//! What the model tests share.

use std::path::{Path, PathBuf};

use kif_data::{Batch, Encoded};
use kif_model::LanguageModel;

/// A folder of golden numbers.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden").join(name)
}

/// Tensors of a golden file.
pub struct Golden(safetensors::SafeTensors<'static>);

impl Golden {
    pub fn read(path: &Path) -> Self {
        // Leaked: a test reads a handful of small files.
        let bytes: &'static [u8] = std::fs::read(path).expect("a golden file").leak();
        Self(safetensors::SafeTensors::deserialize(bytes).expect("safetensors"))
    }

    pub fn f32(&self, name: &str) -> Vec<f32> {
        let data = self.0.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}")).data().to_vec();
        data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    pub fn i64(&self, name: &str) -> Vec<i64> {
        let data = self.0.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}")).data().to_vec();
        data.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect()
    }

    /// Rows stored as `<name>.ids` and `<name>.offsets`.
    pub fn rows(&self, name: &str) -> Vec<Vec<u32>> {
        let ids = self.i64(&format!("{name}.ids"));
        let offsets = self.i64(&format!("{name}.offsets"));
        offsets
            .windows(2)
            .map(|w| ids[w[0] as usize..w[1] as usize].iter().map(|&id| id as u32).collect())
            .collect()
    }

    pub fn batch(&self, input: &str, target: &str) -> Batch {
        let rows: Vec<Encoded> = self
            .rows(input)
            .into_iter()
            .zip(self.rows(target))
            .map(|(input_ids, target_ids)| Encoded { input_ids, target_ids, cut: false })
            .collect();
        Batch::from_rows(&rows)
    }
}

/// `|a - b| / |b|` over whole vectors.
pub fn relative_l2(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let sum = |f: &dyn Fn(f64, f64) -> f64| -> f64 {
        a.iter().zip(b).map(|(&a, &b)| f(f64::from(a), f64::from(b))).sum()
    };
    (sum(&|a, b| (a - b).powi(2)) / sum(&|_, b| b * b).max(1e-30)).sqrt()
}

/// Mean loss in nats per target token, and its gradient.
pub fn mean_loss_and_grad(model: &mut dyn LanguageModel, batch: &Batch) -> (f64, Vec<f32>) {
    let mut grad = vec![0.0; model.layout().n_params()];
    let weight = 1.0 / batch.targets.n_tokens() as f32;
    let loss = model.loss_and_grad(batch, weight, None, &mut grad).expect("a loss");
    assert_eq!(loss.n_tokens, batch.targets.n_tokens());
    (loss.nll / loss.n_tokens as f64, grad)
}
