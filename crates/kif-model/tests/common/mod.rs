//! What the model tests share.

use kif_data::Batch;
use kif_model::LanguageModel;

/// `|a - b| / |b|` over whole vectors.
pub(crate) fn relative_l2(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let sum = |f: &dyn Fn(f64, f64) -> f64| -> f64 {
        a.iter()
            .zip(b)
            .map(|(&a, &b)| f(f64::from(a), f64::from(b)))
            .sum()
    };
    (sum(&|a, b| (a - b).powi(2)) / sum(&|_, b| b * b).max(1e-30)).sqrt()
}

/// Mean loss in nats per target token, and its gradient.
pub(crate) fn mean_loss_and_grad(model: &mut dyn LanguageModel, batch: &Batch) -> (f64, Vec<f32>) {
    let mut grad = vec![0.0; model.layout().n_params()];
    let weight = 1.0 / batch.targets.n_tokens() as f32;
    let loss = model
        .loss_and_grad(batch, weight, None, &mut grad)
        .expect("a loss");
    assert_eq!(loss.n_tokens, batch.targets.n_tokens());
    (loss.nll / loss.n_tokens as f64, grad)
}
