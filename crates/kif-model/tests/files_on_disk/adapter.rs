//! Adapters: what is refused, by which name, and what a failed write leaves behind.

use std::collections::BTreeMap;

use kif_model::{Adapter, LoraConfig, ModelError, ParamLayout, Tensor, Weights, merge};
use serde_json::{Value, json};

use crate::{golden, layout_of, read_json};

/// Reads the golden adapter with some keys of its configuration changed; a key of `remove` is taken
/// away.
fn read_with(changes: &Value, remove: &str) -> Result<Adapter, ModelError> {
    let (from, to) = (golden("tiny-t5/adapter"), tempfile::tempdir().unwrap());
    let mut config = read_json(&from.join("adapter_config.json"));
    config.as_object_mut().unwrap().remove(remove);
    config
        .as_object_mut()
        .unwrap()
        .extend(changes.as_object().unwrap().clone());
    std::fs::write(to.path().join("adapter_config.json"), config.to_string()).unwrap();
    std::fs::copy(
        from.join("adapter_model.safetensors"),
        to.path().join("adapter_model.safetensors"),
    )
    .unwrap();
    Adapter::read(to.path())
}

#[test]
fn options_that_are_set_and_not_implemented_are_refused_by_name() {
    let refused = [
        json!({"use_dora": true}),
        json!({"use_rslora": true}),
        json!({"use_qalora": true}),
        json!({"use_bdlora": {"nblocks": 2}}),
        json!({"lora_bias": true}),
        json!({"fan_in_fan_out": true}),
        json!({"rank_pattern": {"q": 4}}),
        json!({"alpha_pattern": {"q": 4}}),
        json!({"modules_to_save": ["lm_head"]}),
        json!({"layers_to_transform": [0]}),
        json!({"layers_to_transform": 1}),
        json!({"layer_replication": [[0, 2]]}),
        json!({"exclude_modules": ["k"]}),
        json!({"target_parameters": ["experts.down"]}),
        json!({"trainable_token_indices": [5]}),
        json!({"eva_config": {"rho": 2.0}}),
        json!({"corda_config": {"x": 1}}),
        json!({"loftq_config": {"loftq_bits": 4}}),
        json!({"alora_invocation_tokens": [1, 2]}),
        json!({"arrow_config": {"top_k": 2}}),
        json!({"megatron_config": {"x": 1}}),
        json!({"kasa_config": {"x": 1}}),
        json!({"ensure_weight_tying": true}),
        json!({"an_option_of_tomorrow": "on"}),
        json!({"bias": "all"}),
        json!({"bias": "lora_only"}),
        json!({"peft_type": "LOHA"}),
        json!({"init_lora_weights": "pissa"}),
        json!({"init_lora_weights": "pissa_niter_4"}),
        json!({"init_lora_weights": "olora"}),
        json!({"init_lora_weights": "loftq"}),
        json!({"target_modules": "all-linear"}),
        json!({"target_modules": ".*\\.q$"}),
        json!({"target_modules": ["q", "c_attn"]}),
        json!({"target_modules": ["q", "q"]}),
        json!({"target_modules": ["q", 3]}),
        json!({"target_modules": []}),
        json!({"r": 0}),
        json!({"r": -8}),
        json!({"r": 8.5}),
        json!({"r": 257}),
        json!({"r": "8"}),
        json!({"lora_alpha": 0}),
        json!({"lora_alpha": -32}),
        json!({"lora_alpha": 1e300}),
        json!({"lora_alpha": [32]}),
        json!({"lora_dropout": 1.0}),
        json!({"lora_dropout": -0.1}),
    ];
    for changes in refused {
        let (expected, _) = changes.as_object().unwrap().iter().next().unwrap();
        let error = read_with(&changes, "").expect_err(&changes.to_string());
        let ModelError::Adapter { file, key, .. } = &error else {
            panic!("{changes}: {error}")
        };
        assert_eq!(key, expected, "{changes}: {error}");
        assert!(file.ends_with("adapter_config.json"));
    }
    for key in ["r", "lora_alpha", "target_modules", "peft_type"] {
        let error = read_with(&json!({}), key).unwrap_err().to_string();
        assert!(error.contains(&format!("{key}: is missing")), "{error}");
    }
}

#[test]
fn options_that_are_unset_or_say_nothing_about_the_numbers_are_passed_over() {
    let accepted = [
        json!({"an_option_of_tomorrow": null}),
        json!({"an_option_of_tomorrow": false}),
        json!({"an_option_of_tomorrow": []}),
        json!({"an_option_of_tomorrow": {}}),
        json!({"an_option_of_tomorrow": ""}),
        json!({"an_option_of_tomorrow": 0}),
        json!({"inference_mode": false}),
        json!({"init_lora_weights": "gaussian"}),
        json!({"init_lora_weights": false}),
        json!({"revision": "main"}),
        json!({"task_type": "FEATURE_EXTRACTION"}),
        json!({"auto_mapping": {"base_model_class": "T5"}}),
        json!({"peft_version": "99.0"}),
        json!({"lora_alpha": 32.0}),
    ];
    for changes in accepted {
        read_with(&changes, "").unwrap_or_else(|e| panic!("{changes}: {e}"));
    }
    assert_eq!(
        read_with(&json!({}), "lora_dropout")
            .unwrap()
            .config
            .dropout,
        0.0
    );
    let named = read_with(
        &json!({"base_model_name_or_path": "google/t5-v1_1-small"}),
        "",
    )
    .unwrap();
    assert_eq!(named.base_model.as_deref(), Some("google/t5-v1_1-small"));
}

#[test]
fn a_configuration_above_a_mebibyte_or_with_a_key_twice_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("adapter_config.json");
    std::fs::write(&path, " ".repeat((1 << 20) + 1)).unwrap();
    assert!(
        Adapter::read(dir.path())
            .unwrap_err()
            .to_string()
            .contains("limit of 1048576 bytes")
    );
    std::fs::write(&path, r#"{"r": 8, "r": 16}"#).unwrap();
    assert!(
        Adapter::read(dir.path())
            .unwrap_err()
            .to_string()
            .contains("\"r\" stands twice")
    );
}

#[test]
fn missing_and_unexpected_keys_and_other_shapes_are_all_named() {
    let adapter = Adapter::read(&golden("tiny-t5/adapter")).unwrap();
    let mut layout = ParamLayout::default();
    for (name, tensor) in adapter.tensors.iter().skip(1) {
        let shape = if name.contains("encoder.block.1.layer.0.SelfAttention.v.lora_B") {
            vec![8, 64]
        } else {
            tensor.shape.clone()
        };
        layout.push(name.clone(), shape);
    }
    layout.push(
        "base_model.model.decoder.block.9.layer.0.SelfAttention.q.lora_A.weight".to_owned(),
        vec![8, 64],
    );
    let text = adapter.into_params(&layout).unwrap_err().to_string();
    for line in [
        "adapter_model.safetensors: 3 tensors do not fit the model",
        "missing base_model.model.decoder.block.9.layer.0.SelfAttention.q.lora_A.weight [8, 64]",
        "unexpected base_model.model.decoder.block.0.layer.0.SelfAttention.q.lora_A.weight",
        "encoder.block.1.layer.0.SelfAttention.v.lora_B.weight has shape [64, 8], expected [8, 64]",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[test]
fn an_adapter_is_not_written_from_wrong_counts_bad_settings_or_non_finite_values() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("out");
    let adapter = Adapter::read(&golden("tiny-t5/adapter")).unwrap();
    let (config, layout) = (adapter.config.clone(), layout_of(&adapter));
    let mut params = adapter.into_params(&layout).unwrap();
    let short = Adapter::write(&at, &config, &layout, &params[1..], "").unwrap_err();
    assert!(matches!(short, ModelError::ParamCount { expected, got } if got + 1 == expected));
    let bad = LoraConfig {
        alpha: f32::NAN,
        ..config.clone()
    };
    assert!(
        Adapter::write(&at, &bad, &layout, &params, "")
            .unwrap_err()
            .to_string()
            .starts_with("LoRA alpha")
    );
    params[600] = f32::INFINITY;
    let error = Adapter::write(&at, &config, &layout, &params, "")
        .unwrap_err()
        .to_string();
    assert!(
        error.ends_with("layer.0.SelfAttention.q.lora_B.weight: value 88 is inf"),
        "{error}"
    );
    assert!(!at.exists());
}

#[test]
fn settings_outside_their_bounds_are_refused_by_field() {
    let sound = LoraConfig::default();
    sound.validate().unwrap();
    for (field, config) in [
        (
            "rank",
            LoraConfig {
                rank: 0,
                ..sound.clone()
            },
        ),
        (
            "rank",
            LoraConfig {
                rank: 257,
                ..sound.clone()
            },
        ),
        (
            "alpha",
            LoraConfig {
                alpha: 0.0,
                ..sound.clone()
            },
        ),
        (
            "dropout",
            LoraConfig {
                dropout: 1.0,
                ..sound.clone()
            },
        ),
        (
            "dropout",
            LoraConfig {
                dropout: f32::NAN,
                ..sound.clone()
            },
        ),
        (
            "targets",
            LoraConfig {
                targets: vec![],
                ..sound.clone()
            },
        ),
    ] {
        let error = config.validate().unwrap_err();
        assert!(
            matches!(error, ModelError::Lora { field: named, .. } if named == field),
            "{error}"
        );
    }
    let unknown = LoraConfig {
        targets: vec!["c_attn".to_owned()],
        ..sound
    }
    .validate()
    .unwrap_err()
    .to_string();
    assert_eq!(
        unknown,
        "unknown LoRA target \"c_attn\", known targets are q, k, v, o, wi, wi_0, wi_1, wo, q_proj, k_proj, v_proj, \
         o_proj, gate_proj, up_proj, down_proj"
    );
}

#[test]
fn an_adapter_that_does_not_fit_is_not_merged_at_all() {
    let mut weights = Weights::new();
    weights.insert("a.q.weight", vec![3, 2], vec![0.0; 6]);
    weights.insert("b.q.weight", vec![3, 2], vec![0.0; 6]);
    let config = LoraConfig {
        rank: 1,
        alpha: 2.0,
        dropout: 0.0,
        targets: vec!["q".to_owned()],
    };
    let tensor = |shape: [usize; 2]| Tensor {
        shape: shape.to_vec(),
        values: vec![1.0; shape[0] * shape[1]],
    };
    let name = |module: &str, side: char| format!("base_model.model.{module}.q.lora_{side}.weight");
    let sound = BTreeMap::from([
        (name("a", 'A'), tensor([1, 2])),
        (name("a", 'B'), tensor([3, 1])),
    ]);
    let mut broken = sound.clone();
    broken.insert(name("b", 'B'), tensor([2, 1]));
    broken.insert(name("c", 'A'), tensor([1, 2]));
    let text = merge(&mut weights, &Adapter::new(config.clone(), broken))
        .unwrap_err()
        .to_string();
    for line in [
        "3 tensors do not fit",
        "base_model.model.b.q.lora_B.weight has shape [2, 1], expected [3, 1]",
        "missing base_model.model.b.q.lora_A.weight [1, 2]",
        "unexpected base_model.model.c.q.lora_A.weight",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    assert_eq!(weights.get("a.q.weight").unwrap(), [0.0; 6]);
    merge(&mut weights, &Adapter::new(config, sound)).unwrap();
    assert_eq!(weights.get("a.q.weight").unwrap(), [2.0; 6]);
    assert_eq!(weights.get("b.q.weight").unwrap(), [0.0; 6]);
}
