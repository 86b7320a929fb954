//! Running `kif`, and files for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A file or folder of `fixtures/golden`.
pub(crate) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fixtures/golden")
        .join(name)
}

/// Folders of decoder-only models in `fixtures/golden`.
pub(crate) fn decoders() -> impl Iterator<Item = &'static str> {
    include_str!("../../../../fixtures/golden/decoders.txt").lines()
}

/// How a command ended.
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// The program with these arguments and environment.
pub(crate) fn kif_with(arguments: &[&str], environment: &[(&str, &str)]) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kif"));
    command
        .args(arguments)
        .env_remove("KIF_STOP_AFTER_POLLS")
        .envs(environment.iter().copied());
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().expect("kif starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output is text");
    Ended {
        code: status.code().expect("kif ends by itself"),
        stdout: text(stdout),
        stderr: text(stderr),
    }
}

/// The program with these arguments, whatever its end.
pub(crate) fn kif(arguments: &[&str]) -> Ended {
    kif_with(arguments, &[])
}

/// The program with these arguments, which must succeed; returns what it printed.
#[track_caller]
pub(crate) fn succeed(arguments: &[&str]) -> String {
    let ended = kif(arguments);
    assert_eq!(ended.code, 0, "{arguments:?}: {}", ended.stderr);
    ended.stdout
}

/// The program with these arguments, which must end with `code` and say all of `said`.
#[track_caller]
pub(crate) fn fail(code: i32, said: &[&str], arguments: &[&str]) {
    let Ended {
        code: got, stderr, ..
    } = kif(arguments);
    assert_eq!(got, code, "{arguments:?}: {stderr}");
    for part in said {
        assert!(
            stderr.contains(part),
            "{arguments:?}: expected {part:?} in {stderr}"
        );
    }
    assert!(!stderr.contains("panicked"), "{stderr}");
}

/// A path as an argument.
pub(crate) fn arg(path: &Path) -> &str {
    path.to_str().expect("paths of tests are plain")
}

/// Rows of a task that the golden models can learn: the third word decides the label.
///
/// Labels are words of their vocabulary (`w20` and on); `shift` makes tasks that share words and
/// differ in labels.
pub(crate) fn rows(task: &str, n: usize, shift: usize) -> String {
    let row = |i: usize| {
        let (word, label) = (100 + i % 4, 20 + (i % 4 + shift) % 4);
        let noise = 200 + i * 7 % 50;
        format!(
            "{{\"id\":\"{task}-{i}\",\"input\":\"w{} w{noise} w{word} w{}\",\"output\":\"w{label}\"}}\n",
            10 + shift,
            250 + i % 9
        )
    };
    (0..n).map(row).collect()
}

/// A stream of tasks `a` and `b` in one folder, with a protocol beside it: the path of the
/// protocol.
pub(crate) fn small_benchmark(folder: &Path, methods: &str) -> PathBuf {
    for (task, shift) in [("a", 0), ("b", 1)] {
        let at = folder.join("data").join(task);
        fs::create_dir_all(&at).unwrap();
        fs::write(at.join("train.jsonl"), rows(task, 40, shift)).unwrap();
        fs::write(at.join("test.jsonl"), rows(task, 12, shift)).unwrap();
    }
    let protocol = folder.join("small.ron");
    let (model, data) = (golden("tiny-t5"), folder.join("data"));
    let text = format!(
        "(
            name: \"small\",
            stream: own(layout: jsonl, orders: [[\"a\", \"b\"], [\"b\", \"a\"]]),
            data: {data:?}, model: {model:?},
            methods: [{methods}],
            seeds: [1],
            training: (epochs: 4, lr: 1e-2, warmup_steps: 2),
            memory: (fraction: 0.2),
            evaluation: (max_new_tokens: 4),
        )"
    );
    fs::write(&protocol, text).unwrap();
    protocol
}

/// Every file under a folder, by its path inside it.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path))
        } else {
            found.push(path)
        }
    }
    found.sort();
    found
}
