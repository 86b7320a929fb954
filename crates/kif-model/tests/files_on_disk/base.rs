//! Bases: refusals by name, dtypes, shards.

use std::path::Path;

use half::{bf16, f16};
use kif_model::{
    Dtype, ModelConfig, ModelError, Weights, model_files, random_weights, t5_optional_tensors,
    t5_tensors, write_model,
};
use serde_json::{Value, json};

use crate::{golden, read_json, t5, tiny, tiny_config, write_raw};

/// The golden `config.json` with some keys changed; null removes nothing but counts as absent.
fn parse_with(changes: Value) -> Result<ModelConfig, ModelError> {
    let mut fields = read_json(&golden("tiny-t5/config.json"));
    fields
        .as_object_mut()
        .unwrap()
        .extend(changes.as_object().unwrap().clone());
    ModelConfig::parse(Path::new("m/config.json"), fields.to_string().as_bytes())
}

#[test]
fn a_configuration_that_cannot_be_built_is_refused_by_field() {
    let refused = [
        ("model_type", json!({"model_type": "mt5"})),
        ("model_type", json!({"model_type": null})),
        (
            "architectures",
            json!({"architectures": ["T5EncoderModel"]}),
        ),
        (
            "quantization_config",
            json!({"quantization_config": {"bits": 4}}),
        ),
        ("feed_forward_proj", json!({"feed_forward_proj": "gelu"})),
        (
            "feed_forward_proj",
            json!({"feed_forward_proj": "gated-silu"}),
        ),
        ("feed_forward_proj", json!({"feed_forward_proj": 3})),
        ("dense_act_fn", json!({"dense_act_fn": "gelu"})),
        ("is_gated_act", json!({"is_gated_act": true})),
        ("d_model", json!({"d_model": 0})),
        ("d_model", json!({"d_model": -64})),
        ("d_model", json!({"d_model": 64.5})),
        ("d_model", json!({"d_model": null})),
        ("d_model", json!({"d_model": u64::MAX})),
        ("vocab_size", json!({"vocab_size": 1u64 << 40})),
        ("num_layers", json!({"num_layers": "six"})),
        ("num_decoder_layers", json!({"num_decoder_layers": 0})),
        (
            "relative_attention_num_buckets",
            json!({"relative_attention_num_buckets": 6}),
        ),
        (
            "relative_attention_max_distance",
            json!({"relative_attention_max_distance": 16}),
        ),
        ("layer_norm_epsilon", json!({"layer_norm_epsilon": 0})),
        ("eos_token_id", json!({"eos_token_id": 512})),
        ("eos_token_id", json!({"eos_token_id": [1, 2]})),
        (
            "decoder_start_token_id",
            json!({"decoder_start_token_id": -1}),
        ),
        ("tie_word_embeddings", json!({"tie_word_embeddings": "yes"})),
        ("scale_decoder_outputs", json!({"scale_decoder_outputs": 1})),
    ];
    for (field, changes) in refused {
        let error = parse_with(changes.clone()).expect_err(&changes.to_string());
        let ModelError::Config { field: named, .. } = &error else {
            panic!("{changes}: {error}")
        };
        assert_eq!(named, field, "{changes}: {error}");
        assert!(error.to_string().starts_with("m/config.json: "), "{error}");
    }
}

#[test]
fn absent_keys_of_a_configuration_have_t5_defaults() {
    let text = r#"{"model_type": "t5", "architectures": ["T5WithLMHeadModel"], "vocab_size": 100, "d_model": 16,
        "d_kv": 8, "d_ff": 32, "num_heads": 2, "num_layers": 3, "pad_token_id": 4, "n_positions": 512,
        "task_specific_params": {"translation": {"prefix": "translate "}}}"#;
    let config = t5(ModelConfig::parse(Path::new("config.json"), text.as_bytes()).unwrap());
    assert_eq!(
        (
            config.num_decoder_layers,
            config.relative_attention_num_buckets
        ),
        (3, 32)
    );
    assert_eq!(
        (
            config.relative_attention_max_distance,
            config.layer_norm_epsilon
        ),
        (128, 1e-6)
    );
    assert!(config.tie_word_embeddings && config.scales_logits());
    assert_eq!((config.eos_token_id, config.decoder_start_token_id), (1, 4));
}

#[test]
fn logits_are_scaled_as_the_file_says_and_else_iff_the_head_is_tied() {
    let table = [
        (None, true, true),
        (None, false, false),
        (Some(true), false, true),
        (Some(false), true, false),
    ];
    for (scale, tied, scaled) in table {
        let config = t5(parse_with(
            json!({"scale_decoder_outputs": scale, "tie_word_embeddings": tied}),
        )
        .unwrap());
        assert_eq!(config.scales_logits(), scaled, "{scale:?} {tied}");
    }
}

#[test]
fn broken_json_is_an_error_with_its_place() {
    let deep = "[".repeat(100_000);
    let texts = [
        "",
        "{",
        "[]",
        "{\"a\": 1, \"a\": 2}",
        "{\"a\": NaN}",
        "\u{feff}{}",
        "{\"a\": \"\\ud800\"}",
        &deep,
    ];
    for text in texts {
        let error = ModelConfig::parse(Path::new("config.json"), text.as_bytes()).unwrap_err();
        assert!(
            matches!(&error, ModelError::Malformed { problem, .. } if problem.contains("line 1")),
            "{error}"
        );
    }
    let invalid = ModelConfig::parse(Path::new("config.json"), b"{\"a\": \"\xff\"}").unwrap_err();
    assert!(matches!(invalid, ModelError::Malformed { .. }));
}

#[test]
fn every_tensor_that_does_not_fit_is_listed_at_once() {
    let config = tiny_config(false);
    let mut weights = random_weights(&tiny(false), 1);
    weights.take("shared.weight").unwrap();
    weights.take("encoder.final_layer_norm.weight").unwrap();
    weights.insert(
        "encoder.block.0.layer.0.SelfAttention.q.weight",
        vec![8, 4],
        vec![0.0; 32],
    );
    weights.insert(
        "encoder.block.7.layer.0.SelfAttention.q.weight",
        vec![1],
        vec![0.0],
    );
    let error = weights
        .expect(&t5_tensors(&config), &t5_optional_tensors(&config))
        .unwrap_err();
    let text = error.to_string();
    for line in [
        "4 tensors do not fit the model",
        "missing shared.weight [24, 8]",
        "missing encoder.final_layer_norm.weight [8]",
        "encoder.block.0.layer.0.SelfAttention.q.weight has shape [8, 4], expected [8, 8]",
        "unexpected encoder.block.7.layer.0.SelfAttention.q.weight",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    let dir = tempfile::tempdir().unwrap();
    let refused =
        write_model(&dir.path().join("m"), &tiny(false), &weights, Dtype::F32).unwrap_err();
    assert!(matches!(refused, ModelError::Tensors { .. }));
    assert!(!dir.path().join("m").exists());
}

#[test]
fn old_checkpoints_with_copies_and_remnants_are_accepted() {
    let config = tiny_config(false);
    let mut weights = random_weights(&tiny(false), 1);
    let shared = weights.get("shared.weight").unwrap();
    for name in [
        "encoder.embed_tokens.weight",
        "decoder.embed_tokens.weight",
        "lm_head.weight",
    ] {
        weights.insert(name, vec![24, 8], shared.clone());
    }
    let remnant = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight";
    weights.insert(remnant, vec![8, 2], vec![0.0; 16]);
    weights
        .expect(&t5_tensors(&config), &t5_optional_tensors(&config))
        .unwrap();
}

#[test]
fn half_precision_is_widened_exactly_and_integers_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let mut bytes = Vec::new();
    let header = r#"{"b":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]},"h":{"dtype":"F16","shape":[2],"data_offsets":[4,8]},"i":{"dtype":"I64","shape":[1],"data_offsets":[8,16]},"n":{"dtype":"F32","shape":[1],"data_offsets":[16,20]}}"#;
    bytes.extend((header.len() as u64).to_le_bytes());
    bytes.extend(header.as_bytes());
    for value in [1.5, -2.0] {
        bytes.extend(bf16::from_f32(value).to_le_bytes());
    }
    for value in [0.25, 65504.0] {
        bytes.extend(f16::from_f32(value).to_le_bytes());
    }
    bytes.extend(7i64.to_le_bytes());
    bytes.extend(f32::NAN.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    let mut weights = Weights::read(dir.path()).unwrap();
    assert_eq!(weights.take("b").unwrap(), [1.5, -2.0]);
    assert_eq!(weights.get("h").unwrap(), [0.25, 65504.0]);
    assert!(
        weights
            .get("i")
            .unwrap_err()
            .to_string()
            .contains("i has dtype I64, expected F32, F16 or BF16")
    );
    let expected =
        ["h", "i", "n"].map(|name| (name.to_owned(), weights.shape(name).unwrap().to_vec()));
    assert!(
        weights
            .expect(&expected, &[])
            .unwrap_err()
            .to_string()
            .contains("i has dtype I64")
    );
    assert_eq!(
        weights.get("n").unwrap_err().to_string(),
        "n: value 0 is NaN"
    );
    assert!(
        weights
            .get("b")
            .unwrap_err()
            .to_string()
            .contains("has no tensor \"b\"")
    );
}

fn shard(dir: &Path, file: &str, tensor: &str) {
    let header = format!(r#"{{"{tensor}":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}}}"#);
    write_raw(&dir.join(file), &header, 4);
}

#[test]
fn shards_are_read_through_their_index() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    shard(dir, "model-1.safetensors", "a");
    shard(dir, "model-2.safetensors", "b");
    let index = |map: Value| {
        let text = json!({"metadata": {"total_size": 8}, "weight_map": map}).to_string();
        std::fs::write(dir.join("model.safetensors.index.json"), text).unwrap();
        Weights::read(dir)
    };
    let weights = index(json!({"a": "model-1.safetensors", "b": "model-2.safetensors"})).unwrap();
    assert_eq!(weights.names().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(weights.get("b").unwrap(), [0.0]);
    let names = [
        "config.json",
        "model.safetensors.index.json",
        "model-1.safetensors",
        "model-2.safetensors",
    ];
    assert_eq!(model_files(dir).unwrap(), names.map(|name| dir.join(name)));

    for (map, problem) in [
        (
            json!({"a": "model-1.safetensors", "c": "model-2.safetensors"}),
            "\"b\" is stored in model-2",
        ),
        (
            json!({"a": "model-1.safetensors", "c": "model-1.safetensors"}),
            "\"c\" is not in model-1.safetensors",
        ),
        (
            json!({"a": "../model-1.safetensors"}),
            "is not the name of a safetensors file",
        ),
        (
            json!({"a": "/etc/passwd"}),
            "is not the name of a safetensors file",
        ),
        (json!({"a": 3}), "expected names of files"),
    ] {
        let error = index(map).unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
    }
    let absent = index(json!({"a": "model-9.safetensors"})).unwrap_err();
    assert!(
        matches!(&absent, ModelError::Io { path, .. } if path.ends_with("model-9.safetensors")),
        "{absent}"
    );
}

#[test]
fn a_directory_without_weights_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = Weights::read(dir.path()).unwrap_err().to_string();
    assert!(error.contains("model.safetensors"), "{error}");
    let error = ModelConfig::read(dir.path()).unwrap_err().to_string();
    assert!(error.contains("config.json"), "{error}");
}

#[test]
fn random_weights_have_the_deviations_of_transformers_and_depend_on_seed_and_name_alone() {
    let mut config = tiny_config(true);
    (
        config.d_model,
        config.d_kv,
        config.num_heads,
        config.d_ff,
        config.vocab_size,
    ) = (64, 16, 8, 256, 500);
    let weights = random_weights(&ModelConfig::T5(config.clone()), 3);
    weights.expect(&t5_tensors(&config), &[]).unwrap();
    let block = "decoder.block.1.layer";
    for (name, expected) in [
        ("shared".to_owned(), 1.0),
        ("lm_head".to_owned(), 1.0),
        (format!("{block}.0.SelfAttention.q"), 1.0 / 32.0),
        (format!("{block}.0.SelfAttention.k"), 1.0 / 8.0),
        (format!("{block}.1.EncDecAttention.v"), 1.0 / 8.0),
        (format!("{block}.1.EncDecAttention.o"), 1.0 / 128f64.sqrt()),
        (format!("{block}.2.DenseReluDense.wi_1"), 1.0 / 8.0),
        (format!("{block}.2.DenseReluDense.wo"), 1.0 / 16.0),
    ] {
        let values = weights.get(&format!("{name}.weight")).unwrap();
        let n = values.len() as f64;
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let std = (values
            .iter()
            .map(|&v| (f64::from(v) - mean).powi(2))
            .sum::<f64>()
            / n)
            .sqrt();
        assert!(
            (std / expected - 1.0).abs() < 0.05,
            "{name}: {std}, expected {expected}"
        );
        assert!(
            mean.abs() < 5.0 * expected / n.sqrt(),
            "{name}: mean {mean}"
        );
    }
    assert!(
        weights
            .get("encoder.final_layer_norm.weight")
            .unwrap()
            .iter()
            .all(|&gain| gain == 1.0)
    );

    let again = random_weights(&ModelConfig::T5(config.clone()), 3);
    assert!(
        weights
            .names()
            .all(|name| weights.get(name).unwrap() == again.get(name).unwrap())
    );
    config.num_layers += 1;
    let deeper = random_weights(&ModelConfig::T5(config.clone()), 3);
    assert!(
        weights
            .names()
            .all(|name| weights.get(name).unwrap() == deeper.get(name).unwrap())
    );
    let other = random_weights(&ModelConfig::T5(config), 4);
    assert_ne!(
        weights.get("shared.weight").unwrap(),
        other.get("shared.weight").unwrap()
    );
}
