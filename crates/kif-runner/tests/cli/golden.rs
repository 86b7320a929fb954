//! `kif inspect` against PyTorch, transformers and peft.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

use crate::kit::{arg, decoders, golden, succeed};

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

#[test]
fn losses_and_gradients_of_decoders_are_those_of_pytorch() {
    decoders().for_each(compare);
}

#[test]
fn answers_of_decoders_are_those_of_transformers() {
    for model in decoders() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = fs::read(golden(model).join("forward.safetensors")).unwrap();
        let expected = SafeTensors::deserialize(&bytes).unwrap();
        let (data, out) = (
            folder.path().join("rows.jsonl"),
            folder.path().join("out.jsonl"),
        );
        let n_rows = write_rows(&expected, &data);
        let (model, adapter) = (golden(model), golden(model).join("adapter"));
        let flags = [
            "score",
            "--max-new-tokens",
            "20",
            "--model",
            arg(&model),
            "--adapter",
        ];
        let files = [arg(&adapter), "--data", arg(&data), "--out", arg(&out)];
        succeed(&[&flags[..], &files].concat());
        let lines = fs::read_to_string(&out).unwrap();
        assert_eq!(lines.lines().count(), n_rows);
        for (i, line) in lines.lines().enumerate() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            let greedy = ints(&expected.tensor(&format!("greedy.{i}")).unwrap());
            // The tokenizer's words are the ids; below 3 they are special.
            let written = greedy.into_iter().take_while(|id| *id != 1);
            let words: Vec<String> = written
                .filter(|id| *id > 2)
                .map(|id| format!("w{id}"))
                .collect();
            assert_eq!(line["prediction"], words.join(" "));
        }
    }
}

#[test]
fn an_adapter_of_a_t5_is_refused_on_a_decoder_by_the_names_that_differ() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("rows.jsonl");
    fs::write(&data, crate::kit::rows("a", 4, 0)).unwrap();
    let (model, adapter) = (golden("tiny-llama"), golden("tiny-t5/adapter"));
    let said = [
        "fitting adapter",
        "missing base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
        "unexpected base_model.model.decoder.block.0.layer.0.SelfAttention.q.lora_A.weight",
    ];
    let flags = [
        "score",
        "--model",
        arg(&model),
        "--adapter",
        arg(&adapter),
        "--data",
        arg(&data),
    ];
    crate::kit::fail(2, &said, &flags);
}
