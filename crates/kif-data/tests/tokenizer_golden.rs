//! The published tokenizers of T5 and Llama 2 give the published ids.
//!
//! `KIF_T5_TOKENIZER` names a folder with T5's `tokenizer.json` and `golden.jsonl`, lines of
//! `{text, hf_fast_ids_with_eos}` (made with Hugging Face's `tokenizers` in Python);
//! `KIF_LLAMA_TOKENIZER` one with Llama 2's, lines of `{text, spm_ids, spm_decode}` (made with
//! SentencePiece, which adds no special tokens).

use std::path::{Path, PathBuf};

use kif_data::{Content, Format, Limits, Row, Template, Tokenizer};
use serde_json::Value;

/// The folder that an environment variable names; without it, says that the test is skipped.
fn folder(variable: &str) -> Option<PathBuf> {
    let folder = std::env::var_os(variable).map(PathBuf::from);
    if folder.is_none() {
        say(&format!(
            "skipped: {variable} (a folder with tokenizer.json and golden.jsonl) is not set"
        ));
    }
    folder
}

/// The tokenizer of a folder, and the lines of its `golden.jsonl`, of which there are some.
fn read(folder: &Path) -> (Tokenizer, Vec<Value>) {
    let tokenizer = Tokenizer::from_file(&folder.join("tokenizer.json")).unwrap();
    let golden = std::fs::read_to_string(folder.join("golden.jsonl")).unwrap();
    let lines = golden.split('\n').filter(|line| !line.is_empty());
    let lines: Vec<Value> = lines.map(|l| serde_json::from_str(l).unwrap()).collect();
    assert!(!lines.is_empty());
    (tokenizer, lines)
}

fn ids(line: &Value, field: &str) -> Vec<u32> {
    serde_json::from_value(line[field].clone()).unwrap()
}

#[test]
fn texts_have_the_published_t5_ids() {
    let Some(folder) = folder("KIF_T5_TOKENIZER") else {
        return;
    };
    let (tokenizer, lines) = read(&folder);
    assert_eq!(tokenizer.vocab_size(), 32_100);
    for line in &lines {
        let text = line["text"].as_str().unwrap();
        let expected = ids(line, "hf_fast_ids_with_eos");
        assert_eq!(tokenizer.encode(text).unwrap(), expected, "{text:?}");
    }
    say(&format!("T5: {} texts agree", lines.len()));
}

/// Prompts begin with `<s>` and have nothing behind them; targets end in `</s>` and have
/// nothing before them.
#[test]
fn texts_have_the_published_llama_2_ids() {
    let Some(folder) = folder("KIF_LLAMA_TOKENIZER") else {
        return;
    };
    let (tokenizer, lines) = read(&folder);
    assert_eq!(tokenizer.vocab_size(), 32_000);
    let (begin, end) = ("<s>", "</s>");
    let [begin_id, end_id] = [begin, end].map(|token| tokenizer.id_of(token).unwrap());
    let limits = Limits {
        max_input: 10_000,
        max_target: 10_000,
    };
    let format = Format {
        template: Template::Plain,
        end_id: Some(end_id),
    };
    // `tokenizer.json` reads a special token that is written out in a text as that token,
    // SentencePiece as its letters.
    let spelt = |line: &Value| {
        [begin, end]
            .iter()
            .any(|t| line["text"].as_str().unwrap().contains(t))
    };
    let (spelt, plain): (Vec<_>, Vec<_>) = lines.iter().partition(|line| spelt(line));
    for line in &plain {
        let (text, ids) = (line["text"].as_str().unwrap(), ids(line, "spm_ids"));
        let row = Row {
            id: "r".into(),
            content: Content::Text {
                prompt: text.into(),
                references: vec![text.into()],
            },
        };
        let encoded = tokenizer.encode_row_as(&row, limits, &format).unwrap();
        assert_eq!(
            encoded.input_ids,
            [&[begin_id][..], &ids].concat(),
            "{text:?}"
        );
        assert_eq!(
            encoded.target_ids,
            [&ids[..], &[end_id]].concat(),
            "{text:?}"
        );
        assert!(!encoded.cut);
        let decoded = tokenizer.decode(&encoded.target_ids).unwrap();
        assert_eq!(decoded, line["spm_decode"].as_str().unwrap());
    }
    for line in &spelt {
        let found = tokenizer.encode(line["text"].as_str().unwrap()).unwrap();
        assert!(found[1..].iter().any(|id| [begin_id, end_id].contains(id)));
    }
    say(&format!(
        "Llama 2: {} texts agree, {} spell a special token",
        plain.len(),
        spelt.len()
    ));
    assert!(plain.len() > spelt.len());
}

/// Past the test harness, which keeps what a passing test prints to itself.
fn say(text: &str) {
    use std::io::Write;

    writeln!(std::io::stderr(), "{text}").expect("standard error");
}
