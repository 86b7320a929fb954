//! Corpora, plain and compressed.

use std::io::Read;
use std::path::{Path, PathBuf};

use kif_data::{CorpusItem, DataError, corpus_items, corpus_reader};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

fn file(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn frame(text: &[u8]) -> Vec<u8> {
    compress_to_vec(text, CompressionLevel::Fastest)
}

fn items(path: &Path) -> Result<Vec<CorpusItem>, DataError> {
    corpus_items(path)?.collect()
}

fn pair(prompt: &str, target: &str) -> CorpusItem {
    CorpusItem::Pair {
        prompt: prompt.into(),
        target: target.into(),
    }
}

fn text(text: &str) -> CorpusItem {
    CorpusItem::Text(text.into())
}

#[test]
fn frames_follow_each_other_and_others_are_skipped() {
    let folder = tempfile::tempdir().unwrap();
    let long: String = (0..60_000).map(|i| format!("line {i}\n")).collect();
    let skippable = [
        &0x184D_2A53u32.to_le_bytes()[..],
        &5u32.to_le_bytes(),
        b"hello",
    ]
    .concat();
    let bytes = [
        frame(long.as_bytes()),
        skippable,
        frame(b""),
        frame(b"end\n"),
    ]
    .concat();
    let mut read = String::new();
    corpus_reader(&file(folder.path(), "a.txt.zst", bytes))
        .unwrap()
        .read_to_string(&mut read)
        .unwrap();
    assert!(read == long + "end\n");
    read.clear();
    corpus_reader(&file(folder.path(), "a.txt", "plain"))
        .unwrap()
        .read_to_string(&mut read)
        .unwrap();
    assert_eq!(read, "plain");
}

#[test]
fn damaged_files_are_errors_and_never_short_reads() {
    let folder = tempfile::tempdir().unwrap();
    let plain: String = (0..200).map(|i| format!("line {i}\n")).collect();
    let whole = frame(plain.as_bytes());
    let read = |bytes: &[u8]| {
        let mut text = Vec::new();
        corpus_reader(&file(folder.path(), "a.txt.zst", bytes))
            .unwrap()
            .read_to_end(&mut text)
            .map(|_| text)
    };
    assert_eq!(read(&whole).unwrap(), plain.as_bytes());
    for cut in 1..whole.len() {
        assert!(
            read(&whole[..cut]).is_err(),
            "cut at {cut} of {}",
            whole.len()
        );
    }
    assert!(read(&[&whole[..], b"trailing"].concat()).is_err());
    let mut flipped = whole.clone();
    for bit in [1, 16] {
        let at = flipped.len() / 2;
        flipped[at] ^= bit;
        assert!(read(&flipped).is_err(), "bit {bit}");
    }
}

#[test]
fn windows_up_to_two_to_the_twenty_seven_are_accepted() {
    let folder = tempfile::tempdir().unwrap();
    // A frame by hand: magic, descriptor without single segment, window 2^(10 + exponent), one raw
    // last block of 3 bytes.
    let by_hand = |exponent: u8| {
        let block = (3u32 << 3 | 1).to_le_bytes();
        [
            &0xFD2F_B528u32.to_le_bytes()[..],
            &[0, exponent << 3],
            &block[..3],
            b"abc",
        ]
        .concat()
    };
    let read = |exponent| {
        let mut text = String::new();
        corpus_reader(&file(folder.path(), "a.txt.zst", by_hand(exponent)))
            .unwrap()
            .read_to_string(&mut text)
            .map(|_| text)
    };
    assert_eq!(read(17).unwrap(), "abc");
    assert!(read(18).is_err());
}

#[test]
fn rows_are_pairs_or_texts() {
    let folder = tempfile::tempdir().unwrap();
    let lines = "{\"task\": \"t\", \"input\": \"a\u{2028}b\", \"output\": \"c\"}\n{\"text\": \"plain\"}\n\
                 {\"instruction\": \"Do. \", \"input\": \"x\", \"output\": [\"y\", \"z\"]}\n";
    let expected = [pair("a\u{2028}b", "c"), text("plain"), pair("Do. x", "y")];
    for (name, bytes) in [
        ("a.jsonl", lines.as_bytes().to_vec()),
        ("a.jsonl.zst", frame(lines.as_bytes())),
    ] {
        assert_eq!(items(&file(folder.path(), name, bytes)).unwrap(), expected);
    }
    for (line, said) in [
        ("{\"input\": \"x\"}", "a.jsonl:1:1: field `output`: missing"),
        (
            "{\"output\": \"x\"}",
            "a.jsonl:1:1: field `input`: missing, expected text (or a field `text`)",
        ),
        ("{\"text\": \"x\"}\n\n", "a.jsonl:2:1: "),
    ] {
        let error = items(&file(folder.path(), "a.jsonl", line))
            .unwrap_err()
            .to_string();
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn lines_of_text_are_paragraphs_of_documents() {
    let folder = tempfile::tempdir().unwrap();
    let lines = "<|doc|>First_1864\nOne.\n\nTwo, still two.\r\n<|doc|>Second\nThree.";
    let expected = [
        CorpusItem::Document("First_1864".into()),
        text("One."),
        text("Two, still two."),
        CorpusItem::Document("Second".into()),
        text("Three."),
    ];
    for (name, bytes) in [
        ("a.txt", lines.as_bytes().to_vec()),
        ("a.txt.zst", frame(lines.as_bytes())),
    ] {
        assert_eq!(items(&file(folder.path(), name, bytes)).unwrap(), expected);
    }
    assert!(matches!(
        items(&file(folder.path(), "b.txt", "")),
        Err(DataError::Empty { .. })
    ));
    assert!(matches!(
        items(&file(folder.path(), "b.csv", "x")),
        Err(DataError::Io { .. })
    ));
    let error = items(&file(folder.path(), "b.txt", b"ok\nbad \xFF"))
        .unwrap_err()
        .to_string();
    assert!(error.contains("b.txt:2:5: invalid UTF-8"), "{error}");
}

#[test]
fn real_corpora_are_read_to_the_end() {
    let Ok(folder) = std::env::var("KIF_CORPUS") else {
        say("skipped: KIF_CORPUS (a folder of .jsonl[.zst] and .txt[.zst] files) is not set");
        return;
    };
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if [".jsonl", ".jsonl.zst", ".txt", ".txt.zst"]
            .iter()
            .any(|end| name.ends_with(end))
        {
            let (mut pairs, mut texts, mut documents) = (0, 0, 0);
            for item in corpus_items(&path).unwrap() {
                match item.unwrap_or_else(|error| panic!("{error}")) {
                    CorpusItem::Pair { .. } => pairs += 1,
                    CorpusItem::Text(_) => texts += 1,
                    CorpusItem::Document(_) => documents += 1,
                }
            }
            println!("{name}: {pairs} pairs, {texts} texts, {documents} documents");
            assert!(pairs + texts > 0, "{name} has no items");
        }
    }
}

/// Past the test harness, which keeps what a passing test prints to itself.
fn say(text: &str) {
    use std::io::Write;

    writeln!(std::io::stderr(), "{text}").expect("standard error");
}
