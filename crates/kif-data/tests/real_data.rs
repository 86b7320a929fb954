//! The published benchmarks as they lie on disk.
//!
//! `KIF_DATA` names the folder `data_longsequence`, `KIF_SUPERNI` the SuperNI tasks; without them
//! the tests say that they were skipped.

use std::collections::HashSet;
use std::path::PathBuf;

use kif_data::{
    Content, Layout, MemoryPolicy, Row, Stream, class_balanced_subset, draw_memory, labels,
    load_task, task_files, template,
};

fn folder(variable: &str) -> Option<PathBuf> {
    let folder = std::env::var_os(variable).map(PathBuf::from);
    if folder.is_none() {
        say(&format!("skipped: {variable} is not set"));
    }
    folder
}

fn prompt(row: &Row) -> &str {
    match &row.content {
        Content::Text { prompt, .. } => prompt.as_str(),
        Content::Ids { .. } => panic!("{} has no text", row.id),
    }
}

/// The folder that O-LoRA's layout has for a task's type.
fn task_type(name: &str) -> &'static str {
    match name {
        "mnli" | "cb" | "rte" => "NLI",
        "yelp" | "amazon" | "sst-2" | "imdb" => "SC",
        "dbpedia" | "yahoo" | "agnews" => "TC",
        "qqp" => "QQP",
        "wic" => "WiC",
        "copa" => "COPA",
        "boolqa" => "BoolQA",
        "multirc" => "MultiRC",
        _ => panic!("no type for {name}"),
    }
}

/// Task, labels, train rows, test rows. The authors' test files of dbpedia and yahoo are too large
/// for many mirrors, so their counts are not checked.
const LONG: [(&str, usize, usize, Option<usize>); 15] = [
    ("yelp", 5, 1000, Some(2500)),
    ("amazon", 5, 1000, Some(2500)),
    ("dbpedia", 14, 1000, None),
    ("yahoo", 10, 1000, None),
    ("agnews", 4, 1000, Some(2000)),
    ("mnli", 3, 1000, Some(1500)),
    ("qqp", 2, 1000, Some(1000)),
    ("rte", 2, 1000, Some(277)),
    ("sst-2", 2, 1000, Some(872)),
    ("imdb", 2, 1000, Some(1000)),
    ("wic", 2, 1000, Some(638)),
    ("cb", 3, 250, Some(56)),
    ("copa", 2, 400, Some(100)),
    ("boolqa", 2, 1000, Some(1000)),
    ("multirc", 2, 1000, Some(1000)),
];

#[test]
fn the_long_sequence_tasks_have_their_published_sizes_and_memory() {
    let Some(root) = folder("KIF_DATA") else {
        return;
    };
    let stream = Stream::builtin("long").unwrap();
    let (mut n_train, mut memory) = (0, 0);
    for (task_idx, name) in stream.orders[0].iter().enumerate() {
        let (_, n_labels, train, test) = LONG.into_iter().find(|(task, ..)| task == name).unwrap();
        let task = load_task(Layout::LongSequence, &root, name).unwrap();
        assert_eq!(
            (task.train.len(), labels(&task.train).len()),
            (train, n_labels),
            "{name}"
        );
        if let Some(test) = test {
            assert_eq!(task.test.len(), test, "{name}");
        }
        assert_eq!(
            task_files(Layout::LongSequence, &root, name).unwrap().len(),
            2
        );

        let train_prompts: HashSet<&str> = task.train.iter().map(prompt).collect();
        assert!(
            task.test
                .iter()
                .all(|row| !train_prompts.contains(prompt(row))),
            "{name} tests on train"
        );
        let one_label: HashSet<String> = labels(&task.train).into_iter().collect();
        assert!(
            task.test
                .iter()
                .all(|row| one_label.contains(&row.references()[0])),
            "{name} has other test labels"
        );
        // The templates for O-LoRA's layout make the same prompts.
        let start = format!(
            "{}Option: ",
            template::instruction(task_type(name)).unwrap()
        );
        let rows = task.train.iter().chain(&task.test).map(prompt);
        assert!(
            rows.into_iter()
                .all(|row| row.starts_with(&start) && row.ends_with("\nAnswer:")),
            "{name}"
        );

        let drawn = draw_memory(
            &task.train,
            0.02,
            MemoryPolicy::ClassBalanced,
            42,
            task_idx as u64,
        );
        let kept: HashSet<&str> = drawn
            .iter()
            .map(|&i| task.train[i].references()[0].as_str())
            .collect();
        assert_eq!(kept.len(), n_labels, "{name}");
        n_train += task.train.len();
        memory += drawn.len();

        let subset = class_balanced_subset(&task.test, 500, 1);
        assert_eq!(subset.len(), task.test.len().min(500));
    }
    assert_eq!((n_train, memory), (13_650, 273));
}

#[test]
fn one_rte_pair_shares_its_text_but_not_its_id() {
    let Some(root) = folder("KIF_DATA") else {
        return;
    };
    let rte = load_task(Layout::LongSequence, &root, "rte").unwrap();
    let distinct: HashSet<&str> = rte.train.iter().map(prompt).collect();
    assert_eq!(distinct.len(), rte.train.len() - 1);
}

#[test]
fn the_superni_tasks_have_their_published_sizes() {
    let Some(root) = folder("KIF_SUPERNI") else {
        return;
    };
    for name in &Stream::builtin("superni").unwrap().orders[0] {
        let task = load_task(Layout::SuperNi, &root, name).unwrap();
        let sizes = match name.as_str() {
            "task073" => (975, 100),
            "task181" => (338, 43),
            "task1572" => (160, 20),
            "task639" => (142, 18),
            "task1590" => (126, 16),
            _ => (1000, 100),
        };
        assert_eq!((task.train.len(), task.test.len()), sizes, "{name}");
        assert!(
            prompt(&task.test[0]).starts_with("[INS] ")
                && prompt(&task.test[0]).ends_with("\n [OUT] ")
        );
        let drawn = draw_memory(&task.train, 0.02, MemoryPolicy::ClassBalanced, 42, 0);
        assert_eq!(drawn.len(), (0.02 * sizes.0 as f64) as usize, "{name}");
    }
}

/// Past the test harness, which keeps what a passing test prints to itself.
fn say(text: &str) {
    use std::io::Write;

    writeln!(std::io::stderr(), "{text}").expect("standard error");
}
