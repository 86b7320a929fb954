//! What a cell knows before it is finished: where it stands, and what becomes the record.

use std::collections::BTreeMap;

use kif_eval::ScoreMatrix;
use kif_protocol::ScoreKind;
use kif_report::record::{Correctness, FusionTrace, LossCurve, TaskTiming, Timing, bits};
use serde::{Deserialize, Serialize};

use crate::evaluate::Evaluation;

/// The growing part of a record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Partial {
    /// The phase that is being worked on, from 0.
    pub(super) phase: usize,
    pub(super) scores: ScoreMatrix,
    pub(super) correctness: Vec<Correctness>,
    pub(super) predictions: BTreeMap<String, Vec<String>>,
    pub(super) losses: Vec<LossCurve>,
    /// Losses of the training that is going on: as many as it has done steps.
    pub(super) current_losses: Vec<f64>,
    pub(super) timing: Timing,
    /// What masks have chosen so far.
    #[serde(default)]
    pub(super) fusion: Option<FusionTrace>,
    /// Under the policy of the highest loss: positions of the rows that each learned task leaves in
    /// the memory.
    #[serde(default)]
    pub(super) highest: Vec<Vec<usize>>,
}

impl Partial {
    pub(super) fn new(n_tasks: usize) -> Self {
        Self {
            phase: 0,
            scores: ScoreMatrix::new(n_tasks),
            correctness: Vec::new(),
            predictions: BTreeMap::new(),
            losses: Vec::new(),
            current_losses: Vec::new(),
            timing: Timing::default(),
            fusion: None,
            highest: Vec::new(),
        }
    }

    /// Enters what an evaluation found: cell (`after`, `task`) of the matrix.
    pub(super) fn enter(
        &mut self,
        after: usize,
        task: usize,
        kind: ScoreKind,
        evaluation: &Evaluation,
    ) {
        self.scores.set(after, task, evaluation.score(kind));
        let rouge_l = if kind == ScoreKind::RougeL {
            evaluation.rouge_l.clone()
        } else {
            Vec::new()
        };
        self.correctness.push(Correctness {
            after,
            task,
            correct: bits(&evaluation.correct),
            rouge_l,
        });
    }

    /// Whether that cell of the matrix is known.
    pub(super) fn has(&self, after: usize, task: usize) -> bool {
        self.scores.get(after, task).is_some()
    }

    /// Times of the phase that is being worked on.
    pub(super) fn current_timing(&mut self) -> &mut TaskTiming {
        self.timing.tasks.last_mut().expect("a phase has begun")
    }
}
