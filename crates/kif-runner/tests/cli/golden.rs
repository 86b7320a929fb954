//! `kif inspect` against PyTorch, transformers and peft.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

use crate::kit::{arg, golden, succeed};

fn floats(view: &TensorView<'_>) -> Vec<f64> {
    view.data()
        .as_chunks()
        .0
        .iter()
        .map(|b| f64::from(f32::from_le_bytes(*b)))
        .collect()
}

fn ints(view: &TensorView<'_>) -> Vec<usize> {
    view.data()
        .as_chunks()
        .0
        .iter()
        .map(|b| i64::from_le_bytes(*b) as usize)
        .collect()
}

/// The golden batch as rows of ids.
fn write_rows(golden: &SafeTensors<'_>, path: &Path) -> usize {
    let ragged = |side: &str| {
        let tensor = |part: &str| ints(&golden.tensor(&format!("{side}.{part}")).unwrap());
        let (ids, offsets) = (tensor("ids"), tensor("offsets"));
        offsets
            .windows(2)
            .map(|w| ids[w[0]..w[1]].to_vec())
            .collect::<Vec<_>>()
    };
    let mut text = String::new();
    let (inputs, targets) = (ragged("input"), ragged("target"));
    for (i, (x, y)) in inputs.iter().zip(&targets).enumerate() {
        writeln!(
            text,
            "{{\"id\": \"r{i}\", \"input_ids\": {x:?}, \"target_ids\": {y:?}}}"
        )
        .unwrap();
    }
    fs::write(path, text).unwrap();
    inputs.len()
}

/// Sum of nats over the targets of a row, from golden logits `[T, V]`.
fn nll(logits: &[f64], targets: &[usize]) -> f64 {
    let vocab = logits.len() / targets.len();
    let one = |(row, &target): (&[f64], &usize)| {
        let max = row.iter().copied().fold(f64::MIN, f64::max);
        max + row.iter().map(|x| (x - max).exp()).sum::<f64>().ln() - row[target]
    };
    logits.chunks(vocab).zip(targets).map(one).sum()
}

fn compare(model: &str) {
    let folder = tempfile::tempdir().unwrap();
    let bytes = fs::read(golden(model).join("forward.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    let (data, out) = (
        folder.path().join("rows.jsonl"),
        folder.path().join("out.safetensors"),
    );
    let n_rows = write_rows(&expected, &data);
    let adapter = golden(model).join("adapter");
    succeed(&[
        "inspect",
        "--model",
        arg(&golden(model)),
        "--adapter",
        arg(&adapter),
        "--data",
        arg(&data),
        "--out",
        arg(&out),
    ]);
    let bytes = fs::read(&out).unwrap();
    let got = SafeTensors::deserialize(&bytes).unwrap();

    let target_offsets = ints(&expected.tensor("target.offsets").unwrap());
    let target_ids = ints(&expected.tensor("target.ids").unwrap());
    let n_tokens: Vec<usize> = target_offsets.windows(2).map(|w| w[1] - w[0]).collect();
    assert_eq!(ints(&got.tensor("target_tokens").unwrap()), n_tokens);
    let got_nll = floats(&got.tensor("nll_per_example").unwrap());
    let mut total = 0.0;
    for i in 0..n_rows {
        let logits = floats(&expected.tensor(&format!("logits.{i}")).unwrap());
        let row = nll(
            &logits,
            &target_ids[target_offsets[i]..target_offsets[i + 1]],
        );
        assert!(
            (got_nll[i] - row).abs() < 1e-4,
            "row {i}: {} against {row}",
            got_nll[i]
        );
        total += row;
    }
    let mean_loss = floats(&got.tensor("mean_loss").unwrap())[0];
    let expected_loss = total / n_tokens.iter().sum::<usize>() as f64;
    assert!(
        (mean_loss - expected_loss).abs() < 1e-5,
        "{mean_loss} against {expected_loss}"
    );

    let grads: Vec<&str> = expected
        .names()
        .into_iter()
        .filter(|name| name.starts_with("grad."))
        .collect();
    assert!(!grads.is_empty());
    assert_eq!(
        got.names()
            .iter()
            .filter(|name| name.starts_with("grad."))
            .count(),
        grads.len()
    );
    for name in grads {
        let (x, y) = (got.tensor(name).unwrap(), expected.tensor(name).unwrap());
        assert_eq!(x.shape(), y.shape(), "{name}");
        let (x, y) = (floats(&x), floats(&y));
        let difference: f64 = x
            .iter()
            .zip(&y)
            .map(|(x, y)| (x - y).powi(2))
            .sum::<f64>()
            .sqrt();
        let size: f64 = y.iter().map(|y| y * y).sum::<f64>().sqrt();
        assert!(
            difference <= 1e-4 * size,
            "{name}: {difference:e} of {size:e}"
        );
    }
}

#[test]
fn t5_losses_and_gradients_are_those_of_pytorch() {
    compare("tiny-t5");
}

#[test]
fn gated_t5_losses_and_gradients_are_those_of_pytorch() {
    compare("tiny-t5-gated");
}
