//! Truncated, flipped and hostile safetensors files: always a typed error, never a panic, never a
//! huge allocation.

use std::path::{Path, PathBuf};

use kif_data::chance::{Purpose, below, stream};
use kif_model::{ModelError, Weights};

use crate::{golden, write_raw};

fn problem_of(path: &Path) -> String {
    match Weights::read_file(path) {
        Err(ModelError::Malformed { file, problem }) => {
            assert_eq!(file, path);
            problem
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("{} was accepted", path.display()),
    }
}

#[test]
fn hostile_headers_are_refused_with_their_fault() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let tensor = |name: &str, dtype: &str, shape: &str, from: &str, to: &str| {
        format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}"#)
    };
    let table = [
        (
            format!("{{{}}}", tensor("a", "F32", "[1]", "0", "8")),
            8,
            "takes 8 bytes",
        ),
        (
            format!("{{{}}}", tensor("a", "F32", "[3]", "0", "8")),
            8,
            "takes 8 bytes",
        ),
        (
            format!("{{{}}}", tensor("a", "F32", "[1]", "4", "8")),
            8,
            "leaves a hole",
        ),
        (
            format!("{{{}}}", tensor("a", "F32", "[2]", "8", "0")),
            8,
            "ends at byte 0 before it starts",
        ),
        (
            format!("{{{}}}", tensor("a", "F32", "[2]", "0", "8")),
            7,
            "truncated: header promises",
        ),
        (
            format!("{{{}}}", tensor("a", "F32", "[2]", "0", "8")),
            9,
            "header promises",
        ),
        (
            format!("{{{}}}", tensor("a", "F32", "[-2]", "0", "8")),
            8,
            "is not a tensor",
        ),
        (
            format!("{{{}}}", tensor("a", "F32", "[2]", "-8", "0")),
            8,
            "is not a tensor",
        ),
        (
            format!("{{{}}}", tensor("a", "F32", "[2]", "0", "8e0")),
            8,
            "is not a tensor",
        ),
        (
            format!(
                "{{{}}}",
                tensor("a", "F32", "[4611686018427387904,4]", "0", "8")
            ),
            8,
            "but takes 8 bytes",
        ),
        (
            format!(
                "{{{}}}",
                tensor(
                    "a",
                    "Q4",
                    "[2]",
                    "18446744073709551600",
                    "18446744073709551615"
                )
            ),
            8,
            "starts at byte",
        ),
        (
            format!(
                "{{{}}}",
                tensor("a", "Q4", "[2]", "0", "18446744073709551615")
            ),
            8,
            "is too long",
        ),
        (
            format!(
                "{{{},{}}}",
                tensor("a", "F32", "[2]", "0", "8"),
                tensor("b", "F32", "[2]", "4", "12")
            ),
            12,
            "overlaps the tensor before it",
        ),
        (
            format!(
                "{{{},{}}}",
                tensor("a", "F32", "[2]", "0", "8"),
                tensor("a", "F32", "[2]", "8", "16")
            ),
            16,
            "\"a\" stands twice",
        ),
        (r#"{"a":7}"#.to_owned(), 0, "is not a tensor: 7"),
        (r#"{"a":{"dtype":"F32"}}"#.to_owned(), 0, "is not a tensor"),
        ("[1]".to_owned(), 0, "expected an object"),
        ("not json".to_owned(), 0, "line 1 column"),
        (String::new(), 0, "EOF"),
        (
            format!("{{\"a\":{}", "[".repeat(100_000)),
            0,
            "recursion limit",
        ),
    ];
    for (header, n_bytes, fault) in table {
        write_raw(&path, &header, n_bytes);
        let problem = problem_of(&path);
        assert!(
            problem.contains(fault),
            "{}: {problem:?} has no {fault:?}",
            &header[..header.len().min(100)]
        );
    }
    std::fs::write(&path, b"\x05\0\0\0\0\0\0\0{\"\xff\":").unwrap();
    assert!(problem_of(&path).contains("line 1"), "invalid UTF-8");
}

#[test]
fn a_header_length_is_believed_only_within_the_limit_and_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    for length in [1 << 63, u64::MAX, u64::MAX - 7, 100_000_000, (16 << 20) + 1] {
        std::fs::write(&path, [&u64::to_le_bytes(length)[..], b"{}"].concat()).unwrap();
        assert_eq!(
            problem_of(&path),
            format!("header of {length} bytes is above the limit of 16777216")
        );
    }
    std::fs::write(&path, [&u64::to_le_bytes(16 << 20)[..], b"{}"].concat()).unwrap();
    assert_eq!(
        problem_of(&path),
        "truncated: header ends at byte 16777224, file has 10"
    );
}

#[test]
fn a_hundred_thousand_tensors_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let tensors: Vec<String> = (0..100_000)
        .map(|i| format!(r#""{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#))
        .collect();
    write_raw(&path, &format!("{{{}}}", tensors.join(",")), 0);
    assert!(problem_of(&path).contains("more than 16384 keys"));
}

#[test]
fn names_that_look_like_paths_are_only_names_and_control_characters_are_not_printed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let header = r#"{"../../x\u0000\u001b[2J":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    write_raw(&path, header, 4);
    let weights = Weights::read_file(&path).unwrap();
    let text = weights.expect(&[], &[]).unwrap_err().to_string();
    assert!(text.contains(r"unexpected ../../x\0\u{1b}[2J"), "{text}");
}

fn golden_adapter() -> (Vec<u8>, usize) {
    let bytes = std::fs::read(golden("tiny-t5/adapter/adapter_model.safetensors")).unwrap();
    let header_end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    (bytes, header_end)
}

#[test]
fn a_file_cut_at_any_header_byte_or_anywhere_in_its_values_is_refused() {
    let (bytes, header_end) = golden_adapter();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let mut rng = stream(1, Purpose::Fixture, 0, 0);
    let in_values = (0..1000).map(|_| header_end + below(&mut rng, bytes.len() - header_end));
    for length in (0..=header_end).chain(in_values) {
        std::fs::write(&path, &bytes[..length]).unwrap();
        let problem = problem_of(&path);
        assert!(problem.starts_with("truncated: "), "{length}: {problem}");
        assert!(
            problem.ends_with(&format!("file has {length}")),
            "{length}: {problem}"
        );
    }
    std::fs::write(&path, [&bytes[..], &[0]].concat()).unwrap();
    let (promised, has) = (bytes.len(), bytes.len() + 1);
    assert_eq!(
        problem_of(&path),
        format!("header promises {promised} bytes, file has {has}")
    );
}

#[test]
fn every_flipped_bit_of_a_header_is_noticed() {
    let (bytes, header_end) = golden_adapter();
    let dir = tempfile::tempdir().unwrap();
    let path: PathBuf = dir.path().join("x.safetensors");
    std::fs::write(&path, &bytes).unwrap();
    let sound = Weights::read_file(&path).unwrap();
    let expected: Vec<_> = sound
        .names()
        .map(|n| (n.to_owned(), sound.shape(n).unwrap().to_vec()))
        .collect();
    // What stands in __metadata__ says nothing about the tensors.
    let metadata_end = bytes.iter().position(|&b| b == b'}').unwrap();
    let mut rng = stream(2, Purpose::Fixture, 0, 0);
    for _ in 0..10_000 {
        let (at, bit) = (below(&mut rng, header_end), below(&mut rng, 8));
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << bit;
        std::fs::write(&path, &flipped).unwrap();
        let noticed = Weights::read_file(&path)
            .and_then(|weights| weights.expect(&expected, &[]))
            .is_err();
        assert!(
            noticed || (8..metadata_end).contains(&at),
            "bit {bit} of byte {at} ({:?})",
            bytes[at] as char
        );
    }
}
