//! O-LoRA: a new LoRA for every task, whose A is kept orthogonal to those of earlier tasks (Wang et
//! al., *Orthogonal Subspace Learning for Language Model Continual Learning*, Findings of EMNLP
//! 2023, arXiv 2310.14152).
//!
//! As in IncLoRA the adapters lie side by side and task t trains slot t alone. The loss gets
//! `lambda1 * sum |A_earlier A_own^T|` over all modules and pairs of rows, and
//! `lambda2 * sum ||own||` over the own matrices (Euclidean norms, as in the released code). No
//! rehearsal.

use std::ops::Range;

use anyhow::Result;
use kif_data::Batch;
use kif_model::{LORA_A, ParamLayout};
use serde::{Deserialize, Serialize};

use super::inc_lora::train_own_slot;
use super::{Method, MethodSpec, Parts};
use crate::error::{SettingError, check_setting};
use crate::learner::Learner;
use crate::task_view::TaskView;

/// Weights of the two penalties.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OLoraConfig {
    /// Weight of the overlap with earlier tasks' A (published: 0.5). At least 0.
    pub lambda1: f64,
    /// Weight of the norms of the task's own matrices (published: 0 on the standard orders, up to
    /// 0.3 for single tasks of the long ones). At least 0.
    pub lambda2: f64,
}

impl Default for OLoraConfig {
    fn default() -> Self {
        Self {
            lambda1: 0.5,
            lambda2: 0.0,
        }
    }
}

impl MethodSpec for OLoraConfig {
    fn presets() -> Vec<Self> {
        vec![Self::default()]
    }

    fn name(&self) -> &'static str {
        "o_lora"
    }

    fn summary(&self) -> &'static str {
        "a new LoRA for every task, orthogonal to the frozen ones"
    }

    fn check(&self) -> Result<(), SettingError> {
        for (field, value) in [("lambda1", self.lambda1), ("lambda2", self.lambda2)] {
            let fine = value.is_finite() && value >= 0.0;
            check_setting(fine, field, value, "a finite number, at least 0")?;
        }
        Ok(())
    }

    fn parts(&self, n_tasks: usize) -> Parts {
        Parts::slots(n_tasks)
    }

    fn build(&self, layout: &ParamLayout) -> Box<dyn Method> {
        Box::new(OLora::new(*self, layout))
    }
}

/// Adds to `grad` the gradient of `lambda * sum |a_i . a_j|` over rows i of `earlier` with respect
/// to rows j of `own`.
///
/// `a` and `grad` are one module's `[rows, n_in]`. A product of exactly 0 pulls in no direction.
fn add_overlap_gradient(
    a: &[f32],
    n_in: usize,
    earlier: Range<usize>,
    own: Range<usize>,
    lambda: f32,
    grad: &mut [f32],
) {
    let row = |i: usize| &a[i * n_in..(i + 1) * n_in];
    for j in own {
        let grad = &mut grad[j * n_in..(j + 1) * n_in];
        for i in earlier.clone() {
            let product: f32 = row(i).iter().zip(row(j)).map(|(x, y)| x * y).sum();
            if product != 0.0 {
                let pull = lambda * product.signum();
                for (g, x) in grad.iter_mut().zip(row(i)) {
                    *g += pull * x;
                }
            }
        }
    }
}

/// Adds to `grad` the gradient of `lambda * ||p||` over the entries of `p` in `ranges`; a zero
/// matrix has none.
fn add_norm_gradient(p: &[f32], ranges: &[Range<usize>], lambda: f32, grad: &mut [f32]) {
    let entries = || ranges.iter().flat_map(|range| range.clone());
    let norm = entries()
        .map(|i| f64::from(p[i]) * f64::from(p[i]))
        .sum::<f64>()
        .sqrt() as f32;
    if norm > 0.0 {
        entries().for_each(|i| grad[i] += lambda * p[i] / norm);
    }
}

/// The A of one module in the flat vector.
struct Module {
    range: Range<usize>,
    n_in: usize,
    /// Rows of one slot.
    rank: usize,
}

/// Steps on the task's own slot, with both penalties.
pub(super) struct OLora {
    config: OLoraConfig,
    modules: Vec<Module>,
    /// The task's own matrices, each as the places of its entries.
    own: Vec<Vec<Range<usize>>>,
    slot: usize,
}

impl OLora {
    pub(super) fn new(config: OLoraConfig, layout: &ParamLayout) -> Self {
        let of_a = layout
            .specs()
            .iter()
            .filter(|spec| spec.name.ends_with(LORA_A));
        let modules = of_a
            .map(|spec| Module {
                range: spec.range.clone(),
                n_in: spec.shape[1],
                rank: spec.shape[0] / layout.n_slots(),
            })
            .collect();
        Self {
            config,
            modules,
            own: Vec::new(),
            slot: 0,
        }
    }
}

impl Method for OLora {
    fn begin_task(&mut self, learner: &mut Learner, task: &TaskView) -> Result<()> {
        train_own_slot(learner, task)?;
        self.slot = task.index;
        let own = learner.layout().slot(task.index);
        self.own = (learner.layout().specs().iter())
            .map(|spec| {
                let inside = |range: &&Range<usize>| {
                    spec.range.start <= range.start && range.end <= spec.range.end
                };
                own.iter().filter(inside).cloned().collect()
            })
            .collect();
        Ok(())
    }

    fn observe(&mut self, learner: &mut Learner, batch: &Batch) -> Result<f64> {
        let Self {
            config,
            modules,
            own,
            slot,
        } = self;
        learner.step_with(batch, |params, grad| {
            for Module { range, n_in, rank } in modules.iter() {
                let (earlier, own) = (0..*slot * rank, *slot * rank..(*slot + 1) * rank);
                let (a, grad) = (&params[range.clone()], &mut grad[range.clone()]);
                add_overlap_gradient(a, *n_in, earlier, own, config.lambda1 as f32, grad);
            }
            for matrix in own.iter() {
                add_norm_gradient(params, matrix, config.lambda2 as f32, grad);
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference::{Case, distance};
    use super::*;

    #[test]
    fn both_penalties_are_those_of_numpy() {
        let case = Case::read("o_lora");
        let (a, n_in) = (case.vector("a"), case.number("n_in") as usize);
        let mut grad = vec![0.0; a.len()];
        let lambda = case.number("lambda1") as f32;
        add_overlap_gradient(&a, n_in, 0..4, 4..6, lambda, &mut grad);
        assert!(distance(&grad, &case.vector("overlap_gradient")) < 1e-6);
        let mut grad = vec![0.0; a.len()];
        let own = 4 * n_in..6 * n_in;
        add_norm_gradient(
            &a,
            std::slice::from_ref(&own),
            case.number("lambda2") as f32,
            &mut grad,
        );
        assert!(distance(&grad, &case.vector("norm_gradient")) < 1e-6);
    }

    #[test]
    fn orthogonal_rows_and_zero_matrices_are_left_alone() {
        let mut grad = [0.0; 4];
        add_overlap_gradient(&[1.0, 0.0, 0.0, 2.0], 2, 0..1, 1..2, 1.0, &mut grad);
        add_norm_gradient(&[0.0; 4], &[0..2, 2..4], 1.0, &mut grad);
        assert_eq!(grad, [0.0; 4]);
    }
}
