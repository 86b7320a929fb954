//! GGUF files: the values of their blocks, models as others have them, tokenizers, and the
//! directories that they become.
//!
//! `KIF_SMOLLM2_GGUF` and `KIF_GEMMA3_GGUF` name the files that `fixtures/golden/smollm2.json` and
//! `gemma3.json` were computed on.

use std::path::{Path, PathBuf};

use kif_data::{Batch, Encoded, Tokenizer};
use kif_model::{
    Dtype, Family, ModelConfig, ModelOptions, Trainable, Weights, import_gguf, load, model_files,
    model_text,
};
use serde_json::Value;

use crate::gguf_file::{GgufFile, TYPES, tiny, with_bytes};
use crate::numbers::Golden;
use crate::{golden, read_json};

fn tokenizer_of(model: &Path) -> Tokenizer {
    let text = model_text(model, "tokenizer.json").unwrap().unwrap();
    Tokenizer::from_bytes(model, &text).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

fn row(value: &Value) -> Encoded {
    Encoded {
        input_ids: ids(&value["input_ids"]),
        target_ids: ids(&value["target_ids"]),
        cut: false,
    }
}

/// A file of `KIF_...`; without it, says that the test is skipped.
fn real(variable: &str) -> Option<PathBuf> {
    use std::io::Write;

    let file = std::env::var_os(variable).map(PathBuf::from);
    if file.is_none() {
        // Past the test harness, which keeps what a passing test prints to itself.
        let text = format!("skipped: {variable} does not name a model.gguf");
        writeln!(std::io::stderr(), "{text}").expect("standard error");
    }
    file
}

#[test]
fn blocks_of_every_type_have_the_bits_that_python_gives_them() {
    let expected = Golden::read(&golden("gguf/blocks.safetensors"));
    let mut weights = Weights::read(&golden("gguf/blocks.gguf")).unwrap();
    let names: Vec<String> = weights.names().map(str::to_owned).collect();
    assert_eq!(names.len(), 29);
    for name in names {
        let (ours, theirs) = (weights.take(&name).unwrap(), expected.f32(&name));
        let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert!(bits(&ours) == bits(&theirs), "{name}");
    }
}

/// The losses and texts of a model that was made from a small file of several types.
fn tells_what_transformers_tells(model: &Path) {
    let golden = read_json(&golden("gguf/tiny.json"));
    let model = load(model, &ModelOptions::cpu(Trainable::All)).unwrap();
    for expected in golden["rows"].as_array().unwrap() {
        let row = row(expected);
        let nll = model.nll_per_row(&Batch::from_rows([&row])).unwrap()[0];
        let theirs = expected["nll"].as_f64().unwrap();
        assert!((nll - theirs).abs() < 1e-4, "{nll} instead of {theirs}");
        let greedy = ids(&expected["greedy"]);
        let written = model.generate(&[&row.input_ids], greedy.len()).unwrap();
        assert_eq!(written[0], greedy);
    }
}

#[test]
fn a_file_and_the_directory_made_of_it_compute_what_transformers_computes() {
    let file = golden("gguf/tiny.gguf");
    tells_what_transformers_tells(&file);
    let folder = tempfile::tempdir().unwrap();
    let imported = import_gguf(&file, folder.path(), Dtype::F32).unwrap();
    tells_what_transformers_tells(folder.path());
    assert_eq!(ModelConfig::read(folder.path()).unwrap(), imported.config);
    assert_eq!(ModelConfig::read(&file).unwrap(), imported.config);
    assert_eq!(imported.n_tokens, 270);
    assert_eq!(imported.dropped_tensors, [""; 0]);
    assert_eq!(imported.dropped_keys, ["general.name"]);
    assert_eq!(imported.stored["Q5_1"], 2);
    for name in imported.texts {
        let text = std::fs::read(folder.path().join(name)).unwrap();
        assert_eq!(Some(text), model_text(&file, name).unwrap(), "{name}");
    }
    assert_eq!(model_text(folder.path(), "spiece.model").unwrap(), None);
    assert_eq!(model_text(&file, "spiece.model").unwrap(), None);
    assert_eq!(model_files(&file).unwrap(), [file]);
}

#[test]
fn a_byte_level_tokenizer_cuts_by_its_pre_tokenizer_and_keeps_added_tokens_whole() {
    let tokenizer = tokenizer_of(&golden("gguf/tiny.gguf"));
    let id = |token: &str| tokenizer.id_of(token).unwrap();
    let [hello, world, space] = ["hello", "Ġworld", "Ġ"].map(id);
    assert_eq!(tokenizer.encode("hello world").unwrap(), [hello, world]);
    // Digits stand by themselves, the space before one as well.
    assert_eq!(
        tokenizer.encode("hello 12").unwrap(),
        [hello, space, id("1"), id("2")]
    );
    let (start, think, end) = (id("<|start|>"), id("<think>"), id("<|end|>"));
    let ids = tokenizer.encode("<|start|><think>hello<|end|>").unwrap();
    assert_eq!(ids, [start, think, hello, end]);
    // Special tokens are left out of a text, those of the user are not.
    assert_eq!(tokenizer.decode(&ids).unwrap(), "<think>hello");
}

#[test]
fn a_sentence_piece_tokenizer_merges_by_score_and_falls_back_to_bytes() {
    let bytes: Vec<String> = (0..256).map(|byte| format!("<0x{byte:02X}>")).collect();
    let pieces = [
        "<unk>", "<s>", "</s>", "▁", "a", "b", "c", "ab", "bc", "▁a", "abc", "  ",
    ];
    let tokens: Vec<&str> = pieces
        .into_iter()
        .chain(bytes.iter().map(String::as_str))
        .collect();
    let mut scores = vec![0.0; tokens.len()];
    // "bc" before "ab".
    for (token, score) in [("ab", -3.0), ("bc", -2.0), ("▁a", -4.0), ("abc", -2.5)] {
        scores[tokens.iter().position(|t| *t == token).unwrap()] = score;
    }
    let mut types = vec![1; pieces.len()];
    (types[0], types[1], types[2], types[11]) = (2, 3, 3, 4);
    types.resize(tokens.len(), 6);
    let file = tiny("llama", 0)
        .random("token_embd.weight", &[32, tokens.len() as u64], 0, 1)
        .text("tokenizer.ggml.model", "llama")
        .texts("tokenizer.ggml.tokens", &tokens)
        .numbers("tokenizer.ggml.scores", &scores)
        .wholes("tokenizer.ggml.token_type", &types)
        .whole("tokenizer.ggml.bos_token_id", 1)
        .whole("tokenizer.ggml.eos_token_id", 2)
        .whole("tokenizer.ggml.unknown_token_id", 0);
    let folder = tempfile::tempdir().unwrap();
    let ids_of = |name: &str, file: GgufFile, text: &str| {
        let path = folder.path().join(name);
        file.write(&path);
        let tokenizer = tokenizer_of(&path);
        let ids = tokenizer.encode(text).unwrap();
        let names: Vec<&str> = ids.iter().map(|&id| tokens[id as usize]).collect();
        (names.join(" "), tokenizer.decode(&ids).unwrap())
    };
    let of = |text: &str| ids_of("with-prefix", file.clone(), text);
    assert_eq!(of("abc"), ("<s> ▁ abc".into(), "abc".into()));
    assert_eq!(of("a é"), ("<s> ▁a ▁ <0xC3> <0xA9>".into(), "a é".into()));
    let plain = file
        .flag("tokenizer.ggml.add_space_prefix", false)
        .flag("tokenizer.ggml.add_bos_token", false)
        .flag("tokenizer.ggml.add_eos_token", true);
    let of = |text: &str| ids_of("without", plain.clone(), text);
    assert_eq!(of("abcb"), ("abc b </s>".into(), "abcb".into()));
}

#[test]
fn every_architecture_loads_and_becomes_a_directory_of_the_same_values() {
    let folder = tempfile::tempdir().unwrap();
    for (arch, family) in [
        ("llama", Family::Llama),
        ("qwen2", Family::Qwen2),
        ("qwen3", Family::Qwen3),
        ("gemma3", Family::Gemma3),
    ] {
        let (path, out) = (
            folder.path().join(arch),
            folder.path().join("of").join(arch),
        );
        with_bytes(tiny(arch, 8)).write(&path);
        let ModelConfig::Decoder(config) = ModelConfig::read(&path).unwrap() else {
            panic!("{arch} is a decoder");
        };
        assert_eq!(
            (config.family, config.vocab_size, config.head_dim),
            (family, 4, 8)
        );
        import_gguf(&path, &out, Dtype::F32).unwrap();
        let (direct, written) = (Weights::read(&path).unwrap(), Weights::read(&out).unwrap());
        for name in direct.names() {
            assert_eq!(
                direct.get(name).unwrap(),
                written.get(name).unwrap(),
                "{arch} {name}"
            );
        }
        load(&out, &ModelOptions::cpu(Trainable::All)).unwrap();
        assert_eq!(tokenizer_of(&path).encode("ab").unwrap(), [3]);
    }
}

#[test]
fn a_llama_with_a_window_is_a_mistral_and_scaled_frequencies_become_a_setting() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("window.gguf");
    tiny("llama", 0)
        .whole("llama.attention.sliding_window", 9)
        .write(&path);
    let ModelConfig::Decoder(config) = ModelConfig::read(&path).unwrap() else {
        panic!("a decoder");
    };
    assert_eq!(
        (config.family, config.window.unwrap().length),
        (Family::Mistral, 9)
    );
    let ones = [1.0_f32; 4].iter().flat_map(|x| x.to_le_bytes()).collect();
    tiny("llama", 0)
        .tensor("rope_freqs.weight", &[4], 0, ones)
        .write(&path);
    let ModelConfig::Decoder(config) = ModelConfig::read(&path).unwrap() else {
        panic!("a decoder");
    };
    assert_eq!(config.rope.scaling, None);
    let imported = import_gguf(&path, &folder.path().join("out"), Dtype::Bf16).unwrap();
    assert_eq!(imported.dropped_tensors, ["rope_freqs.weight"]);
    assert_eq!(imported.texts, ["generation_config.json"]);
}

#[test]
fn every_type_of_block_loads_in_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.gguf");
    for (kind, n_values, ..) in TYPES.into_iter().filter(|t| t.1 <= 32) {
        tiny("qwen3", kind).write(&path);
        let model = load(&path, &ModelOptions::cpu(Trainable::All)).unwrap();
        assert_eq!(model.vocab_size(), 4, "{kind} of {n_values}");
    }
}

/// Losses, texts and tokens of a real model, from its file and from the directory made of it.
fn is_the_model_that_pytorch_has(variable: &str, golden_file: &str) {
    let Some(file) = real(variable) else {
        return;
    };
    let expected = read_json(&golden(golden_file));
    let folder = tempfile::tempdir().unwrap();
    import_gguf(&file, folder.path(), Dtype::F32).unwrap();
    for model in [file.as_path(), folder.path()] {
        let tokenizer = tokenizer_of(model);
        for text in expected["texts"].as_array().unwrap() {
            let of = text["text"].as_str().unwrap();
            assert_eq!(tokenizer.encode(of).unwrap(), ids(&text["ids"]), "{of:?}");
        }
        let model = load(model, &ModelOptions::cpu(Trainable::All)).unwrap();
        let rows: Vec<Encoded> = expected["rows"]
            .as_array()
            .unwrap()
            .iter()
            .map(row)
            .collect();
        let nll = model.nll_per_row(&Batch::from_rows(&rows)).unwrap();
        for (i, nll) in nll.into_iter().enumerate() {
            let theirs = expected["gguf"]["nll"][i].as_f64().unwrap();
            let far = (nll - theirs).abs();
            assert!(far < 2e-3, "row {i}: {nll} instead of {theirs}");
        }
        let prompts: Vec<&[u32]> = rows
            .iter()
            .step_by(3)
            .map(|row| &row.input_ids[..])
            .collect();
        let greedy = &expected["gguf"]["greedy_of_every_third"];
        let greedy: Vec<Vec<u32>> = serde_json::from_value(greedy.clone()).unwrap();
        assert_eq!(model.generate(&prompts, 12).unwrap(), greedy);
    }
}

#[test]
fn smollm2_is_the_model_that_pytorch_has() {
    is_the_model_that_pytorch_has("KIF_SMOLLM2_GGUF", "smollm2.json");
}

#[test]
fn gemma_3_is_the_model_that_pytorch_has() {
    is_the_model_that_pytorch_has("KIF_GEMMA3_GGUF", "gemma3.json");
}

/// A text of 960 tokens, where most layers see the last 512.
#[test]
fn gemma_3_reads_beyond_its_window_as_pytorch_does() {
    is_the_model_that_pytorch_has("KIF_GEMMA3_GGUF", "gemma3_long.json");
}
