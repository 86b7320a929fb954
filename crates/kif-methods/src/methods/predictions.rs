//! What a model predicts, kept and given back as distributions.

use std::collections::BTreeMap;

use anyhow::Result;
use kif_data::{Batch, Encoded};
use serde::{Deserialize, Serialize};

use crate::error::{SettingError, check_setting};
use crate::learner::Learner;
use crate::state::{State, StateError};

/// Steps on the memory learn, beside its answers, what the model predicted for its rows when they
/// were new (dark experience replay: Buzzega et al., NeurIPS 2020, arXiv 2004.07211).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distillation {
    /// Weight of the kept predictions; the answers have the rest. In `[0, 1]`.
    pub share: f64,
    /// Likeliest tokens of every prediction that are kept with their probabilities; what is left
    /// is spread over all others. At least 1.
    pub top_k: usize,
}

impl Distillation {
    /// Whether every value is in its range.
    pub(super) fn check(&self) -> Result<(), SettingError> {
        let Self { share, top_k } = *self;
        let fine = (0.0..=1.0).contains(&share);
        check_setting(fine, "distillation.share", share, "a number in [0, 1]")?;
        check_setting(top_k > 0, "distillation.top_k", top_k, "at least 1")
    }
}

/// The logarithms of the softmax of every row of logits, each `[T, V]`.
pub(super) fn log_softmax(logits: &[f32], vocab_size: usize) -> Vec<f32> {
    let mut log_probs = Vec::with_capacity(logits.len());
    for row in logits.chunks_exact(vocab_size) {
        let largest = row.iter().copied().fold(f32::MIN, f32::max);
        let sum: f64 = row.iter().map(|x| f64::from(x - largest).exp()).sum();
        let log_sum = f64::from(largest) + sum.ln();
        log_probs.extend(row.iter().map(|x| (f64::from(*x) - log_sum) as f32));
    }
    log_probs
}

/// The least probability of all tokens together that are not kept: their logarithms stay finite.
const LEAST_REST: f64 = 1e-6;

/// The likeliest tokens of predictions one after the other, `[positions, k]`.
#[derive(Clone, Debug, Default, PartialEq)]
struct Likeliest {
    ids: Vec<u32>,
    log_probs: Vec<f32>,
}

impl Likeliest {
    /// Of logits `[T, V]`; of two tokens that are equally likely the one with the lower id.
    fn of(logits: &[f32], vocab_size: usize, k: usize) -> Self {
        let log_probs = log_softmax(logits, vocab_size);
        let mut kept = Self::default();
        for row in log_probs.chunks_exact(vocab_size) {
            let mut ids: Vec<u32> = (0..vocab_size as u32).collect();
            let by_rank = |a: &u32, b: &u32| {
                let (a_value, b_value) = (row[*a as usize], row[*b as usize]);
                b_value.total_cmp(&a_value).then(a.cmp(b))
            };
            if k < vocab_size {
                ids.select_nth_unstable_by(k - 1, by_rank);
                ids.truncate(k);
            }
            ids.sort_unstable_by(by_rank);
            kept.log_probs
                .extend(ids.iter().map(|&id| row[id as usize]));
            kept.ids.extend(ids);
        }
        kept
    }

    /// `log((1 - share) [v = target] + share q(v))` of every token v at every position, `[T, V]`: q
    /// is what was kept of these positions, whose numbers of entries begin at `at`.
    fn mixed(
        &self,
        at: usize,
        k: usize,
        targets: &[u32],
        vocab_size: usize,
        share: f64,
    ) -> Vec<f32> {
        let mut all = Vec::with_capacity(targets.len() * vocab_size);
        for (position, &target) in targets.iter().enumerate() {
            let entries = at + position * k..at + (position + 1) * k;
            let probs = self.log_probs[entries.clone()]
                .iter()
                .map(|&x| f64::from(x).exp());
            let rest = (1.0 - probs.clone().sum::<f64>()).max(LEAST_REST);
            let each = rest / (vocab_size - k).max(1) as f64;
            let start = all.len();
            all.resize(start + vocab_size, (share * each).ln() as f32);
            let row = &mut all[start..];
            for (&id, q) in self.ids[entries.clone()].iter().zip(probs.clone()) {
                row[id as usize] = (share * q).ln() as f32;
            }
            let kept = self.ids[entries].iter().position(|&id| id == target);
            let q = kept
                .and_then(|place| probs.clone().nth(place))
                .unwrap_or(each);
            row[target as usize] = (1.0 - share + share * q).ln() as f32;
        }
        all
    }
}

/// What the model predicted for the rows of the memory when they were new.
pub(super) struct Teacher {
    config: Distillation,
    /// The rows of the memory.
    rows: Vec<Encoded>,
    /// Where the positions of each row begin among those that are kept, and where the last end.
    offsets: Vec<usize>,
    kept: Likeliest,
}

impl Teacher {
    pub(super) fn new(config: Distillation) -> Self {
        Self {
            config,
            rows: Vec::new(),
            offsets: vec![0],
            kept: Likeliest::default(),
        }
    }

    /// Tokens that are kept of a prediction.
    fn k(&self, learner: &Learner) -> usize {
        self.config.top_k.min(learner.model().vocab_size())
    }

    /// Keeps what the model predicts now for the rows of `memory` that are new, and of earlier ones
    /// what was kept; those that have left the memory are forgotten. `at_once` rows go through the
    /// model together.
    pub(super) fn watch(
        &mut self,
        learner: &mut Learner,
        memory: &[Encoded],
        at_once: usize,
    ) -> Result<()> {
        let (k, vocab_size) = (self.k(learner), learner.model().vocab_size());
        let mut known: BTreeMap<(&[u32], &[u32]), Likeliest> = BTreeMap::new();
        for (row, w) in self.rows.iter().zip(self.offsets.windows(2)) {
            let entries = k * w[0]..k * w[1];
            known.insert(
                (&row.input_ids, &row.target_ids),
                Likeliest {
                    ids: self.kept.ids[entries.clone()].to_vec(),
                    log_probs: self.kept.log_probs[entries].to_vec(),
                },
            );
        }
        let is_new =
            |row: &&Encoded| !known.contains_key(&(&row.input_ids[..], &row.target_ids[..]));
        let new: Vec<&Encoded> = memory.iter().filter(is_new).collect();
        for rows in new.chunks(at_once) {
            let batch = Batch::from_rows(rows.iter().copied());
            let logits = learner.model_mut().target_logits(&batch)?;
            for (row, logits) in rows.iter().zip(&logits) {
                let likeliest = Likeliest::of(logits, vocab_size, k);
                known.insert((&row.input_ids, &row.target_ids), likeliest);
            }
        }
        let (mut kept, mut offsets) = (Likeliest::default(), vec![0]);
        for row in memory {
            let likeliest = &known[&(&row.input_ids[..], &row.target_ids[..])];
            kept.ids.extend(&likeliest.ids);
            kept.log_probs.extend(&likeliest.log_probs);
            offsets.push(offsets[offsets.len() - 1] + row.target_ids.len());
        }
        self.rows = memory.to_vec();
        (self.kept, self.offsets) = (kept, offsets);
        Ok(())
    }

    /// The clipped gradient of `scale` times the mean divergence over all target tokens of `batch`,
    /// the rows of the memory at `places`: from a mixture of their answers and of what was kept.
    /// The loss is returned unscaled.
    pub(super) fn gradient(
        &self,
        learner: &mut Learner,
        batch: &Batch,
        places: &[usize],
        scale: f32,
    ) -> Result<f64> {
        let share = self.config.share;
        if share == 0.0 {
            return learner.memory_gradient(batch, scale);
        }
        let (k, vocab_size) = (self.k(learner), learner.model().vocab_size());
        let of_row = |row: usize| {
            let (at, targets) = (k * self.offsets[places[row]], batch.targets.row(row));
            self.kept.mixed(at, k, targets, vocab_size, share)
        };
        learner.memory_divergence(batch, |rows| rows.map(of_row).collect(), scale)
    }

    /// Bytes of what is kept.
    pub(super) fn kept_bytes(&self) -> u64 {
        8 * self.kept.ids.len() as u64
    }

    pub(super) fn save_state(&self, state: &mut State) {
        // Ids are below 2^24, so an f32 holds them.
        let ids: Vec<f32> = self.kept.ids.iter().map(|&id| id as f32).collect();
        state.put("method.likeliest", &ids);
        state.put("method.likeliest_log_probs", &self.kept.log_probs);
    }

    /// Reads what [`save_state`](Self::save_state) wrote, where the same rows were watched.
    pub(super) fn load_state(&mut self, state: &State) -> Result<(), StateError> {
        let n = self.kept.ids.len();
        let ids = state.tensor("method.likeliest", n)?;
        self.kept.ids = ids.iter().map(|&id| id as u32).collect();
        let log_probs = state.tensor("method.likeliest_log_probs", n)?;
        self.kept.log_probs = log_probs.to_vec();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference::{Case, distance};
    use super::*;

    #[test]
    fn predictions_are_those_of_numpy() {
        let case = Case::read("lfpt5");
        let log_probs = log_softmax(&case.vector("logits"), case.number("vocab_size") as usize);
        assert!(distance(&log_probs, &case.vector("log_probs")) < 1e-6);
    }

    #[test]
    fn mixtures_of_answers_and_kept_predictions_are_those_of_numpy() {
        let case = Case::read("der");
        let [vocab_size, k] = ["vocab_size", "top_k"].map(|name| case.number(name) as usize);
        let kept = Likeliest::of(&case.vector("logits"), vocab_size, k);
        let whole = |name: &str| {
            case.vector(name)
                .iter()
                .map(|&x| x as u32)
                .collect::<Vec<_>>()
        };
        assert_eq!(kept.ids, whole("likeliest"));
        let mixed = kept.mixed(0, k, &whole("targets"), vocab_size, case.number("share"));
        assert!(distance(&mixed, &case.vector("mixed")) < 1e-5);
    }

    #[test]
    fn all_tokens_may_be_kept_and_nothing_is_left_for_others() {
        let kept = Likeliest::of(&[0.0, 1.0, 1.0], 3, 3);
        assert_eq!(kept.ids, [1, 2, 0]);
        let mixed = kept.mixed(0, 3, &[2], 3, 1.0);
        assert!(distance(&mixed, &log_softmax(&[0.0, 1.0, 1.0], 3)) < 1e-6);
    }
}
