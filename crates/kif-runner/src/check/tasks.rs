//! One task: its rows, its labels, its tokens, and what it leaves in the memory.

use std::collections::BTreeMap;
use std::path::Path;

use kif_data::{Limits, Row, Split, Stream, Survey, memory_rows, survey, validation_split};
use kif_protocol::{Protocol, ScoreKind};
use kif_report::report::table::{NONE, Table};
use rayon::prelude::*;

use super::Findings;
use crate::codec::Codec;

/// More different answers than that are free text: they are counted, not listed.
const MOST_LABELS: usize = 20;

/// What is known about a task.
pub(super) struct TaskCheck {
    name: String,
    /// Train and test.
    pub(super) halves: [Survey; 2],
    /// Numbers of tokens of both, where there is a tokenizer.
    tokens: Option<[Tokens; 2]>,
    /// Rows with each answer in train and test.
    answers: BTreeMap<String, [usize; 2]>,
    /// Rows that it leaves in the memory.
    kept: usize,
}

/// Numbers of tokens of the rows of a file.
#[derive(Default)]
struct Tokens {
    longest: Side,
    cut: Side,
    /// Rows that cannot be encoded.
    n_bad: usize,
    /// Why the first of them cannot.
    problem: String,
}

/// A number for prompts and one for targets.
#[derive(Clone, Copy, Default)]
struct Side {
    input: usize,
    target: usize,
}

impl TaskCheck {
    pub(super) fn new(
        protocol: &Protocol,
        stream: &Stream,
        root: &Path,
        name: &str,
        codec: Option<&Codec>,
    ) -> Self {
        let halves =
            [Split::Train, Split::Test].map(|split| survey(stream.layout, root, name, split));
        let limits = Limits {
            max_input: protocol.limits.max_input,
            max_target: protocol.limits.max_target,
        };
        let mut answers: BTreeMap<String, [usize; 2]> = BTreeMap::new();
        for (half, survey) in halves.iter().enumerate() {
            for answer in survey
                .rows
                .iter()
                .filter_map(|row| row.references().first())
            {
                answers.entry(answer.clone()).or_default()[half] += 1;
            }
        }
        Self {
            name: name.to_owned(),
            tokens: codec.map(|codec| {
                halves
                    .each_ref()
                    .map(|s| Tokens::of(&s.rows, codec, limits))
            }),
            answers,
            kept: kept(protocol, halves[0].rows.len()),
            halves,
        }
    }

    /// Notes what is wrong with it, and what a run would put up with.
    pub(super) fn find(&self, protocol: &Protocol, findings: &mut Findings) {
        for survey in &self.halves {
            survey
                .problems
                .iter()
                .for_each(|problem| findings.error(problem));
            if let (Some(path), false) = (&survey.path, survey.complete) {
                let path = path.display();
                findings.error(format!("{path}: the rest of the file was not read"));
            }
        }
        let tokens = self.tokens.iter().flatten();
        for (survey, tokens) in self.halves.iter().zip(tokens) {
            let path = survey
                .path
                .as_ref()
                .map_or(NONE.into(), |path| path.display().to_string());
            if tokens.n_bad > 0 {
                let Tokens { n_bad, problem, .. } = tokens;
                findings.error(format!("{path}: {n_bad} rows have no token ids: {problem}"));
            }
            let limits = &protocol.limits;
            for (n, what, limit, longest) in [
                (
                    tokens.cut.input,
                    "prompts",
                    limits.max_input,
                    tokens.longest.input,
                ),
                (
                    tokens.cut.target,
                    "targets",
                    limits.max_target,
                    tokens.longest.target,
                ),
            ] {
                if n > 0 {
                    findings.warning(format!(
                        "{path}: {n} {what} have more than {limit} tokens and lose their end; the longest has {longest}"
                    ));
                }
            }
        }
        self.find_unseen_labels(protocol.score_kind(&self.name), findings);
        let n_train = self.halves[0].rows.len();
        if self.kept == 0 && n_train > 0 && protocol.memory.fraction > 0.0 {
            findings.warning(format!(
                "task {}: of {n_train} training rows a memory of {} keeps none",
                self.name, protocol.memory.fraction
            ));
        }
    }

    /// Answers of test rows that no training row has: a label that was never learned.
    fn find_unseen_labels(&self, score: ScoreKind, findings: &mut Findings) {
        let n_train: usize = self.answers.values().map(|[train, _]| train).sum();
        let n_learned = self
            .answers
            .values()
            .filter(|[train, _]| *train > 0)
            .count();
        let free_text = match score {
            ScoreKind::Labels => false,
            ScoreKind::Exact => 2 * n_learned > n_train,
            ScoreKind::RougeL => true,
        };
        if free_text || n_train == 0 {
            return;
        }
        for (answer, [_, test]) in self.answers.iter().filter(|(_, [train, _])| *train == 0) {
            findings.warning(format!(
                "task {}: label `{answer}` of {test} test rows is not in train",
                self.name
            ));
        }
    }
}

/// Rows of `n_train` that stay in the memory when the share for validation and the limit are taken
/// off.
fn kept(protocol: &Protocol, n_train: usize) -> usize {
    let share = |fraction: f64| {
        Some(fraction)
            .filter(|f| (0.0..=1.0).contains(f))
            .unwrap_or(0.0)
    };
    let (train, _) = validation_split(n_train, share(protocol.evaluation.validation), 0, 0);
    let n = train
        .len()
        .min(protocol.limits.train_rows.unwrap_or(usize::MAX));
    memory_rows(n, share(protocol.memory.fraction))
}

impl Tokens {
    fn of(rows: &[Row], codec: &Codec, limits: Limits) -> Self {
        let unlimited = Limits {
            max_input: usize::MAX,
            max_target: usize::MAX,
        };
        let encoded: Vec<Result<Side, String>> = (rows.par_iter())
            .map(|row| {
                // Within the limits first: they may leave no room.
                codec.encode_row(row, limits)?;
                let whole = codec.encode_row(row, unlimited)?;
                Ok(Side {
                    input: whole.input_ids.len(),
                    target: whole.target_ids.len(),
                })
            })
            .map(|result: anyhow::Result<Side>| result.map_err(|problem| format!("{problem:#}")))
            .collect();
        let mut tokens = Self::default();
        for (row, result) in rows.iter().zip(encoded) {
            match result {
                Ok(Side { input, target }) => {
                    let is_text = !row.references().is_empty();
                    tokens.longest.input = tokens.longest.input.max(input);
                    tokens.longest.target = tokens.longest.target.max(target);
                    // Rows of ids are never cut.
                    tokens.cut.input += usize::from(is_text && input > limits.max_input);
                    tokens.cut.target += usize::from(is_text && target > limits.max_target);
                }
                Err(problem) => {
                    tokens.n_bad += 1;
                    if tokens.n_bad == 1 {
                        tokens.problem = problem;
                    }
                }
            }
        }
        tokens
    }
}

/// A line for train and one for test of every task.
pub(super) fn halves(tasks: &BTreeMap<String, TaskCheck>) -> Table {
    let head = [
        "task",
        "half",
        "rows",
        "answers",
        "longest prompt",
        "cut",
        "longest target",
        "cut",
        "memory",
    ];
    let mut rows = Vec::new();
    for task in tasks.values() {
        for (half, split) in [Split::Train, Split::Test].into_iter().enumerate() {
            let n_answers = task.answers.values().filter(|n| n[half] > 0).count();
            let mut row = vec![
                task.name.clone(),
                split.name().to_owned(),
                task.halves[half].rows.len().to_string(),
                n_answers.to_string(),
            ];
            match task.tokens.as_ref().map(|tokens| &tokens[half]) {
                Some(Tokens { longest, cut, .. }) => {
                    let numbers = [longest.input, cut.input, longest.target, cut.target];
                    row.extend(numbers.map(|n| n.to_string()));
                }
                None => row.extend([NONE; 4].map(str::to_owned)),
            }
            row.push(match split {
                Split::Train => task.kept.to_string(),
                Split::Test => NONE.to_owned(),
            });
            rows.push(row);
        }
    }
    Table {
        head: head.map(str::to_owned).to_vec(),
        rows,
    }
}

/// Rows of every label, for tasks that have labels.
pub(super) fn labels(tasks: &BTreeMap<String, TaskCheck>) -> Table {
    let mut rows = Vec::new();
    for task in tasks
        .values()
        .filter(|task| task.answers.len() <= MOST_LABELS)
    {
        for (answer, [train, test]) in &task.answers {
            rows.push(vec![
                task.name.clone(),
                format!("{answer:?}"),
                train.to_string(),
                test.to_string(),
            ]);
        }
    }
    Table {
        head: ["task", "label", "train", "test"]
            .map(str::to_owned)
            .to_vec(),
        rows,
    }
}
