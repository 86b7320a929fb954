//! `kif check`: a good stream, and everything that can be wrong with one.

use std::fs;
use std::path::Path;

use crate::kit::{Ended, arg, fail, golden, kif, succeed};

/// The folder of the small tasks in the repository.
fn quick_stream() -> String {
    arg(&golden("../quick/stream")).to_owned()
}

/// A protocol of tasks `a` and `b` in `data` under `folder`, with these further fields.
fn protocol(folder: &Path, fields: &str) -> String {
    let path = folder.join("own.ron");
    let data = folder.join("data");
    let text = format!(
        "(
            name: \"own\", stream: own(layout: jsonl, orders: [[\"a\", \"b\"]]), data: {data:?},
            methods: [\"kif\"], seeds: [1], {fields}
        )"
    );
    fs::write(&path, text).unwrap();
    arg(&path).to_owned()
}

/// Rows whose text tells them apart, with one of two answers.
fn rows(task: &str, numbers: std::ops::Range<usize>) -> String {
    let row = |i: usize| {
        format!(
            "{{\"id\": \"{task}{i}\", \"input\": \"w{i} w9\", \"output\": \"w{}\"}}\n",
            3 + i % 2
        )
    };
    numbers.map(row).collect()
}

fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join("data").join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// Tasks of 100 rows to learn from and 10 to be tested on, all different.
fn good_tasks(folder: &Path) {
    for (task, first) in [("a", 10), ("b", 200)] {
        write(
            folder,
            &format!("{task}/train.jsonl"),
            &rows(task, first..first + 100),
        );
        write(
            folder,
            &format!("{task}/test.jsonl"),
            &rows(task, first + 100..first + 110),
        );
    }
}

/// Says all of `said`, and this many errors and warnings.
#[track_caller]
fn finds((n_errors, n_warnings): (usize, usize), said: &[&str], arguments: &[&str]) {
    let Ended {
        code,
        stdout,
        stderr,
    } = kif(arguments);
    assert_eq!(code, if n_errors > 0 { 2 } else { 0 }, "{stdout}{stderr}");
    let counts = format!("{n_errors} errors, {n_warnings} warnings\n");
    assert!(
        stdout.ends_with(&counts),
        "expected {counts} after\n{stdout}"
    );
    for part in said {
        assert!(stdout.contains(part), "expected {part:?} in\n{stdout}");
    }
    assert_eq!(stderr.contains(counts.trim()), n_errors > 0, "{stderr}");
}

#[test]
fn good_streams_are_good_with_and_without_a_model() {
    let folder = tempfile::tempdir().unwrap();
    good_tasks(folder.path());
    let own = protocol(folder.path(), "");
    let without = "without a model (--model DIR), numbers of tokens are not known";
    finds(
        (0, 0),
        &[without, "100        2", "\"w3\"     50     5"],
        &["check", &own],
    );
    let model = golden("tiny-t5");
    let stdout = succeed(&["check", &own, "--model", arg(&model), "--strict"]);
    // A prompt of two words and its end, a target of one.
    assert!(
        stdout.contains(
            "a     train   100        2               3    0               2    0       2"
        ),
        "{stdout}"
    );
    let stream = quick_stream();
    let small = stdout_of(&["check", "quick", "--strict"]);
    assert!(small.contains("mood"), "{small}");
    fail(
        2,
        &["quick: 1 errors"],
        &["check", "quick", "--data", &stream],
    );
}

fn stdout_of(arguments: &[&str]) -> String {
    succeed(arguments)
}

#[test]
fn every_bad_row_is_named() {
    let folder = tempfile::tempdir().unwrap();
    good_tasks(folder.path());
    let bad = format!(
        "{}{{\"id\": \"x\", \"input\": \"w5\"}}\nno row\n{{\"id\": \"a11\", \"input\": \"w5\", \"output\": \"w3\"}}\n",
        rows("a", 10..110)
    );
    write(folder.path(), "a/train.jsonl", &bad);
    fs::remove_file(folder.path().join("data/b/test.jsonl")).unwrap();
    let own = protocol(folder.path(), "");
    let said = [
        "a/train.jsonl:101:1: field `output`: missing",
        "a/train.jsonl:102:",
        "a/train.jsonl:103: field `id`: `a11` is already the id of the row at line 2",
        "no task `b` in",
        "expected b/test.jsonl or b/test.json",
    ];
    finds((4, 0), &said, &["check", &own]);
}

#[test]
fn a_file_without_rows_is_said_once() {
    let folder = tempfile::tempdir().unwrap();
    good_tasks(folder.path());
    write(folder.path(), "a/train.jsonl", "");
    let own = protocol(folder.path(), "");
    let said = "a/train.jsonl: the file has no rows, expected at least one\n1 errors";
    finds((1, 0), &[said], &["check", &own]);
}

#[test]
fn rows_in_two_places_and_labels_that_are_never_learned_are_named() {
    let folder = tempfile::tempdir().unwrap();
    good_tasks(folder.path());
    let again = "{\"id\": \"again\", \"input\": \"w12 w9\", \"output\": \"w3\"}\n";
    write(
        folder.path(),
        "a/train.jsonl",
        &(rows("a", 10..110) + again),
    );
    let leaks = rows("t", 110..119)
        + "{\"id\": \"leak\", \"input\": \"w12 w9\", \"output\": \"w3\"}\n\
           {\"id\": \"new\", \"input\": \"w500\", \"output\": \"w7\"}\n";
    write(folder.path(), "a/test.jsonl", &leaks);
    write(
        folder.path(),
        "b/train.jsonl",
        &(rows("b", 200..300) + again),
    );
    let own = protocol(folder.path(), "");
    let said = [
        "a/train.jsonl: 1 rows repeat an earlier one",
        "a/train.jsonl:101 as ",
        "error    task a: 1 test rows are training rows, too",
        "a/test.jsonl:10 as ",
        "a/train.jsonl:3\n",
        "warning  1 train rows of task b are train rows of task a, too",
        "warning  1 train rows of task b are test rows of task a, too",
        "warning  task a: label `w7` of 1 test rows is not in train",
    ];
    finds((1, 4), &said, &["check", &own]);
}

#[test]
fn limits_that_cut_and_memories_that_keep_nothing_are_warnings_unless_strict() {
    let folder = tempfile::tempdir().unwrap();
    good_tasks(folder.path());
    write(folder.path(), "b/train.jsonl", &rows("b", 200..240));
    let long = "{\"id\": \"long\", \"input\": \"w3 w4 w5 w6\", \"output\": \"w3 w4 w5\"}\n";
    write(folder.path(), "a/train.jsonl", &(rows("a", 10..110) + long));
    let own = protocol(folder.path(), "limits: (max_input: 4, max_target: 3)");
    let model = golden("tiny-t5");
    let check = ["check", &own, "--model", arg(&model)];
    let said = [
        "a/train.jsonl: 1 prompts have more than 4 tokens and lose their end; the longest has 5",
        "a/train.jsonl: 1 targets have more than 3 tokens and lose their end; the longest has 4",
        "task b: of 40 training rows a memory of 0.02 keeps none",
    ];
    finds((0, 3), &said, &check);
    fail(
        2,
        &["0 errors, 3 warnings"],
        &[&check[..], &["--strict"]].concat(),
    );
}

#[test]
fn a_model_without_a_tokenizer_is_said_once_a_file() {
    let folder = tempfile::tempdir().unwrap();
    good_tasks(folder.path());
    let own = protocol(folder.path(), "");
    let model = folder.path().join("model");
    fs::create_dir(&model).unwrap();
    let check = ["check", &own, "--model", arg(&model)];
    finds((1, 0), &["model: has no config.json, expected"], &check);
    fs::copy(golden("tiny-t5/config.json"), model.join("config.json")).unwrap();
    let said = "a/train.jsonl: 100 rows have no token ids: row a10 is text, which needs the file";
    finds((4, 0), &[said], &check);
    let said = "there is no such folder";
    finds((1, 0), &[said], &["check", &own, "--model", "nonesuch"]);
}

#[test]
fn all_that_is_wrong_with_a_protocol_is_said_at_once() {
    let folder = tempfile::tempdir().unwrap();
    good_tasks(folder.path());
    let fields = "orders: [3], training: (epochs: 0), evaluation: (score_of: {\"c\": labels}), memory: (fraction: 2.0)";
    let own = protocol(folder.path(), fields);
    let said = [
        "orders is 3, expected 1 to 1",
        "evaluation.score_of is c, expected the name of a task of the stream",
        "training.epochs is 0, expected at least 1",
        "memory.fraction is 2, expected a number from 0 to 1",
    ];
    finds((4, 0), &said, &["check", &own]);
    let other = |orders: &str| {
        let text = fs::read_to_string(&own).unwrap();
        let other = folder.path().join("other.ron");
        let (before, _) = text.split_once("[[\"a\"").unwrap();
        let data = folder.path().join("data");
        let text = format!("{before}{orders}), data: {data:?}, methods: [\"kif\"], seeds: [1])");
        fs::write(&other, text).unwrap();
        arg(&other).to_owned()
    };
    let said = "stream.orders is empty, expected at least one order\n1 errors";
    finds((1, 0), &[said], &["check", &other("[]")]);
    let said = "no task `../a` in";
    finds((1, 0), &[said], &["check", &other("[[\"../a\"]]")]);
    fs::write(&own, "(name: \"own\", strem: embedded)").unwrap();
    fail(2, &["own.ron, line 1", "strem"], &["check", &own]);
    fail(
        2,
        &["no such file and no built-in protocol"],
        &["check", "nonesuch"],
    );
    finds(
        (1, 0),
        &["data is not given, expected the folder"],
        &["check", "standard"],
    );
    finds(
        (1, 0),
        &["there is no such folder"],
        &["check", "long", "--data", "nonesuch"],
    );
}

#[test]
fn files_of_a_published_benchmark_are_compared_with_their_checksums() {
    let folder = tempfile::tempdir().unwrap();
    let row = "[{\"id\": 1, \"input\": \"x\", \"output\": \"y\"}, {\"id\": 2, \"input\": \"z\", \"output\": \"y\"}]";
    let other = row.replace(['x', 'z'], "q");
    for task in ["dbpedia", "amazon", "yahoo"] {
        write(
            folder.path(),
            &format!("train/{task}.json"),
            &row.replace("\"y\"", &format!("{task:?}")),
        );
        write(
            folder.path(),
            &format!("test/{task}.json"),
            &other.replace("\"y\"", &format!("{task:?}")),
        );
    }
    let data = folder.path().join("data");
    let Ended { code, stdout, .. } = kif(&["check", "standard", "--data", arg(&data)]);
    assert_eq!(code, 2);
    for said in [
        "agnews train                  –   missing\n",
        "error    no task `agnews`",
        "train/amazon.json: differs from the published file: sha-256 is",
        "expected 9db982c16a0e49ee99c371d1e95f258feba0130fb1463ebb63a779c73cecac92",
        "yahoo.json: differs from the file whose checksum is known, which is not the authors' own either",
    ] {
        assert!(stdout.contains(said), "expected {said:?} in\n{stdout}");
    }
    // Train files and amazon's test have known authors' files; the two other tests have not.
    assert_eq!(stdout.matches("error    ").count(), 4 + 2, "{stdout}");
}
