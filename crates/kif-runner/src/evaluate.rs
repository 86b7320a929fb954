//! A model evaluated on a test set: what it answers, and how good the answers are.
//!
//! Rows are sorted by length and go through the model in batches of a given number of tokens;
//! answers do not depend on which rows share a batch.

use anyhow::{Result, bail};
use kif_data::{Batch, Encoded, Limits, Row, labels};
use kif_eval::{best_rouge_l, exact_match};
use kif_io::failure::BadInput;
use kif_io::signal::StopFlag;
use kif_model::LanguageModel;
use kif_protocol::ScoreKind;
use serde::{Deserialize, Serialize};

use crate::codec::Codec;

/// Test rows of one task, ready for the model.
pub struct TestSet {
    /// Prompts; targets are those of the first reference.
    pub encoded: Vec<Encoded>,
    /// What answers are compared with, row by row.
    pub references: Vec<Vec<String>>,
    /// Labels to choose among, with their ids; empty unless the score is `labels`.
    pub labels: Vec<(String, Vec<u32>)>,
}

impl TestSet {
    /// Encodes rows; `label_rows` are those whose first references are the labels.
    pub fn new(
        rows: &[Row],
        codec: &Codec,
        limits: Limits,
        score: ScoreKind,
        label_names: Option<Vec<String>>,
    ) -> Result<Self> {
        let references = rows
            .iter()
            .map(|row| codec.references(row))
            .collect::<Result<_>>()?;
        let mut with_ids = Vec::new();
        if score == ScoreKind::Labels {
            for label in label_names.unwrap_or_else(|| labels(rows)) {
                let ids = codec.encode(&label)?;
                with_ids.push((label, ids));
            }
            if with_ids.is_empty() {
                bail!(BadInput(
                    "no labels: rows of token ids have none, name them".into()
                ));
            }
        }
        Ok(Self {
            encoded: codec.encode_rows(rows, limits)?,
            references,
            labels: with_ids,
        })
    }

    /// Number of rows.
    pub fn n_rows(&self) -> usize {
        self.encoded.len()
    }
}

/// How a test set is evaluated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EvaluationOptions {
    /// What counts.
    pub score: ScoreKind,
    /// Longest answer in tokens.
    pub max_new_tokens: usize,
    /// Prompt tokens in a batch, those that the model shares between rows once; a longer row goes
    /// alone.
    pub batch_tokens: usize,
    /// Most rows in a batch.
    pub batch_rows: usize,
}

/// Rows that are answered at once at most: the tokens of all texts then take as much memory as
/// those of the prompts usually do.
pub fn batch_rows(score: ScoreKind, max_new_tokens: usize) -> usize {
    const FEWEST: usize = 64;
    match score {
        ScoreKind::Labels => FEWEST,
        ScoreKind::Exact | ScoreKind::RougeL => (4096 / max_new_tokens.max(1)).clamp(FEWEST, 256),
    }
}

/// What a model answers and what that is worth, in the order of the rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Its answers.
    pub predictions: Vec<String>,
    /// Whether an answer equals a reference.
    pub correct: Vec<bool>,
    /// ROUGE-L F1 against the best reference.
    pub rouge_l: Vec<f64>,
}

impl Evaluation {
    /// Share of correct answers, in 0..=1.
    pub fn accuracy(&self) -> f64 {
        self.correct.iter().filter(|&&c| c).count() as f64 / self.correct.len().max(1) as f64
    }

    /// Mean ROUGE-L, in 0..=1.
    pub fn mean_rouge_l(&self) -> f64 {
        self.rouge_l.iter().sum::<f64>() / self.rouge_l.len().max(1) as f64
    }

    /// The mean of what counts, in 0..=1.
    pub fn score(&self, kind: ScoreKind) -> f64 {
        match kind {
            ScoreKind::Exact | ScoreKind::Labels => self.accuracy(),
            ScoreKind::RougeL => self.mean_rouge_l(),
        }
    }
}

/// Evaluates all rows. `done` hears after every batch how many rows it had.
pub fn evaluate(
    model: &dyn LanguageModel,
    codec: &Codec,
    test: &TestSet,
    options: &EvaluationOptions,
    stop: &StopFlag,
    mut done: impl FnMut(usize),
) -> Result<Evaluation> {
    let mut predictions = vec![String::new(); test.n_rows()];
    let all: Vec<&[u32]> = test.encoded.iter().map(|row| &row.input_ids[..]).collect();
    for batch in prompt_batches(model, &all, options.batch_tokens, options.batch_rows) {
        stop.check()?;
        let prompts: Vec<&[u32]> = batch.iter().map(|&row| all[row]).collect();
        let answers = match options.score {
            ScoreKind::Labels => choose(model, &prompts, &test.labels)?,
            ScoreKind::Exact | ScoreKind::RougeL => {
                let ids = model.generate(&prompts, options.max_new_tokens)?;
                ids.iter()
                    .map(|ids| codec.decode(ids))
                    .collect::<Result<_>>()?
            }
        };
        for (&row, answer) in batch.iter().zip(answers) {
            predictions[row] = answer;
        }
        done(batch.len());
    }
    let both = || predictions.iter().zip(&test.references);
    let correct = both()
        .map(|(answer, references)| exact_match(answer, references))
        .collect();
    let rouge_l = both()
        .map(|(answer, references)| best_rouge_l(answer, references))
        .collect();
    Ok(Evaluation {
        predictions,
        correct,
        rouge_l,
    })
}

/// Sum of nats over the target tokens of every row, `[N]`, without dropout.
pub fn nll_per_row(
    model: &dyn LanguageModel,
    rows: &[Encoded],
    batch_tokens: usize,
    stop: &StopFlag,
) -> Result<Vec<f64>> {
    let mut nll = vec![0.0; rows.len()];
    let lengths: Vec<usize> = rows
        .iter()
        .map(|row| row.input_ids.len() + row.target_ids.len())
        .collect();
    for batch in batches(&lengths, batch_tokens, usize::MAX) {
        stop.check()?;
        let values = model.nll_per_row(&Batch::from_rows(batch.iter().map(|&i| &rows[i])))?;
        for (&row, value) in batch.iter().zip(values) {
            nll[row] = value;
        }
    }
    Ok(nll)
}

/// Prompts in batches of at most `max_tokens` tokens that the model reads and `max_rows` rows, or
/// one longer prompt. Where rows share what they begin with, those that do are neighbours.
pub fn prompt_batches(
    model: &dyn LanguageModel,
    prompts: &[&[u32]],
    max_tokens: usize,
    max_rows: usize,
) -> Vec<Vec<usize>> {
    if !model.shares_beginnings() {
        let lengths: Vec<usize> = prompts.iter().map(|row| row.len()).collect();
        return batches(&lengths, max_tokens, max_rows);
    }
    let mut order: Vec<usize> = (0..prompts.len()).collect();
    order.sort_by_key(|&row| (prompts[row], row));
    let n_new = |row: usize, last: Option<&usize>| {
        let pairs = last.map(|&last| prompts[row].iter().zip(prompts[last]));
        let n_shared = pairs.map_or(0, |pairs| pairs.take_while(|(a, b)| a == b).count());
        prompts[row].len() - n_shared
    };
    in_batches(order, n_new, max_tokens, max_rows)
}

/// Rows from short to long, in batches of at most `max_tokens` tokens and `max_rows` rows, or one
/// longer row.
pub fn batches(lengths: &[usize], max_tokens: usize, max_rows: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&row| (lengths[row], row));
    in_batches(order, |row, _| lengths[row], max_tokens, max_rows)
}

/// Rows in the given order; `n_tokens` says what a row adds behind the last of its batch.
fn in_batches(
    order: Vec<usize>,
    n_tokens: impl Fn(usize, Option<&usize>) -> usize,
    max_tokens: usize,
    max_rows: usize,
) -> Vec<Vec<usize>> {
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut sum = 0;
    for row in order {
        if let Some(last) = batches.last_mut() {
            let n = n_tokens(row, last.last());
            if sum + n <= max_tokens && last.len() < max_rows {
                sum += n;
                last.push(row);
                continue;
            }
        }
        sum = n_tokens(row, None);
        batches.push(vec![row]);
    }
    batches
}

/// The likeliest label of every prompt; the first of equals.
fn choose(
    model: &dyn LanguageModel,
    prompts: &[&[u32]],
    labels: &[(String, Vec<u32>)],
) -> Result<Vec<String>> {
    let ids: Vec<Vec<u32>> = labels.iter().map(|(_, ids)| ids.clone()).collect();
    let scores = model.label_scores(prompts, &ids)?;
    let best = |scores: &Vec<f64>| {
        (1..scores.len()).fold(0, |best, i| if scores[i] > scores[best] { i } else { best })
    };
    Ok(scores
        .iter()
        .map(|scores| labels[best(scores)].0.clone())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_hold_every_row_once_within_the_limits() {
        let lengths = [5, 1, 9, 2, 2, 30];
        let all = batches(&lengths, 10, 3);
        assert_eq!(all, [vec![1, 3, 4], vec![0], vec![2], vec![5]]);
        assert!(batches(&[], 10, 3).is_empty());
    }

    #[test]
    fn a_row_adds_what_it_does_not_share_with_the_last_of_its_batch() {
        let n_tokens = |row: usize, last: Option<&usize>| if last.is_some() { 1 } else { 3 + row };
        let all = in_batches(vec![0, 1, 2, 3, 4], n_tokens, 5, 9);
        assert_eq!(all, [vec![0, 1, 2], vec![3], vec![4]]);
    }

    #[test]
    fn accuracy_is_the_share_of_correct_rows() {
        let evaluation = Evaluation {
            correct: vec![true, false, true, true],
            ..Evaluation::default()
        };
        assert_eq!(evaluation.accuracy(), 0.75);
        assert_eq!(Evaluation::default().accuracy(), 0.0);
    }
}
