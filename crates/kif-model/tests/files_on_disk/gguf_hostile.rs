//! Truncated, changed and hostile GGUF files: always a typed error, never a panic, never more
//! memory than a few times the file.
//!
//! `PROPTEST_CASES=1000000 cargo test --release -p kif-model --test files_on_disk gguf_hostile`
//! digs deeper.

use std::path::{Path, PathBuf};

use kif_model::{ModelConfig, ModelError, Weights, model_text};
use proptest::prelude::*;

use crate::gguf_file::{GgufFile, tiny, with_bytes};

fn error_of(file: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.gguf");
    std::fs::write(&path, file).unwrap();
    let error = match read_all(&path) {
        Ok(()) => panic!("was accepted"),
        Err(error) => error.to_string(),
    };
    assert!(error.starts_with(&path.display().to_string()), "{error}");
    error
}

/// Everything that is read of a file.
fn read_all(path: &Path) -> Result<(), ModelError> {
    let config = ModelConfig::read(path)?;
    for name in [
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
    ] {
        model_text(path, name)?;
    }
    let mut weights = Weights::read(path)?;
    weights.expect(&config.tensors(), &config.optional_tensors())?;
    let names: Vec<String> = weights.names().map(str::to_owned).collect();
    names
        .iter()
        .try_for_each(|name| weights.take(name).map(drop))
}

#[test]
fn what_a_header_promises_is_held_against_the_file() {
    let file = with_bytes(tiny("llama", 8));
    let whole = file.bytes();
    let patched = |at: usize, bytes: &[u8]| {
        let mut patched = whole.clone();
        patched[at..at + bytes.len()].copy_from_slice(bytes);
        patched
    };
    let (huge, many) = (u64::MAX.to_le_bytes(), 60_000_u64.to_le_bytes());
    for (bytes, said) in [
        (Vec::new(), "is empty"),
        (b"GGU".to_vec(), "truncated: the magic number"),
        (b"GGUG\x03\0\0\0".to_vec(), "does not begin with"),
        (
            patched(4, &1_u32.to_le_bytes()),
            "version 1 is not supported",
        ),
        (patched(4, &3_u32.to_be_bytes()), "version 50331648"),
        (patched(8, &huge), "tensors are above the limit"),
        (patched(16, &huge), "metadata entries are above the limit"),
        (patched(24, &huge), "truncated: a key of the metadata"),
        (whole[..whole.len() - 64].to_vec(), "truncated"),
        (
            whole[..100].to_vec(),
            "truncated: 11 tensors take at least 264 bytes from byte 24 on, file has 100",
        ),
        (patched(16, &many), "truncated: 60000 metadata entries"),
    ] {
        let error = error_of(&bytes);
        assert!(error.contains(said), "{said}: {error}");
    }
}

#[test]
fn what_an_entry_of_the_header_says_is_held_against_the_file() {
    let file = with_bytes(tiny("llama", 8));
    let huge = u64::MAX.to_le_bytes();
    for (file, said) in [
        (file.clone().raw("x", 13, &[0]), "x: type 13 is not known"),
        (file.clone().list("x", 9, 1, vec![0; 12]), "a list of lists"),
        (
            file.clone().list("x", 4, usize::MAX, vec![]),
            "truncated: x has 18446744073709551615",
        ),
        (
            file.clone().list("x", 8, 1, huge.to_vec()),
            "truncated: x takes",
        ),
        (
            file.clone().whole("general.alignment", 24),
            "expected a power of two",
        ),
        (file.clone().whole("split.count", 2), "spread over 2 files"),
        (
            file.clone().tensor("x", &[0], 0, vec![]),
            "none 0 or absurd",
        ),
        (file.clone().tensor("x", &[31], 8, vec![]), "multiple of 32"),
        (
            file.clone().tensor("x", &[1 << 40, 1 << 40], 0, vec![]),
            "absurd",
        ),
        (file.clone().tensor("x", &[1 << 40], 0, vec![]), "truncated"),
        (
            file.clone().tensor("x", &[1; 5], 0, vec![0; 4]),
            "has 5 extents",
        ),
        (
            file.clone().tensor("x", &[], 0, vec![0; 4]),
            "has 0 extents",
        ),
        (
            file.clone().tensor("x", &[256], 23, vec![0; 136]),
            "IQ4_XS is not supported, expected one of F32",
        ),
        (
            file.clone().tensor("x", &[8], 0, vec![0; 32]),
            "unexpected x",
        ),
    ] {
        let error = error_of(&file.bytes());
        assert!(error.contains(said), "{said}: {error}");
    }
}

#[test]
fn what_metadata_say_is_refused_by_key_where_it_does_not_hold() {
    let file = with_bytes(tiny("llama", 8));
    let text = |key: &str, value: &str| file.clone().text(key, value);
    for (file, said) in [
        (
            text("general.architecture", "phi3"),
            "general.architecture: \"phi3\" is not supported, expected \"llama\"",
        ),
        (
            file.clone().without("llama.block_count"),
            "llama.block_count: is missing",
        ),
        (
            file.clone().list("llama.block_count", 4, 1, vec![0; 4]),
            "llama.block_count: is a list",
        ),
        (
            file.clone().whole("llama.block_count", u32::MAX),
            "llama.block_count: 4294967295 is above",
        ),
        (
            file.clone()
                .raw("llama.block_count", 5, &(-1_i32).to_le_bytes()),
            "is -1",
        ),
        (
            file.clone().whole("llama.attention.head_count", 0),
            "num_attention_heads",
        ),
        (
            file.clone().whole("llama.expert_count", 8),
            "llama.expert_count: is set",
        ),
        (
            file.clone().whole("llama.rope.dimension_count", 4),
            "llama.rope.dimension_count: 4 is not supported",
        ),
        (
            text("llama.rope.scaling.type", "yarn"),
            "llama.rope.scaling.type: \"yarn\"",
        ),
        (
            file.clone().without("tokenizer.ggml.eos_token_id"),
            "eos_token_id: is missing",
        ),
        (
            file.clone().whole("tokenizer.ggml.eos_token_id", 4),
            "eos_token_id",
        ),
        (
            file.clone().whole("tokenizer.ggml.bos_token_id", 9),
            "bos_token_id",
        ),
    ] {
        let error = error_of(&file.bytes());
        assert!(error.contains(said), "{said}: {error}");
    }
}

#[test]
fn settings_that_change_the_output_are_refused_and_those_that_change_nothing_are_not() {
    let file = |arch: &str| with_bytes(tiny(arch, 8));
    for (arch, key, value) in [
        ("llama", "llama.rope.scaling.factor", 8.0),
        ("llama", "llama.rope.scale_linear", 4.0),
        ("llama", "llama.attention.scale", 0.5),
        ("llama", "llama.attention.new", 0.0),
        ("llama", "llama.rope.freq_base_swa", 1e4),
        ("llama", "llama.attention.sliding_window_pattern", 6.0),
        ("qwen3", "qwen3.rope.new.option", 1.0),
        ("gemma3", "gemma3.rope.scaling.factor", 8.0),
        ("gemma3", "gemma3.final_logit_softcapping", 30.0),
    ] {
        let error = error_of(&file(arch).number(key, value).bytes());
        let said = format!("{key}: is set, which is not supported");
        assert!(error.contains(&said), "{said}: {error}");
    }
    let key = "gemma3.attention.sliding_window_pattern";
    let error = error_of(&file("gemma3").whole(key, 0).bytes());
    assert!(error.contains("pattern: is 0, expected 1"), "{error}");
    let harmless = file("llama")
        .text("llama.rope.scaling.type", "none")
        .number("llama.rope.scaling.factor", 1.0)
        .flag("llama.rope.scaling.finetuned", false)
        .number("llama.rope.scale_linear", 0.0)
        .number("llama.attention.scale", 0.0)
        .flag("llama.attention.causal", true)
        .whole("llama.expert_count", 0);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.gguf");
    harmless.write(&path);
    read_all(&path).unwrap();
}

#[test]
fn what_a_tokenizer_lacks_is_refused_by_key() {
    let file = with_bytes(tiny("llama", 8));
    let text = |key: &str, value: &str| file.clone().text(key, value);
    for (file, said) in [
        (
            text("tokenizer.ggml.model", "bert"),
            "tokenizer.ggml.model: \"bert\" is not supported",
        ),
        (
            text("tokenizer.ggml.pre", "tekken"),
            "tokenizer.ggml.pre: \"tekken\" is not supported, expected one of \"llama-bpe\"",
        ),
        (
            file.clone().without("tokenizer.ggml.pre"),
            "tokenizer.ggml.pre: is missing",
        ),
        (
            file.clone().without("tokenizer.ggml.merges"),
            "tokenizer.ggml.merges: is missing",
        ),
        (
            file.clone().texts("tokenizer.ggml.merges", &["ab"]),
            "element 0 is no pair",
        ),
        (
            file.clone().texts("tokenizer.ggml.merges", &["a b", "a c"]),
            "tokenizer.ggml.merges: element 1: \"c\" is no token",
        ),
        (
            file.clone().texts("tokenizer.ggml.merges", &["x b"]),
            "tokenizer.ggml.merges: element 0: \"x\" is no token",
        ),
        (
            file.clone().texts("tokenizer.ggml.merges", &["b a"]),
            "tokenizer.ggml.merges: element 0: \"ba\" is no token",
        ),
        (
            file.clone().texts("tokenizer.ggml.tokens", &["a"; 5]),
            "tokenizer.ggml.tokens: has 5 tokens, expected 4 at most",
        ),
        (
            file.clone().without("tokenizer.ggml.model"),
            "tokenizer.ggml.model: is missing, expected \"gpt2\" or \"llama\"",
        ),
        (
            file.clone()
                .texts("tokenizer.ggml.tokens", &["a", "b", "c", "a"]),
            "tokens 0 and 3 are the same",
        ),
        (
            file.clone().wholes("tokenizer.ggml.token_type", &[1]),
            "1 types for 4 tokens",
        ),
        (
            file.clone().list(
                "tokenizer.ggml.tokens",
                8,
                1,
                vec![1, 0, 0, 0, 0, 0, 0, 0, 0xff],
            ),
            "element 0 is not UTF-8",
        ),
        (
            text("tokenizer.ggml.model", "llama"),
            "tokenizer.ggml.scores: is missing",
        ),
        (
            file.clone().random("rope_freqs.weight", &[4], 0, 9),
            "rope_freqs.weight",
        ),
    ] {
        let error = error_of(&file.bytes());
        assert!(error.contains(said), "{said}: {error}");
    }
}

/// A place in memory where there is one, for speed.
fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    match memory.is_dir() {
        true => tempfile::tempdir_in(memory).unwrap(),
        false => tempfile::tempdir().unwrap(),
    }
}

/// A file that is overwritten case after case.
fn place() -> PathBuf {
    thread_local! {
        static FOLDER: tempfile::TempDir = scratch();
    }
    FOLDER.with(|folder| folder.path().join("case.gguf"))
}

fn never_panics(bytes: &[u8]) {
    let path = place();
    std::fs::write(&path, bytes).unwrap();
    // Any answer but a panic is right.
    let _ = read_all(&path);
}

fn valid() -> impl Strategy<Value = GgufFile> {
    let archs = prop::sample::select(vec!["llama", "qwen2", "qwen3", "gemma3"]);
    let kinds = prop::sample::select(vec![0_u32, 1, 2, 3, 6, 7, 8, 30]);
    (archs, kinds, any::<bool>()).prop_map(|(arch, kind, bytes)| {
        let file = tiny(arch, kind);
        match bytes {
            true => with_bytes(file),
            false => file
                .text("tokenizer.ggml.model", "llama")
                .texts("tokenizer.ggml.tokens", &["<unk>", "a", "aa", "aaa"])
                .numbers("tokenizer.ggml.scores", &[0.0, 0.0, -1.0, -2.0])
                .wholes("tokenizer.ggml.token_type", &[2, 1, 1, 4]),
        }
    })
}

/// A change of a file: bytes of one place replaced, or a part cut out.
fn changes() -> impl Strategy<Value = Vec<(prop::sample::Index, Vec<u8>, usize)>> {
    let byte = prop_oneof![Just(0_u8), Just(1), Just(0xff), Just(0x80), any::<u8>()];
    let bytes = prop_oneof![
        prop::collection::vec(byte, 1..9),
        prop::sample::select(vec![u64::MAX, 1 << 63, 1 << 32, 1 << 20, 256, 7])
            .prop_map(|n| n.to_le_bytes().to_vec()),
    ];
    let cut = prop_oneof![9 => Just(0_usize), 1 => 1..64_usize];
    prop::collection::vec((any::<prop::sample::Index>(), bytes, cut), 1..4)
}

proptest! {
    #[test]
    fn random_bytes_behind_the_magic_number_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        never_panics(&[b"GGUF\x03\0\0\0", &bytes[..]].concat());
    }

    /// Most changes fall into the header, which is where they tell.
    #[test]
    fn changed_files_never_panic(file in valid(), changes in changes(), in_header in any::<bool>()) {
        let mut bytes = file.bytes();
        for (index, with, cut) in changes {
            let n = if in_header { bytes.len().min(1500) } else { bytes.len() };
            let at = index.index(n.max(1));
            let end = (at + with.len()).min(bytes.len());
            bytes[at..end].copy_from_slice(&with[..end - at]);
            bytes.drain(end.saturating_sub(cut)..end);
        }
        never_panics(&bytes);
    }

    #[test]
    fn files_that_are_cut_short_never_panic(file in valid(), share in 0.0..1.0_f64) {
        let bytes = file.bytes();
        never_panics(&bytes[..(bytes.len() as f64 * share) as usize]);
    }
}
