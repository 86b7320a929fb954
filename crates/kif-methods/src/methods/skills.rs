//! What TaSL and TasLoRA share: the importance of every skill unit to the present task and to those
//! before it, and one average of the adapter before and after a task (Feng et al., ACL 2024, arXiv
//! 2408.05200).
//!
//! A unit is a set of parameters with one importance. Per parameter the score is the smoothed
//! sensitivity times its uncertainty, as in Recurrent-KIF's code, which inherits it from here. The
//! past is remembered as `I_past <- norm((1 - s) norm(I) + s I_past)`, where norm brings the units
//! to 0..1. Nothing is rehearsed.

use anyhow::Result;
use kif_data::Batch;
use kif_importance::{Sensitivity, SensitivityConfig};
use kif_model::{LORA_A, LORA_B, ParamLayout, ParamSpec};

use super::{Method, bytes_of};
use crate::learner::Learner;
use crate::state::State;
use crate::task_view::TaskView;

/// Evenly spaced parameters in the flat vector: a matrix, a row of A, a column of B.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    start: usize,
    step: usize,
    len: usize,
}

impl Part {
    fn indices(self) -> impl Iterator<Item = usize> {
        (0..self.len).map(move |i| self.start + i * self.step)
    }

    fn mean(self, scores: &[f32]) -> f64 {
        let sum: f64 = self.indices().map(|i| f64::from(scores[i])).sum();
        sum / self.len.max(1) as f64
    }
}

/// The parameters that share an importance: the product of the means over its parts.
///
/// For a row a of A and the column b of B that it belongs to, this is the mean of the outer product
/// of their scores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unit(Vec<Part>);

impl Unit {
    /// One unit for every matrix.
    pub(super) fn matrices(layout: &ParamLayout) -> Vec<Self> {
        layout.specs().iter().map(Self::matrix).collect()
    }

    /// One unit for every row of an A with its column of B.
    pub(super) fn ranks(layout: &ParamLayout) -> Vec<Self> {
        let specs = layout.specs();
        let b_of = |a: &ParamSpec| {
            let name = format!("{}{LORA_B}", a.name.strip_suffix(LORA_A)?);
            specs.iter().find(|spec| spec.name == name)
        };
        let mut units = Vec::new();
        for a in specs {
            match (a.rank(), b_of(a)) {
                (Some(rank), Some(b)) => units.extend((0..rank).map(|r| Self::rank(a, b, rank, r))),
                _ if a.name.ends_with(LORA_B) => {}
                _ => units.push(Self::matrix(a)),
            }
        }
        units
    }

    fn matrix(spec: &ParamSpec) -> Self {
        Self(vec![Part {
            start: spec.range.start,
            step: 1,
            len: spec.range.len(),
        }])
    }

    fn rank(a: &ParamSpec, b: &ParamSpec, rank: usize, r: usize) -> Self {
        let (n_in, n_out) = (a.shape[1], b.shape[0]);
        let row = Part {
            start: a.range.start + r * n_in,
            step: 1,
            len: n_in,
        };
        let column = Part {
            start: b.range.start + r,
            step: rank,
            len: n_out,
        };
        Self(vec![row, column])
    }

    fn importance(&self, scores: &[f32]) -> f64 {
        self.0.iter().map(|part| part.mean(scores)).product()
    }
}

/// Brings `scores` to 0..1 by their least and largest; all 0 where they are equal.
fn normalised(scores: &[f64]) -> Vec<f32> {
    let min = scores.iter().copied().fold(f64::INFINITY, f64::min);
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let width = max - min;
    let value = |x: &f64| if width > 0.0 { (x - min) / width } else { 0.0 };
    scores.iter().map(|x| value(x) as f32).collect()
}

/// The past with the present in it: `norm((1 - share) present + share past)`.
fn accumulated(present: &[f32], past: &[f32], share: f64) -> Vec<f32> {
    let pairs = present.iter().zip(past);
    let mixed: Vec<f64> = pairs
        .map(|(now, past)| (1.0 - share) * f64::from(*now) + share * f64::from(*past))
        .collect();
    normalised(&mixed)
}

/// Importance of the units of an adapter, to the present task and before it.
pub(super) struct Skills {
    units: Vec<Unit>,
    average: Sensitivity,
    /// Parameters at the start of the task, `[P]`.
    start: Vec<f32>,
    /// Importance of every unit to the earlier tasks, in 0..1.
    past: Option<Vec<f32>>,
}

impl Skills {
    pub(super) fn new(units: Vec<Unit>, average: SensitivityConfig, n_params: usize) -> Self {
        Self {
            units,
            average: Sensitivity::new(average, n_params),
            start: vec![0.0; n_params],
            past: None,
        }
    }

    pub(super) fn begin_task(&mut self, params: &[f32]) {
        self.average.reset();
        self.start.copy_from_slice(params);
    }

    /// Takes in a step: its clipped gradient with the parameters that it belongs to, both `[P]`.
    pub(super) fn update(&mut self, params: &[f32], grads: &[f32]) {
        self.average.update(params, grads);
    }

    /// Ends a task that ended at `params`, `[P]`. After the first task there is nothing to average
    /// with; later, `weigh(present, past)` gives the weight of the present in every unit, and the
    /// average is returned.
    pub(super) fn consolidate(
        &mut self,
        params: &[f32],
        share: f64,
        weigh: impl FnOnce(&[f32], &[f32]) -> Result<Vec<f32>>,
    ) -> Result<Option<Vec<f32>>> {
        let mut scores = Vec::new();
        self.average.scores_into(&mut scores);
        let units = self.units.iter();
        let present = normalised(&units.map(|u| u.importance(&scores)).collect::<Vec<_>>());
        let Some(past) = &self.past else {
            self.past = Some(present);
            return Ok(None);
        };
        let weights = weigh(&present, past)?;
        let mut merged = params.to_vec();
        for (unit, &weight) in self.units.iter().zip(&weights) {
            for i in unit.0.iter().flat_map(|part| part.indices()) {
                merged[i] = weight * params[i] + (1.0 - weight) * self.start[i];
            }
        }
        self.past = Some(accumulated(&present, past, share));
        Ok(Some(merged))
    }

    /// Bytes of the importance of the past; all else is made anew with each task.
    pub(super) fn kept_bytes(&self) -> u64 {
        bytes_of(&self.past)
    }

    pub(super) fn save_state(&self, state: &mut State) {
        state.put("method.sensitivity", self.average.sensitivity());
        if let Some(uncertainty) = self.average.uncertainty() {
            state.put("method.uncertainty", uncertainty);
        }
        state.put("method.start", &self.start);
        state.put_counter("method.has_past", u64::from(self.past.is_some()));
        if let Some(past) = &self.past {
            state.put("method.past", past);
        }
    }

    pub(super) fn load_state(&mut self, state: &State) -> Result<()> {
        let n = self.start.len();
        let of = |name: &str, len| state.tensor(name, len);
        let uncertainty = match self.average.uncertainty() {
            Some(_) => Some(of("method.uncertainty", n)?),
            None => None,
        };
        self.average
            .restore(of("method.sensitivity", n)?, uncertainty)?;
        self.start.copy_from_slice(of("method.start", n)?);
        self.past = match state.counter_up_to("method.has_past", 1)? {
            0 => None,
            _ => Some(of("method.past", self.units.len())?.to_vec()),
        };
        Ok(())
    }
}

/// What tells one consolidation from another: its steps, and the weights of its average.
pub(super) trait Consolidation: Send {
    /// A learning step whose gradient `skills` takes in.
    fn step(&self, skills: &mut Skills, learner: &mut Learner, batch: &Batch) -> Result<f64>;

    /// The weight of the present in every unit, by importance to the present and to the past,
    /// `[units]`.
    fn weights(&self, present: &[f32], past: &[f32]) -> Result<Vec<f32>>;

    /// Weight of the past in the importance that is carried on.
    fn past_share(&self) -> f64;
}

/// Steps, and one average at the end of a task, as a method.
pub(super) struct Consolidated<R> {
    rule: R,
    skills: Skills,
}

impl<R: Consolidation> Consolidated<R> {
    pub(super) fn new(rule: R, skills: Skills) -> Self {
        Self { rule, skills }
    }
}

impl<R: Consolidation> Method for Consolidated<R> {
    fn begin_task(&mut self, learner: &mut Learner, _: &TaskView) -> Result<()> {
        self.skills.begin_task(learner.params());
        Ok(())
    }

    fn observe(&mut self, learner: &mut Learner, batch: &Batch) -> Result<f64> {
        self.rule.step(&mut self.skills, learner, batch)
    }

    fn end_task(&mut self, learner: &mut Learner, _: &TaskView) -> Result<()> {
        let weigh = |present: &[f32], past: &[f32]| self.rule.weights(present, past);
        let share = self.rule.past_share();
        let merged = self.skills.consolidate(learner.params(), share, weigh)?;
        merged.map_or(Ok(()), |merged| learner.set_params(&merged))
    }

    fn kept_bytes(&self) -> u64 {
        self.skills.kept_bytes()
    }

    fn save_state(&self, state: &mut State) {
        self.skills.save_state(state);
    }

    fn load_state(&mut self, state: &State) -> Result<()> {
        self.skills.load_state(state)
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference::{Case, distance};
    use super::*;

    fn layout() -> ParamLayout {
        let mut layout = ParamLayout::default();
        layout.push(format!("q{LORA_A}"), vec![2, 3]);
        layout.push(format!("q{LORA_B}"), vec![4, 2]);
        layout
    }

    #[test]
    fn a_unit_of_a_rank_is_a_row_of_a_and_its_column_of_b() {
        let units = Unit::ranks(&layout());
        let indices = |unit: &Unit| unit.0.iter().flat_map(|p| p.indices()).collect::<Vec<_>>();
        assert_eq!(units.len(), 2);
        assert_eq!(indices(&units[0]), [0, 1, 2, 6, 8, 10, 12]);
        assert_eq!(indices(&units[1]), [3, 4, 5, 7, 9, 11, 13]);
        assert_eq!(Unit::matrices(&layout()).len(), 2);
    }

    #[test]
    fn importance_of_units_and_of_the_past_are_those_of_numpy() {
        let case = Case::read("skills");
        let scores = case.vector("scores");
        let of = |units: Vec<Unit>| -> Vec<f64> {
            units.iter().map(|unit| unit.importance(&scores)).collect()
        };
        let matrices = normalised(&of(Unit::matrices(&layout())));
        assert!(distance(&matrices, &case.vector("matrices")) < 1e-6);
        let ranks: Vec<f32> = of(Unit::ranks(&layout()))
            .iter()
            .map(|&x| x as f32)
            .collect();
        assert!(distance(&ranks, &case.vector("ranks")) < 1e-6);
        let (now, past) = (case.vector("present"), case.vector("past"));
        let both = accumulated(&now, &past, case.number("share"));
        assert!(distance(&both, &case.vector("accumulated")) < 1e-6);
    }

    #[test]
    fn equal_scores_are_all_zero() {
        assert_eq!(normalised(&[3.0, 3.0]), [0.0, 0.0]);
    }
}
