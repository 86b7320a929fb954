//! VR-MCL: learning to learn on the task and the memory together, along a hypergradient of reduced
//! variance (Wu et al., *Meta Continual Learning Revisited*, ICLR 2024).
//!
//! A batch of the task and one of the memory are cut into the same number of parts. Fast weights
//! start from theta and take one SGD step per part of the task, with a learned rate for every
//! parameter; after each step the meta-loss is that of this part and its part of the memory
//! together. The hypergradient is the mean gradient of the meta-losses, first-order: derivatives do
//! not go through the inner steps. Its momentum is STORM's (Cutkosky and Orabona, NeurIPS 2019):
//! `m_t = g(theta_t) + beta (m_{t-1} - g(theta_{t-1}))`, both hypergradients on the same batch,
//! with the same dropout. AdamW takes `m_t` for its gradient.
//!
//! Without a memory, as on the first task, steps are plain. Rates and momentum start anew with each
//! task, as all optimizer state does here.

use anyhow::Result;
use kif_data::{Batch, Ragged};
use kif_model::ParamLayout;
use serde::{Deserialize, Serialize};

use super::{Method, MethodSpec};
use crate::error::{SettingError, check_setting};
use crate::learner::Learner;
use crate::learner::micro_batch::by_rows;
use crate::state::State;
use crate::task_view::{Sampler, TaskView};

/// The two loops of VR-MCL. No published value for language models is known to us.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VrMclConfig {
    /// Parts of a batch, and so inner steps. At least 1.
    pub inner_steps: usize,
    /// Rate of the inner steps that every parameter starts with. Above 0.
    pub inner_lr: f32,
    /// Rate at which the inner rates are learned. At least 0.
    pub rate_lr: f32,
    /// Share of the last momentum's error that is carried on (beta; 0 is meta-learning without
    /// reduction of variance). In `[0, 1)`.
    pub momentum: f32,
}

impl Default for VrMclConfig {
    fn default() -> Self {
        Self {
            inner_steps: 2,
            inner_lr: 0.1,
            rate_lr: 0.1,
            momentum: 0.9,
        }
    }
}

impl MethodSpec for VrMclConfig {
    fn presets() -> Vec<Self> {
        vec![Self::default()]
    }

    fn name(&self) -> &'static str {
        "vr_mcl"
    }

    fn summary(&self) -> &'static str {
        "meta-learning on task and memory with reduced variance"
    }

    fn check(&self) -> Result<(), SettingError> {
        let above = self.inner_lr.is_finite() && self.inner_lr > 0.0;
        let rate = self.rate_lr.is_finite() && self.rate_lr >= 0.0;
        check_setting(
            self.inner_steps > 0,
            "inner_steps",
            self.inner_steps,
            "at least 1",
        )?;
        check_setting(above, "inner_lr", self.inner_lr, "a finite number above 0")?;
        check_setting(rate, "rate_lr", self.rate_lr, "a finite number, at least 0")?;
        check_setting(
            (0.0..1.0).contains(&self.momentum),
            "momentum",
            self.momentum,
            "a number in [0, 1)",
        )
    }

    fn keeps_memory(&self) -> bool {
        true
    }

    fn added_steps(&self) -> f64 {
        // Inner steps and meta-losses on twice the rows; with momentum all of it again at the
        // earlier parameters.
        if self.momentum > 0.0 { 5.0 } else { 2.0 }
    }

    fn build(&self, _: &ParamLayout) -> Box<dyn Method> {
        Box::new(VrMcl::new(*self))
    }
}

/// `m <- grad + beta (m - earlier_grad)`, all `[P]` (STORM).
fn reduce_variance(m: &mut [f32], grad: &[f32], earlier_grad: &[f32], beta: f32) {
    for ((m, g), earlier) in m.iter_mut().zip(grad).zip(earlier_grad) {
        *m = g + beta * (*m - earlier);
    }
}

/// `theta <- theta - max(rate, 0) grad`, all `[P]`: the inner step.
fn inner_step(theta: &mut [f32], rates: &[f32], grad: &[f32]) {
    for ((t, rate), g) in theta.iter_mut().zip(rates).zip(grad) {
        *t -= rate.max(0.0) * g;
    }
}

/// What the inner and outer pass over one batch gives, all `[P]`.
struct Hypergradient {
    /// Mean loss of the parts of the task, each before its inner step.
    loss: f64,
    /// Mean of the meta-losses' gradients.
    params: Vec<f32>,
    /// Mean derivative of the meta-losses by the inner rates:
    /// `-g_meta . sum of the inner gradients so far`.
    rates: Vec<f32>,
}

/// The hypergradient at the learner's parameters, which it leaves as they were.
fn hypergradient(
    learner: &mut Learner,
    rates: &[f32],
    parts: &[(Batch, Batch)],
) -> Result<Hypergradient> {
    let n = rates.len();
    let start = learner.params().to_vec();
    let mut fast = start.clone();
    let mut inner_sum = vec![0.0; n];
    let mut sum = Hypergradient {
        loss: 0.0,
        params: vec![0.0; n],
        rates: vec![0.0; n],
    };
    let share = 1.0 / parts.len() as f32;
    for (own, joined) in parts {
        sum.loss += learner.gradient(own)? / parts.len() as f64;
        inner_step(&mut fast, rates, learner.grad());
        add_scaled(&mut inner_sum, learner.grad(), 1.0);
        learner.set_params(&fast)?;
        learner.gradient(joined)?;
        add_scaled(&mut sum.params, learner.grad(), share);
        for ((rate, g), inner) in sum.rates.iter_mut().zip(learner.grad()).zip(&inner_sum) {
            *rate -= share * g * inner;
        }
    }
    learner.set_params(&start)?;
    Ok(sum)
}

fn add_scaled(into: &mut [f32], values: &[f32], factor: f32) {
    for (x, y) in into.iter_mut().zip(values) {
        *x += factor * y;
    }
}

/// Parts of the task's batch, each alone and with its part of the memory's; a smaller memory batch
/// has fewer parts.
fn parts(batch: &Batch, memory: &Batch, n_parts: usize) -> Vec<(Batch, Batch)> {
    let cut = |batch: &Batch| by_rows(batch, batch.n_rows().div_ceil(n_parts).max(1));
    let memory = cut(memory);
    let join = |(i, own): (usize, Batch)| {
        let other = &memory[i % memory.len()];
        let joined = Batch {
            inputs: Ragged::from_rows(own.inputs.rows().chain(other.inputs.rows())),
            targets: Ragged::from_rows(own.targets.rows().chain(other.targets.rows())),
        };
        (own, joined)
    };
    cut(batch).into_iter().enumerate().map(join).collect()
}

/// Steps along hypergradients.
pub(super) struct VrMcl {
    config: VrMclConfig,
    meta: Option<Meta>,
}

/// What meta-learning keeps within a task.
struct Meta {
    sampler: Sampler,
    rates: Vec<f32>,
    /// STORM's momentum, and the parameters at which it was taken.
    momentum: Vec<f32>,
    earlier: Vec<f32>,
}

impl VrMcl {
    pub(super) fn new(config: VrMclConfig) -> Self {
        Self { config, meta: None }
    }
}

impl Method for VrMcl {
    fn begin_task(&mut self, learner: &mut Learner, task: &TaskView) -> Result<()> {
        let n = learner.params().len();
        self.meta = (!task.memory.is_empty()).then(|| Meta {
            sampler: Sampler::of_memory(task),
            rates: vec![self.config.inner_lr; n],
            momentum: vec![0.0; n],
            earlier: learner.params().to_vec(),
        });
        Ok(())
    }

    fn observe(&mut self, learner: &mut Learner, batch: &Batch) -> Result<f64> {
        let Some(meta) = &mut self.meta else {
            return learner.step(batch);
        };
        let parts = parts(batch, &meta.sampler.draw(), self.config.inner_steps);
        let pass = learner.passes();
        let now = hypergradient(learner, &meta.rates, &parts)?;
        if learner.steps() > 0 && self.config.momentum > 0.0 {
            let theta = learner.params().to_vec();
            learner.set_params(&meta.earlier)?;
            learner.repeat_from(pass);
            let before = hypergradient(learner, &meta.rates, &parts)?;
            learner.set_params(&theta)?;
            let beta = self.config.momentum;
            reduce_variance(&mut meta.momentum, &now.params, &before.params, beta);
        } else {
            meta.momentum.copy_from_slice(&now.params);
        }
        add_scaled(&mut meta.rates, &now.rates, -self.config.rate_lr);
        meta.earlier.copy_from_slice(learner.params());
        learner.set_gradient(&meta.momentum)?;
        learner.apply()?;
        Ok(now.loss)
    }

    fn end_task(&mut self, _: &mut Learner, _: &TaskView) -> Result<()> {
        self.meta = None;
        Ok(())
    }

    fn save_state(&self, state: &mut State) {
        let Some(meta) = &self.meta else { return };
        meta.sampler.save_state(state);
        state.put("method.rates", &meta.rates);
        state.put("method.momentum", &meta.momentum);
        state.put("method.earlier", &meta.earlier);
    }

    fn load_state(&mut self, state: &State) -> Result<()> {
        let Some(meta) = &mut self.meta else {
            return Ok(());
        };
        meta.sampler.load_state(state)?;
        for (name, vector) in [
            ("method.rates", &mut meta.rates),
            ("method.momentum", &mut meta.momentum),
            ("method.earlier", &mut meta.earlier),
        ] {
            let n = vector.len();
            vector.copy_from_slice(state.tensor(name, n)?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference::{Case, distance};
    use super::*;

    #[test]
    fn inner_steps_and_momentum_are_those_of_numpy() {
        let case = Case::read("vr_mcl");
        let mut theta = case.vector("theta");
        inner_step(&mut theta, &case.vector("rates"), &case.vector("grad"));
        assert!(distance(&theta, &case.vector("fast")) < 1e-6);
        let mut m = case.vector("momentum");
        let beta = case.number("beta") as f32;
        reduce_variance(
            &mut m,
            &case.vector("grad"),
            &case.vector("earlier_grad"),
            beta,
        );
        assert!(distance(&m, &case.vector("reduced")) < 1e-6);
    }

    #[test]
    fn parts_share_the_memory_batch() {
        let batch = |ids: &[u32]| Batch {
            inputs: Ragged::from_rows(ids.iter().map(|id| [*id])),
            targets: Ragged::from_rows(ids.iter().map(|id| [*id])),
        };
        let parts = parts(&batch(&[1, 2, 3]), &batch(&[8, 9]), 2);
        let ids: Vec<_> = parts
            .iter()
            .map(|(own, joined)| (own.inputs.ids().to_vec(), joined.inputs.ids().to_vec()))
            .collect();
        assert_eq!(ids, [(vec![1, 2], vec![1, 2, 8]), (vec![3], vec![3, 9])]);
    }
}
