//! Work of a decoder-only base with its own weights: what training and scoring it take on rows of
//! published tasks.

use std::path::{Path, PathBuf};

use super::{Against, Bench, IdFile, Work, with_paths, words};

/// A task, as its file or folder is called.
struct Task {
    name: &'static str,
    /// Which of its rows are scored.
    scored: &'static str,
    /// Whether few answers come up again and again, so that the likeliest can be chosen.
    has_labels: bool,
    /// Largest ratio of times that is aimed at in training, and in scoring.
    step: Option<f64>,
    score: Option<f64>,
}

/// Short and long inputs, and two tasks of SuperNI, whose test files have 100 rows alone.
const TASKS: [Task; 5] = [
    Task {
        name: "agnews",
        scored: "test",
        has_labels: true,
        step: Some(0.35),
        score: Some(0.25),
    },
    Task {
        name: "boolqa",
        scored: "test",
        has_labels: true,
        step: None,
        score: None,
    },
    Task {
        name: "multirc",
        scored: "test",
        has_labels: true,
        step: None,
        score: None,
    },
    Task {
        name: "task1510_evalution_relation_extraction",
        scored: "train",
        has_labels: false,
        step: Some(0.20),
        score: Some(0.10),
    },
    Task {
        name: "task875_emotion_classification",
        scored: "train",
        has_labels: true,
        step: None,
        score: None,
    },
];

/// Prompts as published runs of decoders have them.
const READ: &str = "--template alpaca --max-input 1024";
/// Training steps that are measured, after one to warm up, of 8 rows each.
const N_STEPS: usize = 4;
/// Rows that are scored.
const N_SCORED: usize = 500;

impl Task {
    /// Up to the first underscore.
    fn short(&self) -> &'static str {
        self.name.split('_').next().unwrap_or(self.name)
    }

    /// One of its measurements.
    fn work(&self, kind: &str, ours: Vec<String>, against: Against, at_most: Option<f64>) -> Work {
        Work {
            name: format!("real-{kind}-{}", self.short()),
            ours,
            against,
            ids: None,
            time_target: at_most,
            memory_target: None,
            rounds: usize::MAX,
        }
    }
}

impl Bench<'_> {
    /// Steps, texts and label scores, in bf16.
    pub(super) fn works_of_real_base(&self, base: &Path, works: &mut Vec<Work>) {
        for task in &TASKS {
            if let Some(rows) = self.task_file("train", task.name) {
                self.steps(base, task, &rows, works);
            }
        }
        for task in &TASKS {
            if let Some(rows) = self.task_file(task.scored, task.name) {
                self.scores(base, task, &rows, works);
            }
        }
    }

    /// Steps that share what rows have in common, beside the peer and beside steps that do not.
    fn steps(&self, base: &Path, task: &Task, rows: &Path, works: &mut Vec<Work>) {
        let ids = self.ids(base, task, "train", rows, 8 * (N_STEPS + 1));
        let args = with_paths(
            &format!("step --precision bf16 --warm-up 1 --steps {N_STEPS}"),
            &[("--model", base), ("--rows", &ids.out)],
        );
        let ours = [args.as_slice(), &words("--dropout-of beginning")].concat();
        for (kind, against, at_most) in [
            ("step", Against::Peer(args.clone()), task.step),
            ("shared", Against::Ours(args), None),
        ] {
            works.push(Work {
                ids: Some(ids.clone()),
                ..task.work(kind, ours.clone(), against, at_most)
            });
        }
    }

    /// Texts beside the peer's, and label scores beside our texts.
    fn scores(&self, base: &Path, task: &Task, rows: &Path, works: &mut Vec<Work>) {
        let ids = self.ids(base, task, task.scored, rows, N_SCORED);
        let score = format!("score --precision bf16 --limit {N_SCORED} --max-new-tokens 16");
        let ours = |more: &str| {
            let text = format!("{score} {READ} {more}");
            with_paths(&text, &[("--model", base), ("--rows", rows)])
        };
        let theirs = with_paths(&score, &[("--model", base), ("--rows", &ids.out)]);
        works.push(Work {
            ids: Some(ids),
            ..task.work("score", ours(""), Against::Peer(theirs), task.score)
        });
        if task.has_labels {
            let texts = Against::Ours(ours(""));
            works.push(task.work("labels", ours("--labels"), texts, Some(1.0)));
        }
    }

    /// The first rows of a file as ids.
    fn ids(&self, base: &Path, task: &Task, split: &str, rows: &Path, limit: usize) -> IdFile {
        let name = format!("real-{split}-{limit}-{}.jsonl", task.short());
        let out: PathBuf = self.options.out.join(name);
        let args = with_paths(
            &format!("rows --limit {limit} {READ}"),
            &[("--model", base), ("--rows", rows)],
        );
        IdFile { out, args }
    }
}
