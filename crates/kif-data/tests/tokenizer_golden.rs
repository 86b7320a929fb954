//! The published T5 tokenizer gives the published ids.
//!
//! `KIF_T5_TOKENIZER` names a folder with T5's `tokenizer.json` and `golden.jsonl`, lines of
//! `{text, hf_fast_ids_with_eos}` (made with Hugging Face's `tokenizers` in Python).

use std::path::PathBuf;

use kif_data::Tokenizer;

#[test]
fn texts_have_the_published_t5_ids() {
    let Some(folder) = std::env::var_os("KIF_T5_TOKENIZER").map(PathBuf::from) else {
        say("skipped: KIF_T5_TOKENIZER (a folder with tokenizer.json and golden.jsonl) is not set");
        return;
    };
    let tokenizer = Tokenizer::from_file(&folder.join("tokenizer.json")).unwrap();
    assert_eq!(tokenizer.vocab_size(), 32_100);
    let golden = std::fs::read_to_string(folder.join("golden.jsonl")).unwrap();
    let mut n_texts = 0;
    for line in golden.split('\n').filter(|line| !line.is_empty()) {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let text = line["text"].as_str().unwrap();
        let ids: Vec<u32> = serde_json::from_value(line["hf_fast_ids_with_eos"].clone()).unwrap();
        assert_eq!(tokenizer.encode(text).unwrap(), ids, "{text:?}");
        n_texts += 1;
    }
    println!("{n_texts} texts agree");
    assert!(n_texts > 0);
}

/// Past the test harness, which keeps what a passing test prints to itself.
fn say(text: &str) {
    use std::io::Write;

    writeln!(std::io::stderr(), "{text}").expect("standard error");
}
