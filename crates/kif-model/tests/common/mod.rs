//! What the model tests share.

use kif_data::Batch;
use kif_model::{Dropout, LanguageModel};

/// `|a|`.
pub(crate) fn length(a: &[f32]) -> f64 {
    a.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt()
}

/// `|a - b|`.
pub(crate) fn distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let difference: Vec<f32> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    length(&difference)
}

/// Mean loss in nats per target token, and its gradient.
pub(crate) fn mean_loss_and_grad(
    model: &mut dyn LanguageModel,
    batch: &Batch,
    dropout: Option<Dropout>,
) -> (f64, Vec<f32>) {
    let mut grad = vec![0.0; model.layout().n_params()];
    let weight = 1.0 / batch.targets.n_tokens() as f32;
    let loss = model
        .loss_and_grad(batch, weight, dropout, &mut grad)
        .expect("a loss");
    assert_eq!(loss.n_tokens, batch.targets.n_tokens());
    (loss.nll / loss.n_tokens as f64, grad)
}
