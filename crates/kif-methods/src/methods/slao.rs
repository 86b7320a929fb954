//! SLAO: every task starts from an orthogonal basis of the last A, and its B is merged into one
//! (Qiao and Mahdavi, *Merge before Forget: A Single LoRA Continual Learning via Continual
//! Merging*, ICLR 2026, arXiv 2512.23017).
//!
//! Task i (from 1) starts from `A = Q^T`, where `Q R = A_{i-1}^T` with a positive diagonal of R,
//! and `B = B_{i-1}`, both as the last task's training left them. At its end the adapter becomes
//! `A = A_i`, `B = B_merged + (B_i - B_merged) / sqrt(i)`. No memory; two adapters are kept,
//! however long the stream is.

use anyhow::Result;
use kif_model::{LORA_A, LORA_B, ParamLayout, ParamSpec};
use serde::{Deserialize, Serialize};

use super::{Method, MethodSpec, bytes_of};
use crate::learner::Learner;
use crate::state::State;
use crate::task_view::TaskView;

/// It has no settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlaoConfig;

impl MethodSpec for SlaoConfig {
    fn presets() -> Vec<Self> {
        vec![Self]
    }

    fn name(&self) -> &'static str {
        "slao"
    }

    fn summary(&self) -> &'static str {
        "every task from an orthogonal start, and one running average of B"
    }

    fn needs_stream(&self) -> bool {
        true
    }

    fn build(&self, _: &ParamLayout) -> Box<dyn Method> {
        Box::new(Slao::default())
    }
}

/// Makes the rows of `a`, `[rank, width]`, orthonormal in their order: Q transposed of the QR
/// decomposition of A transposed, with a positive diagonal of R.
///
/// Modified Gram-Schmidt in f64, twice for each row. A row that depends on those before it stays 0.
fn orthonormalise(a: &mut [f32], rank: usize) {
    let width = a.len() / rank.max(1);
    let mut basis: Vec<Vec<f64>> = Vec::with_capacity(rank);
    for row in a.chunks_mut(width.max(1)) {
        let mut q: Vec<f64> = row.iter().map(|x| f64::from(*x)).collect();
        let before = norm(&q);
        for b in basis.iter().chain(&basis) {
            let product: f64 = q.iter().zip(b).map(|(x, y)| x * y).sum();
            q.iter_mut().zip(b).for_each(|(x, y)| *x -= product * y);
        }
        let length = norm(&q);
        let scale = if length > 1e-6 * before {
            1.0 / length
        } else {
            0.0
        };
        q.iter_mut().for_each(|x| *x *= scale);
        row.iter_mut().zip(&q).for_each(|(x, q)| *x = *q as f32);
        basis.push(q);
    }
}

fn norm(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// `merged + (end - merged) / sqrt(n_tasks)`, elementwise.
fn merge(merged: &[f32], end: &[f32], n_tasks: usize) -> Vec<f32> {
    let share = (1.0 / (n_tasks as f64).sqrt()) as f32;
    let pairs = merged.iter().zip(end);
    pairs.map(|(m, e)| m + share * (e - m)).collect()
}

/// Plain steps from an orthogonal start, and a merge at the end.
#[derive(Default)]
pub(super) struct Slao {
    /// Where the training of the last task ended, `[P]`; none before the first.
    last: Option<Vec<f32>>,
    /// The adapter of the tasks before the present one, `[P]`.
    merged: Vec<f32>,
}

impl Slao {
    fn start(last: &[f32], specs: &[ParamSpec]) -> Vec<f32> {
        let mut start = last.to_vec();
        for spec in specs.iter().filter(|spec| spec.name.ends_with(LORA_A)) {
            orthonormalise(&mut start[spec.range.clone()], spec.shape[0]);
        }
        start
    }
}

impl Method for Slao {
    fn begin_task(&mut self, learner: &mut Learner, _: &TaskView) -> Result<()> {
        self.merged = learner.params().to_vec();
        if let Some(last) = &self.last {
            let start = Self::start(last, learner.layout().specs());
            learner.set_params(&start)?;
        }
        Ok(())
    }

    fn end_task(&mut self, learner: &mut Learner, task: &TaskView) -> Result<()> {
        let end = learner.params().to_vec();
        if self.last.is_some() {
            let mut params = end.clone();
            let specs = learner.layout().specs();
            for spec in specs.iter().filter(|spec| spec.name.ends_with(LORA_B)) {
                let at = spec.range.clone();
                let b = merge(&self.merged[at.clone()], &end[at.clone()], task.index + 1);
                params[at].copy_from_slice(&b);
            }
            learner.set_params(&params)?;
        }
        self.last = Some(end);
        Ok(())
    }

    /// The second adapter; the merged one is the adapter itself.
    fn kept_bytes(&self) -> u64 {
        bytes_of(&self.last)
    }

    fn save_state(&self, state: &mut State) {
        state.put("method.merged", &self.merged);
        state.put_counter("method.has_last", u64::from(self.last.is_some()));
        if let Some(last) = &self.last {
            state.put("method.last", last);
        }
    }

    fn load_state(&mut self, state: &State) -> Result<()> {
        let n = self.merged.len();
        let merged = state.tensor("method.merged", n)?.to_vec();
        self.last = match state.counter_up_to("method.has_last", 1)? {
            0 => None,
            _ => Some(state.tensor("method.last", n)?.to_vec()),
        };
        self.merged = merged;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference::{Case, distance};
    use super::*;

    #[test]
    fn the_start_is_the_q_of_numpy_and_the_merge_its_average() {
        let case = Case::read("slao");
        let mut a = case.vector("a");
        orthonormalise(&mut a, case.number("rank") as usize);
        assert!(distance(&a, &case.vector("q")) < 1e-6);
        let n_tasks = case.number("n_tasks") as usize;
        let b = merge(&case.vector("merged"), &case.vector("b"), n_tasks);
        assert!(distance(&b, &case.vector("average")) < 1e-6);
    }

    #[test]
    fn a_row_that_says_nothing_new_becomes_zero() {
        let mut a = [3.0, 4.0, 6.0, 8.0, 0.0, 1.0];
        orthonormalise(&mut a, 3);
        let expected = [0.6, 0.8, 0.0, 0.0, -0.8, 0.6];
        assert!(distance(&a, &expected) < 1e-6, "{a:?}");
    }
}
