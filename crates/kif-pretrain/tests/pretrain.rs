//! Pretraining as a whole: stopped and resumed, refused, and read back.

use std::path::{Path, PathBuf};

use kif_data::{DataError, Tokenizer};
use kif_io::failure::BadInput;
use kif_io::progress::Progress;
use kif_io::signal::{StopFlag, Stopped};
use kif_methods::SettingError;
use kif_model::{LoraConfig, ModelConfig, ModelOptions, Trainable};
use kif_pretrain::config::{Sizes, Start, TokenizerSource};
use kif_pretrain::export::Record;
use kif_pretrain::{Inputs, PretrainConfig, run};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

/// A model of every kind, with its tokenizer.
const MODELS: [&str; 4] = [
    "model: (d_model: 16, d_ff: 32, d_kv: 8, n_heads: 2, n_layers: 1, n_decoder_layers: 2),
    tokenizer: train(vocab_size: 512, n_sentinels: 8)",
    "model: (architecture: qwen3, d_model: 16, d_ff: 24, d_kv: 8, n_heads: 2, n_layers: 2),
    tokenizer: train(vocab_size: 512)",
    "model: (architecture: llama, d_model: 16, d_ff: 24, d_kv: 4, n_heads: 4, n_kv_heads: 2, n_layers: 2, tied: false),
    tokenizer: train(vocab_size: 512)",
    "model: (architecture: qwen2, d_model: 16, d_ff: 24, d_kv: 8, n_heads: 2, n_layers: 2, rope_theta: 1000),
    tokenizer: train(vocab_size: 512)",
];

/// The rest of a configuration.
const CONFIG: &str = "start: co_occurrence(window: 3),
    batches: (batch_tokens: 120, max_input: 24, max_target: 12, span_share: 0.3),
    optimizer: (lr: 0.05, warmup_steps: 4),
    steps: 14,
    validation_rows: 4,
    validate_every: 5,
    checkpoint_every: 6,
    seed: 3,";

/// A corpus in which the colour of a thing decides the answer, and a configuration for one of
/// [`MODELS`].
fn prepare(folder: &Path, model: &str) -> (Vec<PathBuf>, PretrainConfig) {
    let colours = [
        ("red", "warm"),
        ("blue", "cold"),
        ("orange", "warm"),
        ("green", "cold"),
    ];
    let things = ["hat", "cup", "door", "boat", "lamp"];
    let (mut pairs, mut text) = (String::new(), String::new());
    for (i, (colour, answer)) in colours.iter().cycle().take(80).enumerate() {
        let thing = things[i % things.len()];
        pairs += &format!(
            "{{\"input\": \"how is the {colour} {thing} number {i}?\", \"output\": \"{answer}\"}}\n"
        );
        text += &format!(
            "the {colour} {thing} number {i} is {answer}, and so is every other {colour} {thing}.\n"
        );
    }
    let files = vec![folder.join("pairs.jsonl"), folder.join("text.txt")];
    std::fs::write(&files[0], pairs).unwrap();
    std::fs::write(&files[1], text).unwrap();
    let config = folder.join("pretrain.ron");
    std::fs::write(&config, format!("({model}, {CONFIG})")).unwrap();
    (files, PretrainConfig::load(&config).unwrap())
}

fn pretrain(
    corpus: &[PathBuf],
    out: &Path,
    config: &PretrainConfig,
    stop: &StopFlag,
) -> anyhow::Result<Record> {
    let inputs = Inputs {
        corpus: corpus.to_vec(),
        out: out.to_owned(),
    };
    run(
        &inputs,
        config,
        &ModelOptions::cpu(Trainable::All),
        stop,
        &mut Progress::hidden(),
    )
}

/// The corpus as a shard of token ids, by the tokenizer of a finished base: a T5's appends an end
/// token to every text, a decoder-only model's to none.
fn shard_of(corpus: &[PathBuf], tokenizer: &Path) -> Vec<u8> {
    let tokenizer = Tokenizer::from_file(tokenizer).unwrap();
    let text = |file: &Path| std::fs::read_to_string(file).unwrap();
    let (mut inputs, mut targets, mut passages) = (Vec::new(), Vec::new(), Vec::new());
    for line in text(&corpus[0]).lines() {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        inputs.push(tokenizer.encode(row["input"].as_str().unwrap()).unwrap());
        let target = row["output"].as_str().unwrap();
        targets.push(tokenizer.encode_continuation(target, 1).unwrap());
    }
    for line in text(&corpus[1]).lines() {
        let ids = tokenizer.encode(line).unwrap();
        passages.push(ids.into_iter().filter(|id| *id != 1).collect());
    }
    let bytes = |ids: &[u32]| -> Vec<u8> {
        ids.iter()
            .flat_map(|&id| u16::try_from(id).unwrap().to_le_bytes())
            .collect()
    };
    let mut vectors = Vec::new();
    for (ids, lengths, rows) in [
        ("i", "il", inputs),
        ("o", "ol", targets),
        ("n", "nl", passages),
    ] {
        let row_lengths: Vec<u32> = rows.iter().map(|row| row.len() as u32).collect();
        vectors.push((ids, bytes(&rows.concat())));
        vectors.push((lengths, bytes(&row_lengths)));
    }
    let views = vectors.iter().map(|(name, bytes)| {
        (
            *name,
            TensorView::new(Dtype::U16, vec![bytes.len() / 2], bytes).unwrap(),
        )
    });
    safetensors::serialize(views, None).unwrap()
}

/// Whether the command would end with the exit code of bad input.
fn is_bad_input(error: &anyhow::Error) -> bool {
    let typed =
        |e: &(dyn std::error::Error + 'static)| e.is::<DataError>() || e.is::<SettingError>();
    error.is::<BadInput>() || error.chain().any(typed)
}

#[test]
fn a_shard_of_token_ids_gives_the_bits_of_its_text() {
    for model in MODELS {
        let folder = tempfile::tempdir().unwrap();
        let (corpus, mut config) = prepare(folder.path(), model);
        let of_text = folder.path().join("text");
        pretrain(&corpus, &of_text, &config, &StopFlag::default()).unwrap();
        let shard = folder.path().join("shard.safetensors");
        std::fs::write(&shard, shard_of(&corpus, &of_text.join("tokenizer.json"))).unwrap();

        let of_shard = folder.path().join("of_shard");
        let error = pretrain(
            std::slice::from_ref(&shard),
            &of_shard,
            &config,
            &StopFlag::default(),
        )
        .unwrap_err();
        assert!(
            format!("{error:#}").contains("tokenized already"),
            "{error:#}"
        );
        assert!(is_bad_input(&error));

        config.tokenizer = TokenizerSource::File(of_text.join("tokenizer.json"));
        pretrain(&[shard], &of_shard, &config, &StopFlag::default()).unwrap();
        let weights = |base: &Path| std::fs::read(base.join("model.safetensors")).unwrap();
        assert!(weights(&of_text) == weights(&of_shard), "other weights");
    }
}

#[test]
fn a_run_that_was_stopped_twice_gives_the_same_bits() {
    for model in MODELS {
        let folder = tempfile::tempdir().unwrap();
        let (corpus, config) = prepare(folder.path(), model);
        let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
        pretrain(&corpus, &whole, &config, &StopFlag::default()).unwrap();
        for polls in [4, 5] {
            let error =
                pretrain(&corpus, &parts, &config, &StopFlag::after_polls(polls)).unwrap_err();
            assert!(error.is::<Stopped>());
            assert!(!parts.join("pretrain.json").exists());
        }
        pretrain(&corpus, &parts, &config, &StopFlag::default()).unwrap();
        for name in [
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
        ] {
            assert_eq!(
                std::fs::read(whole.join(name)).unwrap(),
                std::fs::read(parts.join(name)).unwrap(),
                "{name} of {model}"
            );
        }
        assert!(!parts.join("checkpoint.safetensors").exists());
    }
}

#[test]
fn the_result_is_a_model_that_takes_an_adapter() {
    for model in MODELS {
        let folder = tempfile::tempdir().unwrap();
        let (corpus, config) = prepare(folder.path(), model);
        let out = folder.path().join("base");
        pretrain(&corpus, &out, &config, &StopFlag::default()).unwrap();
        let tokenizer = Tokenizer::from_file(&out.join("tokenizer.json")).unwrap();
        let lora = LoraConfig {
            rank: 2,
            alpha: 4.0,
            dropout: 0.0,
            targets: vec!["q".into(), "v".into()],
        };
        let lora = ModelConfig::read(&out).unwrap().own_targets(lora);
        let model = kif_model::load(&out, &ModelOptions::cpu(Trainable::Adapter(lora))).unwrap();
        assert_eq!(model.vocab_size(), tokenizer.vocab_size());
        let prompt = tokenizer.encode("how is the red hat number 3?").unwrap();
        assert_eq!(model.generate(&[&prompt], 4).unwrap().len(), 1);
        // Done is done, and another configuration does not overwrite it.
        let before = std::fs::read(out.join("pretrain.json")).unwrap();
        pretrain(&corpus, &out, &config, &StopFlag::default()).unwrap();
        assert_eq!(std::fs::read(out.join("pretrain.json")).unwrap(), before);
        let error = pretrain(
            &corpus,
            &out,
            &PretrainConfig { seed: 4, ..config },
            &StopFlag::default(),
        )
        .unwrap_err();
        assert!(is_bad_input(&error), "{error:#}");
    }
}

#[test]
fn bad_corpora_are_named() {
    for model in MODELS {
        let folder = tempfile::tempdir().unwrap();
        let (mut corpus, config) = prepare(folder.path(), model);
        std::fs::write(
            &corpus[0],
            "{\"input\": \"a\", \"output\": \"b\"}\n{\"input\": 3, \"output\": \"b\"}\n",
        )
        .unwrap();
        let error = pretrain(
            &corpus,
            &folder.path().join("a"),
            &config,
            &StopFlag::default(),
        )
        .unwrap_err();
        assert!(is_bad_input(&error));
        assert!(format!("{error:#}").contains("pairs.jsonl:2"), "{error:#}");
        corpus[1] = folder.path().join("nonesuch.txt");
        let error = pretrain(
            &corpus,
            &folder.path().join("b"),
            &config,
            &StopFlag::default(),
        )
        .unwrap_err();
        assert!(is_bad_input(&error), "{error:#}");
    }
}

/// From the co-occurrence start and from random weights.
#[test]
fn losses_on_rows_that_training_never_sees_fall() {
    for (model, start) in MODELS.into_iter().flat_map(|model| {
        [Start::Random, Start::CoOccurrence { window: 3 }].map(|start| (model, start))
    }) {
        let folder = tempfile::tempdir().unwrap();
        let (corpus, config) = prepare(folder.path(), model);
        let config = PretrainConfig {
            start,
            steps: 150,
            ..config
        };
        let out = folder.path().join("base");
        let record = pretrain(&corpus, &out, &config, &StopFlag::default()).unwrap();
        let [first, .., last] = &record.validations[..] else {
            panic!("{record:?}")
        };
        for (was, now) in [(first.pairs, last.pairs), (first.spans, last.spans)] {
            let (was, now) = (was.unwrap(), now.unwrap());
            assert!(now < 0.7 * was, "{model} from {start:?}: {was} to {now}");
        }
    }
}

#[test]
fn settings_that_a_model_does_not_have_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |model: &str, said: &str| {
        let path = folder.path().join("p.ron");
        std::fs::write(&path, format!("({model}, {CONFIG})")).unwrap();
        let error = PretrainConfig::load(&path).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("p.ron") && text.contains(said), "{text}");
        assert!(is_bad_input(&error), "{text}");
    };
    let [t5, qwen3, ..] = MODELS;
    let with = |model: &str, more: &str| model.replace("d_ff:", &format!("{more}, d_ff:"));
    refused(
        &with(t5, "n_kv_heads: 1"),
        "n_kv_heads is 1, expected nothing",
    );
    refused(
        &with(t5, "rope_theta: 2.0"),
        "rope_theta is 2, expected nothing",
    );
    refused(
        &with(qwen3, "n_decoder_layers: 1"),
        "n_decoder_layers is 1, expected nothing",
    );
    refused(&with(qwen3, "gated: true"), "gated is true, expected false");
    refused(&qwen3.replace("qwen3", "gpt2"), "gpt2");
    refused(
        &t5.replace(", n_sentinels: 8", ""),
        "n_sentinels is 0, expected a number in 1..=100",
    );
    // What only the whole model can say is said when it is built.
    let (corpus, config) = prepare(folder.path(), qwen3);
    for (sizes, said) in [
        (
            Sizes {
                n_kv_heads: Some(3),
                ..config.model
            },
            "num_key_value_heads",
        ),
        (
            Sizes {
                n_layers: 0,
                ..config.model
            },
            "num_hidden_layers",
        ),
        (
            Sizes {
                d_kv: 7,
                ..config.model
            },
            "head_dim",
        ),
    ] {
        let config = PretrainConfig {
            model: sizes,
            ..config.clone()
        };
        let out = folder.path().join("out");
        let error = pretrain(&corpus, &out, &config, &StopFlag::default()).unwrap_err();
        assert!(format!("{error:#}").contains(said), "{error:#}");
        assert!(is_bad_input(&error), "{error:#}");
    }
}
