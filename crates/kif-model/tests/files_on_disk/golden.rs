//! Files that transformers and peft wrote.

use kif_model::{
    Adapter, Dtype, FeedForward, ModelConfig, Tensor, Weights, merge, model_files,
    t5_optional_tensors, t5_tensors, write_model,
};
use safetensors::SafeTensors;

use crate::{entries, golden, layout_of, read_json, t5};

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect()
}

#[test]
fn configurations_say_what_transformers_meant() {
    let tied = t5(ModelConfig::read(&golden("tiny-t5")).unwrap());
    assert_eq!(
        (tied.d_model, tied.d_kv, tied.num_heads, tied.d_ff),
        (64, 16, 4, 128)
    );
    assert_eq!(
        (tied.num_layers, tied.num_decoder_layers, tied.vocab_size),
        (2, 3, 512)
    );
    assert_eq!(
        (
            tied.feed_forward,
            tied.tie_word_embeddings,
            tied.scales_logits()
        ),
        (FeedForward::Relu, true, true)
    );
    assert_eq!(
        (
            tied.pad_token_id,
            tied.eos_token_id,
            tied.decoder_start_token_id
        ),
        (0, 1, 0)
    );
    let gated = t5(ModelConfig::read(&golden("tiny-t5-gated")).unwrap());
    assert_eq!(gated.feed_forward, FeedForward::GatedGelu);
    assert!(!gated.tie_word_embeddings && !gated.scales_logits());
}

#[test]
fn bases_hold_the_expected_tensors_and_the_values_that_safetensors_reads() {
    for name in ["tiny-t5", "tiny-t5-gated", "trajectory-base"] {
        let dir = golden(name);
        let config = t5(ModelConfig::read(&dir).unwrap());
        let weights = Weights::read(&dir).unwrap();
        weights
            .expect(&t5_tensors(&config), &t5_optional_tensors(&config))
            .unwrap();
        let bytes = std::fs::read(dir.join("model.safetensors")).unwrap();
        let oracle = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(weights.names().count(), oracle.len());
        for (tensor, view) in oracle.tensors() {
            assert_eq!(weights.shape(&tensor).unwrap(), view.shape());
            assert_eq!(weights.get(&tensor).unwrap(), f32s(view.data()), "{tensor}");
        }
    }
}

#[test]
fn a_base_that_is_read_and_written_has_the_same_bytes() {
    for name in ["tiny-t5", "tiny-t5-gated"] {
        let (from, to) = (golden(name), tempfile::tempdir().unwrap());
        let config = ModelConfig::read(&from).unwrap();
        write_model(
            to.path(),
            &config,
            &Weights::read(&from).unwrap(),
            Dtype::F32,
        )
        .unwrap();
        assert_eq!(entries(to.path()), ["config.json", "model.safetensors"]);
        let file = "model.safetensors";
        assert!(
            std::fs::read(from.join(file)).unwrap() == std::fs::read(to.path().join(file)).unwrap(),
            "{name}"
        );
        // Every key that is written says what transformers wrote.
        let (theirs, ours) = (
            read_json(&from.join("config.json")),
            read_json(&to.path().join("config.json")),
        );
        for (key, value) in ours
            .as_object()
            .unwrap()
            .iter()
            .filter(|(key, _)| *key != "torch_dtype")
        {
            assert_eq!(value, &theirs[key], "{key}");
        }
        assert_eq!(ModelConfig::read(to.path()).unwrap(), config);
    }
}

#[test]
fn an_adapter_that_is_read_and_written_has_the_same_tensor_bytes() {
    for name in ["tiny-t5/adapter", "tiny-t5-gated/adapter"] {
        let (from, to) = (golden(name), tempfile::tempdir().unwrap());
        let adapter = Adapter::read(&from).unwrap();
        assert_eq!(
            (
                adapter.config.rank,
                adapter.config.alpha,
                adapter.config.dropout
            ),
            (8, 32.0, 0.0)
        );
        assert_eq!(adapter.config.targets, ["q", "v"]);
        assert_eq!((adapter.tensors.len(), &adapter.base_model), (32, &None));
        let (config, layout) = (adapter.config.clone(), layout_of(&adapter));
        let params = adapter.into_params(&layout).unwrap();
        Adapter::write(to.path(), &config, &layout, &params, "").unwrap();
        let file = "adapter_model.safetensors";
        assert!(
            std::fs::read(from.join(file)).unwrap() == std::fs::read(to.path().join(file)).unwrap(),
            "{name}"
        );
        let ours = read_json(&to.path().join("adapter_config.json"));
        let theirs = read_json(&from.join("adapter_config.json"));
        for (key, value) in ours
            .as_object()
            .unwrap()
            .iter()
            .filter(|(key, _)| *key != "target_modules")
        {
            assert_eq!(value, &theirs[key], "{key}");
        }
    }
}

#[test]
fn merging_adds_four_times_b_a_to_q_and_v_alone() {
    let dir = golden("tiny-t5");
    let base = Weights::read(&dir).unwrap();
    let adapter = Adapter::read(&dir.join("adapter")).unwrap();
    let mut merged = base.clone();
    merge(&mut merged, &adapter).unwrap();
    for name in base.names() {
        let (before, after) = (base.get(name).unwrap(), merged.get(name).unwrap());
        let stem = format!("base_model.model.{}", name.strip_suffix(".weight").unwrap());
        let Some(Tensor { values: a, .. }) = adapter.tensors.get(&format!("{stem}.lora_A.weight"))
        else {
            assert_eq!(before, after, "{name}");
            continue;
        };
        let b = &adapter.tensors[&format!("{stem}.lora_B.weight")].values;
        for i in 0..64 {
            for j in 0..64 {
                let product: f32 = (0..8).map(|r| b[i * 8 + r] * a[r * 64 + j]).sum();
                assert!(
                    (after[i * 64 + j] - before[i * 64 + j] - 4.0 * product).abs() < 1e-5,
                    "{name} {i} {j}"
                );
            }
        }
    }
}

#[test]
fn the_files_of_a_model_are_its_configuration_weights_and_tokenizer() {
    let dir = golden("tiny-t5");
    let names = ["config.json", "model.safetensors", "tokenizer.json"];
    assert_eq!(model_files(&dir).unwrap(), names.map(|name| dir.join(name)));
}
