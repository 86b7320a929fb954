//! A-GEM: the gradient of the task must not point against that of the memory (Chaudhry et al.,
//! *Efficient Lifelong Learning with A-GEM*, ICLR 2019, arXiv 1812.00420).
//!
//! Every step draws a batch of the memory. If `g . g_ref < 0`, the part of g along g_ref is taken
//! out (equation 11); AdamW sees the result. Both gradients are clipped before: a positive factor
//! on either only scales what comes out. Without a memory, as on the first task, steps are plain.

use anyhow::Result;
use kif_data::Batch;
use kif_model::ParamLayout;
use serde::{Deserialize, Serialize};

use super::{Method, MethodSpec};
use crate::learner::Learner;
use crate::state::State;
use crate::task_view::{Sampler, TaskView};

/// It has no settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AGemConfig;

impl MethodSpec for AGemConfig {
    fn presets() -> Vec<Self> {
        vec![Self]
    }

    fn name(&self) -> &'static str {
        "a_gem"
    }

    fn summary(&self) -> &'static str {
        "the task's gradient, projected where it points against the memory's"
    }

    fn keeps_memory(&self) -> bool {
        true
    }

    fn added_steps(&self) -> f64 {
        // A batch of the memory beside every one of the task.
        1.0
    }

    fn build(&self, _: &ParamLayout) -> Box<dyn Method> {
        Box::new(AGem::default())
    }
}

/// `g - (g . g_ref) / (g_ref . g_ref) g_ref` where `g . g_ref < 0`, else `g`; both `[P]`. Says
/// whether it was. Products are summed in f64.
fn project(grad: &mut [f32], reference: &[f32]) -> bool {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter()
            .zip(b)
            .map(|(a, b)| f64::from(*a) * f64::from(*b))
            .sum()
    };
    let product = dot(grad, reference);
    if product < 0.0 {
        let share = product / dot(reference, reference);
        for (g, r) in grad.iter_mut().zip(reference) {
            *g = (f64::from(*g) - share * f64::from(*r)) as f32;
        }
    }
    product < 0.0
}

/// Steps along projected gradients.
#[derive(Default)]
pub(super) struct AGem {
    memory: Option<Sampler>,
}

impl Method for AGem {
    fn begin_task(&mut self, _: &mut Learner, task: &TaskView) -> Result<()> {
        self.memory = (!task.memory.is_empty()).then(|| Sampler::of_memory(task));
        Ok(())
    }

    fn observe(&mut self, learner: &mut Learner, batch: &Batch) -> Result<f64> {
        let Some(memory) = &mut self.memory else {
            return learner.step(batch);
        };
        learner.memory_gradient(&memory.draw(), 1.0)?;
        let reference = learner.grad().to_vec();
        let loss = learner.gradient(batch)?;
        let mut grad = learner.grad().to_vec();
        if project(&mut grad, &reference) {
            learner.set_gradient(&grad)?;
        }
        learner.apply()?;
        Ok(loss)
    }

    fn save_state(&self, state: &mut State) {
        if let Some(memory) = &self.memory {
            memory.save_state(state);
        }
    }

    fn load_state(&mut self, state: &State) -> Result<()> {
        if let Some(memory) = &mut self.memory {
            memory.load_state(state)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference::{Case, distance};
    use super::*;

    #[test]
    fn by_hand() {
        let mut against = [1.0, -3.0];
        project(&mut against, &[0.0, 2.0]);
        assert_eq!(against, [1.0, 0.0]);
        let mut along = [1.0, 3.0];
        project(&mut along, &[0.0, 2.0]);
        assert_eq!(along, [1.0, 3.0]);
        let mut nothing = [1.0, 3.0];
        project(&mut nothing, &[0.0, 0.0]);
        assert_eq!(nothing, [1.0, 3.0]);
    }

    #[test]
    fn the_projection_is_that_of_numpy() {
        let case = Case::read("a_gem");
        let mut grad = case.vector("grad");
        project(&mut grad, &case.vector("reference"));
        assert!(distance(&grad, &case.vector("projected")) < 1e-6);
    }
}
