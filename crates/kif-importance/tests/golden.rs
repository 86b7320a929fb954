//! Numbers that PyTorch computed (`fixtures/golden/make_golden.py`, function `importance`).

use kif_importance::{Scope, Sensitivity, SensitivityConfig, mask_above_quantile, quantile};
use safetensors::SafeTensors;

const FILE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../fixtures/golden/importance.safetensors"
);

fn floats(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let bytes = file.tensor(name).unwrap().data();
    bytes
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect()
}

#[test]
fn twelve_updates_a_threshold_and_a_mask_agree_with_pytorch() {
    let bytes = std::fs::read(FILE).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let (params, grads, beta) = (
        floats(&file, "params"),
        floats(&file, "grads"),
        floats(&file, "beta"),
    );
    let n_params = file.tensor("params").unwrap().shape()[1];
    let config = SensitivityConfig {
        sensitivity_beta: beta[0],
        uncertainty_beta: Some(beta[1]),
    };
    let mut importance = Sensitivity::new(config, n_params);
    for (params, grads) in params
        .chunks_exact(n_params)
        .zip(grads.chunks_exact(n_params))
    {
        importance.update(params, grads);
    }
    let mut scores = Vec::new();
    importance.scores_into(&mut scores);
    // Elementwise f32 in the same order of operations: the same bits.
    assert_eq!(importance.sensitivity(), floats(&file, "sensitivity"));
    assert_eq!(
        importance.uncertainty().unwrap(),
        floats(&file, "uncertainty")
    );
    assert_eq!(scores, floats(&file, "score"));

    let q = f64::from(floats(&file, "quantile")[0]);
    let threshold = floats(&file, "threshold")[0];
    let ours = quantile(&scores, q).unwrap();
    assert!(
        (ours - threshold).abs() <= 1e-6 * threshold,
        "threshold {ours}, PyTorch's {threshold}"
    );
    let mask: Vec<bool> = file
        .tensor("mask")
        .unwrap()
        .data()
        .iter()
        .map(|m| *m == 1)
        .collect();
    assert_eq!(
        mask_above_quantile(&scores, q, &Scope::Global)
            .unwrap()
            .as_slice(),
        mask
    );
}
