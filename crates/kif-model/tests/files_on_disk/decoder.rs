//! Decoder-only models: what is read, what is refused by name, and files that transformers and peft
//! wrote.

use std::path::Path;

use kif_model::{
    Adapter, DecoderConfig, Dtype, Family, Llama3Scaling, LoraConfig, ModelConfig, ModelError,
    ModelOptions, Rope, Trainable, Weights, Window, load, model_files, write_model,
};
use serde_json::{Value, json};

use crate::{decoders, golden, layout_of, read_json};

fn decoder(config: ModelConfig) -> DecoderConfig {
    match config {
        ModelConfig::Decoder(config) => config,
        other => panic!("{other:?} is no decoder-only model"),
    }
}

/// The golden `config.json` with some keys changed.
fn parse_with(name: &str, changes: Value) -> Result<DecoderConfig, ModelError> {
    let mut fields = read_json(&golden(name).join("config.json"));
    let changes = changes.as_object().unwrap().clone();
    fields.as_object_mut().unwrap().extend(changes);
    ModelConfig::parse(Path::new("m/config.json"), fields.to_string().as_bytes()).map(decoder)
}

#[test]
fn configurations_say_what_transformers_meant() {
    let read = |name| decoder(ModelConfig::read(&golden(name)).unwrap());
    let llama = read("tiny-llama");
    let heads = (
        llama.num_attention_heads,
        llama.num_key_value_heads,
        llama.head_dim,
    );
    assert_eq!((llama.family, heads), (Family::Llama, (4, 2, 16)));
    assert!(!llama.tie_word_embeddings);
    assert_eq!((llama.rope.theta, llama.rope.scaling), (10_000.0, None));
    let llama3 = read("tiny-llama3");
    let scaling = Llama3Scaling {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 32,
    };
    assert_eq!(
        (llama3.rope.theta, llama3.rope.scaling),
        (500_000.0, Some(scaling))
    );
    let qwen3 = read("tiny-qwen3");
    assert_eq!((qwen3.family, qwen3.head_dim), (Family::Qwen3, 32));
    assert!(qwen3.tie_word_embeddings);
    let qwen2 = read("tiny-qwen2");
    let heads = (qwen2.num_attention_heads, qwen2.num_key_value_heads);
    assert_eq!((qwen2.family, heads), (Family::Qwen2, (4, 1)));
    assert_eq!((qwen2.rope.theta, qwen2.head_dim), (1e6, 16));
    let mistral = read("tiny-mistral");
    assert_eq!((mistral.family, mistral.head_dim), (Family::Mistral, 24));
    let gemma = read("tiny-gemma3");
    assert_eq!((gemma.family, gemma.rope.theta), (Family::Gemma3, 1e6));
    assert_eq!(gemma.query_pre_attn_scalar, Some(40));
}

#[test]
fn windows_are_read_as_older_and_newer_files_have_them() {
    let window = |name, changes| parse_with(name, changes).unwrap().window;
    let of = |length, rope_theta, layers: [bool; 3]| {
        let layers = layers.to_vec();
        Some(Window {
            length,
            rope_theta,
            layers,
        })
    };
    let mistral = |changes| window("tiny-mistral", changes);
    assert_eq!(mistral(json!({})), of(8, None, [true; 3]));
    assert_eq!(mistral(json!({"sliding_window": null})), None);
    let mut fields = read_json(&golden("tiny-mistral").join("config.json"));
    fields.as_object_mut().unwrap().remove("sliding_window");
    let text = fields.to_string();
    let silent = ModelConfig::parse(Path::new("m/config.json"), text.as_bytes()).unwrap();
    assert_eq!(decoder(silent).window, of(4096, None, [true; 3]));

    let gemma = |changes| window("tiny-gemma3", changes);
    let newer = of(8, Some(1e4), [true, false, true]);
    assert_eq!(gemma(json!({})), newer);
    let older = json!({"rope_parameters": null, "rope_theta": 1e6, "rope_local_base_freq": 5e3, "layer_types": null,
        "sliding_window_pattern": 2, "_sliding_window_pattern": null});
    assert_eq!(gemma(older), of(8, Some(5e3), [true, false, true]));
    let everything = json!({"layer_types": ["full_attention", "full_attention", "full_attention"]});
    assert_eq!(gemma(everything), None);
}

#[test]
fn both_spellings_of_the_rope_settings_say_the_same() {
    let scaling = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32});
    let old = json!({"rope_parameters": null, "rope_theta": 500000.0, "rope_scaling": scaling});
    let new = parse_with("tiny-llama3", json!({})).unwrap();
    assert_eq!(parse_with("tiny-llama3", old).unwrap(), new);
    let both = json!({"rope_theta": 500000.0, "rope_scaling": scaling});
    assert_eq!(parse_with("tiny-llama3", both).unwrap(), new);
    let plain = json!({"rope_parameters": null, "rope_theta": 1e6, "rope_scaling": null});
    let expected = Rope {
        theta: 1e6,
        scaling: None,
    };
    assert_eq!(parse_with("tiny-llama3", plain).unwrap().rope, expected);
    let absent = parse_with("tiny-llama", json!({"rope_parameters": null})).unwrap();
    assert_eq!(absent.rope.theta, 10_000.0);
}

#[test]
fn what_is_not_implemented_is_refused_by_name() {
    let rope = |kind: &str| json!({"rope_parameters": {"rope_type": kind, "rope_theta": 1e4, "factor": 2.0}});
    let refused = [
        ("model_type", json!({"model_type": "gpt2"})),
        (
            "architectures",
            json!({"architectures": ["LlamaForSequenceClassification"]}),
        ),
        (
            "quantization_config",
            json!({"quantization_config": {"load_in_8bit": true}}),
        ),
        ("hidden_act", json!({"hidden_act": "gelu"})),
        ("attention_bias", json!({"attention_bias": true})),
        ("mlp_bias", json!({"mlp_bias": true})),
        ("use_sliding_window", json!({"use_sliding_window": true})),
        ("sliding_window", json!({"sliding_window": 4096})),
        (
            "layer_types",
            json!({"layer_types": ["full_attention", "sliding_attention"]}),
        ),
        (
            "partial_rotary_factor",
            json!({"partial_rotary_factor": 0.5}),
        ),
        (
            "rope_theta",
            json!({"rope_theta": 5e5, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}),
        ),
        ("rope_parameters.rope_type", rope("yarn")),
        ("rope_parameters.rope_type", rope("linear")),
        ("rope_parameters.low_freq_factor", rope("llama3")),
        (
            "rope_parameters.beta_fast",
            json!({"rope_parameters": {"rope_type": "default", "beta_fast": 32}}),
        ),
        (
            "rope_scaling",
            json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}}),
        ),
        (
            "rope_scaling",
            json!({"rope_scaling": {"type": "default", "rope_theta": 7.0}}),
        ),
        ("head_dim", json!({"head_dim": 15})),
        ("num_key_value_heads", json!({"num_key_value_heads": 3})),
        ("hidden_size", json!({"hidden_size": 0})),
        ("eos_token_id", json!({"eos_token_id": 512})),
        ("eos_token_id", json!({"eos_token_id": []})),
        ("rms_norm_eps", json!({"rms_norm_eps": 0})),
    ];
    for (field, changes) in refused {
        let error = parse_with("tiny-llama", changes.clone()).expect_err(&changes.to_string());
        let ModelError::Config { field: named, .. } = &error else {
            panic!("{changes}: {error}")
        };
        assert!(named.starts_with(field), "{changes}: {error}");
    }
    // A window that is written down and not used is none.
    let qwen = json!({"sliding_window": 4096, "use_sliding_window": false});
    parse_with("tiny-qwen3", qwen).unwrap();
}

#[test]
fn what_is_not_implemented_of_gemma_3_is_refused_by_name() {
    let of_gemma = [
        (
            "attn_logit_softcapping",
            json!({"attn_logit_softcapping": 50.0}),
        ),
        (
            "final_logit_softcapping",
            json!({"final_logit_softcapping": 30.0}),
        ),
        ("hidden_activation", json!({"hidden_activation": "gelu"})),
        (
            "use_bidirectional_attention",
            json!({"use_bidirectional_attention": true}),
        ),
        ("layer_types", json!({"layer_types": ["chunked_attention"]})),
        ("layer_types", json!({"layer_types": ["sliding_attention"]})),
        ("sliding_window", json!({"sliding_window": 0})),
        (
            "sliding_window_pattern",
            json!({"layer_types": null, "_sliding_window_pattern": 0}),
        ),
        ("query_pre_attn_scalar", json!({"query_pre_attn_scalar": 0})),
        ("rope_local_base_freq", json!({"rope_local_base_freq": 7.0})),
        (
            "rope_parameters.full_attention.rope_type",
            json!({"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0}}}),
        ),
    ];
    for (field, changes) in of_gemma {
        let error = parse_with("tiny-gemma3", changes.clone()).expect_err(&changes.to_string());
        let ModelError::Config { field: named, .. } = &error else {
            panic!("{changes}: {error}")
        };
        assert_eq!(named, field, "{changes}: {error}");
    }
}

#[test]
fn texts_end_where_the_generation_settings_say() {
    let ends = |generation: Option<Value>| {
        let dir = tempfile::tempdir().unwrap();
        std::fs::copy(
            golden("tiny-llama").join("config.json"),
            dir.path().join("config.json"),
        )
        .unwrap();
        if let Some(generation) = generation {
            let path = dir.path().join("generation_config.json");
            std::fs::write(path, generation.to_string()).unwrap();
        }
        ModelConfig::read(dir.path()).map(|config| config.end_ids().to_vec())
    };
    assert_eq!(ends(None).unwrap(), [1]);
    assert_eq!(ends(Some(json!({"eos_token_id": [7, 9]}))).unwrap(), [7, 9]);
    assert_eq!(ends(Some(json!({"temperature": 0.6}))).unwrap(), [1]);
    let error = ends(Some(json!({"eos_token_id": 9999})))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("generation_config.json: eos_token_id"),
        "{error}"
    );
}

#[test]
fn a_base_that_is_read_and_written_has_the_same_bytes_and_settings() {
    for name in decoders() {
        let (from, to) = (golden(name), tempfile::tempdir().unwrap());
        let config = ModelConfig::read(&from).unwrap();
        write_model(
            to.path(),
            &config,
            &Weights::read(&from).unwrap(),
            Dtype::F32,
        )
        .unwrap();
        let bytes = |dir: &Path| std::fs::read(dir.join("model.safetensors")).unwrap();
        assert!(bytes(&from) == bytes(to.path()), "{name}");
        assert_eq!(ModelConfig::read(to.path()).unwrap(), config);
        let (theirs, ours) = (from.join("config.json"), to.path().join("config.json"));
        let (theirs, ours) = (read_json(&theirs), read_json(&ours));
        for (key, value) in theirs.as_object().unwrap() {
            if let Some(ours) = ours.get(key) {
                assert_eq!(ours, value, "{name}: {key}");
            }
        }
    }
}

#[test]
fn an_adapter_that_is_read_and_written_has_the_same_tensor_bytes() {
    for name in decoders() {
        let (from, to) = (golden(name).join("adapter"), tempfile::tempdir().unwrap());
        let adapter = Adapter::read(&from).unwrap();
        assert_eq!(adapter.config.targets, ["q_proj", "v_proj"]);
        let (config, layout) = (adapter.config.clone(), layout_of(&adapter));
        let params = adapter.into_params(&layout).unwrap();
        Adapter::write(to.path(), &config, &layout, &params, "").unwrap();
        let bytes = |dir: &Path| std::fs::read(dir.join("adapter_model.safetensors")).unwrap();
        assert!(bytes(&from) == bytes(to.path()), "{name}");
        let ours = read_json(&to.path().join("adapter_config.json"));
        assert_eq!(ours["task_type"], "CAUSAL_LM");
    }
}

#[test]
fn an_adapter_of_a_t5_is_refused_by_the_names_that_differ() {
    let dir = golden("tiny-llama");
    let adapter = Adapter::read(&golden("tiny-t5/adapter")).unwrap();
    let config = ModelConfig::read(&dir).unwrap();
    let lora = config.own_targets(adapter.config.clone());
    assert_eq!(lora.targets, ["q_proj", "v_proj"]);
    let model = load(&dir, &ModelOptions::cpu(Trainable::Adapter(lora))).unwrap();
    let error = adapter.into_params(model.layout()).unwrap_err().to_string();
    for part in [
        "missing base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight [8, 64]",
        "unexpected base_model.model.decoder.block.0.layer.0.SelfAttention.q.lora_A.weight",
    ] {
        assert!(error.contains(part), "{error}");
    }
    // Asked for by their own names, the modules are not there.
    let options = ModelOptions::cpu(Trainable::Adapter(LoraConfig::default()));
    let error = load(&dir, &options).err().expect("refused").to_string();
    assert!(error.starts_with("unknown LoRA target \"q\""), "{error}");
}

#[test]
fn a_stored_head_that_contradicts_a_tied_one_is_refused_and_a_copy_is_not() {
    let dir = golden("tiny-llama3");
    let config = ModelConfig::read(&dir).unwrap();
    let mut weights = Weights::read(&dir).unwrap();
    let mut head = weights.get("model.embed_tokens.weight").unwrap();
    let shape = vec![config.vocab_size(), head.len() / config.vocab_size()];
    let options = ModelOptions::cpu(Trainable::All);
    weights.insert("lm_head.weight", shape.clone(), head.clone());
    kif_model::from_parts(&config, weights.clone(), &options).unwrap();
    head[3] += 1.0;
    weights.insert("lm_head.weight", shape, head);
    let error = kif_model::from_parts(&config, weights, &options)
        .err()
        .expect("refused");
    assert!(error.to_string().contains("tie_word_embeddings"), "{error}");
}

#[test]
fn the_end_tokens_are_among_the_files_of_a_model() {
    let names = [
        "config.json",
        "model.safetensors",
        "generation_config.json",
        "tokenizer.json",
    ];
    let dir = golden("tiny-llama");
    assert_eq!(model_files(&dir).unwrap(), names.map(|name| dir.join(name)));
}
