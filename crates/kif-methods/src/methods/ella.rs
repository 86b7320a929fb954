//! ELLA: a new LoRA for every task, whose update keeps out of the entries that earlier updates fill
//! (Das Biswas et al., *ELLA: Efficient Lifelong Learning for Adapters in Large Language Models*,
//! arXiv 2601.02232).
//!
//! As in IncLoRA the adapters lie side by side and task t trains slot t alone. The loss gets
//! `lambda * sum ||D_t . D_past||_F^2` over all modules, where `D_t = B_t A_t` is the task's own
//! update of the module's weight, without the adapter's scale, D_past the sum of the earlier ones,
//! and `.` multiplies entry by entry. No rehearsal.

use anyhow::Result;
use kif_data::Batch;
use kif_model::{LORA_A, LORA_B, ParamLayout, ParamSpec};
use serde::{Deserialize, Serialize};

use super::inc_lora::train_own_slot;
use super::{Method, MethodSpec, Parts};
use crate::error::{SettingError, check_setting};
use crate::learner::Learner;
use crate::task_view::TaskView;

/// How strong the penalty is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EllaConfig {
    /// Weight of the penalty, beside a loss in nats per token; its published value is not known to
    /// us; with 1e6 the shared entries halve on the embedded base. At least 0.
    pub lambda: f64,
}

impl Default for EllaConfig {
    fn default() -> Self {
        Self { lambda: 1e6 }
    }
}

impl MethodSpec for EllaConfig {
    fn presets() -> Vec<Self> {
        vec![Self::default()]
    }

    fn name(&self) -> &'static str {
        "ella"
    }

    fn summary(&self) -> &'static str {
        "a new LoRA for every task, away from what earlier updates fill"
    }

    fn check(&self) -> Result<(), SettingError> {
        let lambda = self.lambda;
        let fine = lambda.is_finite() && lambda >= 0.0;
        check_setting(fine, "lambda", lambda, "a finite number, at least 0")
    }

    fn parts(&self, n_tasks: usize) -> Parts {
        Parts::slots(n_tasks)
    }

    fn build(&self, layout: &ParamLayout) -> Box<dyn Method> {
        Box::new(Ella::new(*self, layout))
    }
}

/// One module: where its A `[slots R, n_in]` and its B `[n_out, slots R]` lie.
struct Module {
    a: ParamSpec,
    b: ParamSpec,
    /// R of one slot.
    rank: usize,
    /// The sum of the earlier updates, `[n_out, n_in]`; empty until the task's first step.
    past: Vec<f32>,
}

impl Module {
    fn a_row<'a>(&self, params: &'a [f32], r: usize) -> &'a [f32] {
        let (start, n_in) = (self.a.range.start, self.a.shape[1]);
        &params[start + r * n_in..start + (r + 1) * n_in]
    }

    /// Where the entry of B in row `o` and column `r` lies.
    fn b_at(&self, o: usize, r: usize) -> usize {
        self.b.range.start + o * self.b.shape[1] + r
    }

    /// Row `o` of the product of the columns of B and the rows of A from `first` to `end`, added to
    /// `out`.
    fn add_row(&self, params: &[f32], o: usize, (first, end): (usize, usize), out: &mut [f32]) {
        for r in first..end {
            let b = params[self.b_at(o, r)];
            let row = self.a_row(params, r);
            out.iter_mut().zip(row).for_each(|(x, a)| *x += b * a);
        }
    }

    /// Sums up the slots before `slot`.
    fn begin(&mut self, params: &[f32], slot: usize) {
        let (n_out, n_in) = (self.b.shape[0], self.a.shape[1]);
        let mut past = vec![0.0; n_out * n_in];
        for (o, row) in past.chunks_mut(n_in).enumerate() {
            self.add_row(params, o, (0, slot * self.rank), row);
        }
        self.past = past;
    }

    /// Adds the gradient of `lambda ||(B A) . past||^2` for the slot's B and A to `grad`, `[P]`.
    fn add_gradient(&self, params: &[f32], slot: usize, lambda: f32, grad: &mut [f32]) {
        let n_in = self.a.shape[1];
        let own = (slot * self.rank, (slot + 1) * self.rank);
        let mut pull = vec![0.0; n_in];
        for (o, past) in self.past.chunks(n_in).enumerate() {
            pull.fill(0.0);
            self.add_row(params, o, own, &mut pull);
            let pairs = pull.iter_mut().zip(past);
            pairs.for_each(|(x, past)| *x *= 2.0 * lambda * past * past);
            for r in own.0..own.1 {
                let at = self.b_at(o, r);
                let row = self.a_row(params, r);
                grad[at] += row.iter().zip(&pull).map(|(a, x)| a * x).sum::<f32>();
                let start = self.a.range.start + r * n_in;
                let of_a = grad[start..start + n_in].iter_mut().zip(&pull);
                of_a.for_each(|(g, x)| *g += params[at] * x);
            }
        }
    }
}

/// Steps on the task's own slot, with the penalty.
pub(super) struct Ella {
    config: EllaConfig,
    modules: Vec<Module>,
    slot: usize,
}

impl Ella {
    pub(super) fn new(config: EllaConfig, layout: &ParamLayout) -> Self {
        let specs = layout.specs();
        let module = |a: &ParamSpec| {
            let stem = a.name.strip_suffix(LORA_A)?;
            let b = (specs.iter()).find(|b| b.name.strip_suffix(LORA_B) == Some(stem))?;
            Some(Module {
                a: a.clone(),
                b: b.clone(),
                rank: a.shape[0] / layout.n_slots(),
                past: Vec::new(),
            })
        };
        Self {
            config,
            modules: specs.iter().filter_map(module).collect(),
            slot: 0,
        }
    }
}

impl Method for Ella {
    fn begin_task(&mut self, learner: &mut Learner, task: &TaskView) -> Result<()> {
        train_own_slot(learner, task)?;
        self.slot = task.index;
        // Summed up in the first step: the earlier slots of a run that goes on are loaded between
        // here and there.
        self.modules
            .iter_mut()
            .for_each(|module| module.past.clear());
        Ok(())
    }

    fn observe(&mut self, learner: &mut Learner, batch: &Batch) -> Result<f64> {
        let (lambda, slot) = (self.config.lambda as f32, self.slot);
        let modules = &mut self.modules;
        learner.step_with(batch, |params, grad| {
            if slot > 0 {
                for module in modules {
                    if module.past.is_empty() {
                        module.begin(params, slot);
                    }
                    module.add_gradient(params, slot, lambda, grad);
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference::{Case, distance};
    use super::*;

    #[test]
    fn the_penalty_has_the_gradient_of_numpy() {
        let case = Case::read("ella");
        let mut layout = ParamLayout::default();
        layout.push(format!("q{LORA_A}"), vec![4, 3]);
        layout.push(format!("q{LORA_B}"), vec![2, 4]);
        let layout = layout.with_slots(2).unwrap();
        let config = EllaConfig {
            lambda: case.number("lambda"),
        };
        let mut ella = Ella::new(config, &layout);
        let params = case.vector("params");
        let module = &mut ella.modules[0];
        module.begin(&params, 1);
        assert!(distance(&module.past, &case.vector("past")) < 1e-6);
        let mut grad = vec![0.0; params.len()];
        module.add_gradient(&params, 1, config.lambda as f32, &mut grad);
        assert!(distance(&grad, &case.vector("gradient")) < 1e-4);
    }
}
