//! EWC: parameters that earlier tasks' Fisher information calls important are held by a spring
//! (Kirkpatrick et al., *Overcoming catastrophic forgetting in neural networks*, PNAS 2017, arXiv
//! 1612.00796).
//!
//! The loss gets `lambda / 2 * sum_j F_j (theta_j - c_j)^2`. [`EwcFisher::Online`] is the running
//! estimate of TRACE's code with the decay of online EWC (Schwarz et al., ICML 2018, arXiv
//! 1805.06370): F from the gradients of the training steps themselves, c where the last task ended.
//! [`EwcFisher::Textbook`] takes F from single examples after training, and keeps one spring per
//! task: their sum is one spring, too, with F their sum and c their mean weighted by F. Either way
//! the first task is plain fine-tuning, and two vectors are kept, however long the stream is.

use anyhow::Result;
use kif_data::{Batch, epoch_order};
use kif_importance::{Fisher, add_squares};
use kif_model::ParamLayout;
use serde::{Deserialize, Serialize};

use super::{Method, MethodSpec, bytes_of};
use crate::error::{SettingError, check_setting};
use crate::learner::Learner;
use crate::state::State;
use crate::task_view::TaskView;

/// How strong the spring is, and what it hangs on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EwcConfig {
    /// Strength of the penalty, whose loss is a mean in nats per target token (TRACE's code: 400,
    /// with its online estimate). At least 0.
    pub lambda: f64,
    /// Where the Fisher information comes from.
    pub fisher: EwcFisher,
}

/// An estimate of the diagonal of the Fisher information.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum EwcFisher {
    /// Squares of the gradients of all steps of a task, unclipped and without the penalty's part,
    /// summed and divided by the steps of one epoch.
    Online {
        /// What earlier tasks' estimates are multiplied by when a task is added (TRACE's code: 1).
        /// In `[0, 1]`.
        decay: f32,
    },
    /// Mean of the squared gradients of `log p(y | x)` of single rows, without dropout, after the
    /// task was learned.
    Textbook {
        /// Rows of the task that are taken, a fixed choice by the seed; all if there are fewer. At
        /// least 1.
        rows: usize,
    },
}

impl EwcConfig {
    /// As TRACE's code does it, which is where the published rows for language models come from.
    pub fn online() -> Self {
        Self {
            lambda: 400.0,
            fisher: EwcFisher::Online { decay: 1.0 },
        }
    }

    /// As Kirkpatrick et al. state it; 1 is what Bayes' rule gives for tasks of equal size.
    pub fn textbook() -> Self {
        Self {
            lambda: 1.0,
            fisher: EwcFisher::Textbook { rows: 200 },
        }
    }
}

impl MethodSpec for EwcConfig {
    fn presets() -> Vec<Self> {
        vec![Self::online(), Self::textbook()]
    }

    fn name(&self) -> &'static str {
        match self.fisher {
            EwcFisher::Online { .. } => "ewc",
            EwcFisher::Textbook { .. } => "ewc-textbook",
        }
    }

    fn summary(&self) -> &'static str {
        "a spring to where earlier tasks ended, by their Fisher information"
    }

    fn check(&self) -> Result<(), SettingError> {
        let lambda = self.lambda;
        let fine = lambda.is_finite() && lambda >= 0.0;
        check_setting(fine, "lambda", lambda, "a finite number, at least 0")?;
        match self.fisher {
            EwcFisher::Online { decay } => check_setting(
                (0.0..=1.0).contains(&decay),
                "fisher.decay",
                decay,
                "a number in [0, 1]",
            ),
            EwcFisher::Textbook { rows } => {
                check_setting(rows > 0, "fisher.rows", rows, "at least 1")
            }
        }
    }

    fn needs_stream(&self) -> bool {
        true
    }

    fn build(&self, layout: &ParamLayout) -> Box<dyn Method> {
        Box::new(Ewc::new(*self, layout.n_params()))
    }
}

/// `1/2 sum_j F_j (theta_j - c_j)^2`, all `[P]`.
#[derive(Clone, Debug, PartialEq)]
struct Spring {
    fisher: Vec<f32>,
    centre: Vec<f32>,
}

impl Spring {
    /// Adds `lambda F (theta - c)` to `grad`.
    fn add_gradient(&self, lambda: f32, theta: &[f32], grad: &mut [f32]) {
        let springs = self.fisher.iter().zip(&self.centre);
        for ((g, t), (f, c)) in grad.iter_mut().zip(theta).zip(springs) {
            *g += lambda * f * (t - c);
        }
    }

    /// The sum of this spring and one of strength `fisher` at `theta`, up to a constant.
    fn and(mut self, fisher: &[f32], theta: &[f32]) -> Self {
        let new = fisher.iter().zip(theta);
        for ((f, c), (new, t)) in self.fisher.iter_mut().zip(&mut self.centre).zip(new) {
            *f += new;
            if *f > 0.0 {
                *c += new / *f * (t - *c);
            }
        }
        self
    }

    /// One spring at `theta`, of strength `decay F + fisher`.
    fn moved(mut self, decay: f32, fisher: &[f32], theta: &[f32]) -> Self {
        for (f, new) in self.fisher.iter_mut().zip(fisher) {
            *f = decay * *f + new;
        }
        self.centre.copy_from_slice(theta);
        self
    }
}

/// Steps with a spring to where earlier tasks ended.
pub(super) struct Ewc {
    config: EwcConfig,
    /// Of all earlier tasks.
    spring: Option<Spring>,
    /// Online estimate of the present task, `[P]`.
    current: Vec<f32>,
    /// Steps of an epoch.
    n_batches: usize,
    n_params: usize,
}

impl Ewc {
    pub(super) fn new(config: EwcConfig, n_params: usize) -> Self {
        Self {
            config,
            spring: None,
            current: Vec::new(),
            n_batches: 1,
            n_params,
        }
    }

    /// Mean of squared gradients of single rows.
    fn textbook(learner: &mut Learner, task: &TaskView, rows: usize) -> Result<Vec<f32>> {
        // An epoch that no training reaches: a shuffle of its own.
        let order = epoch_order(task.rows.len(), task.seed, task.index as u64, u64::MAX);
        let mut fisher = Fisher::new(learner.params().len());
        let mut grad = vec![0.0; learner.params().len()];
        for &i in order.iter().take(rows) {
            grad.fill(0.0);
            let row = Batch::from_rows([&task.rows[i]]);
            learner.add_gradient(&mut grad, |model, grad| {
                Ok(model.loss_and_grad(&row, 1.0, None, grad)?.nll)
            })?;
            fisher.accumulate(&grad, 1.0);
        }
        Ok(fisher.finish()?)
    }
}

impl Method for Ewc {
    fn begin_task(&mut self, _: &mut Learner, task: &TaskView) -> Result<()> {
        if let EwcFisher::Online { .. } = self.config.fisher {
            self.current = vec![0.0; self.n_params];
        }
        self.n_batches = task.rows.len().div_ceil(task.batch_size).max(1);
        Ok(())
    }

    fn observe(&mut self, learner: &mut Learner, batch: &Batch) -> Result<f64> {
        let Self {
            config,
            spring,
            current,
            n_batches,
            ..
        } = self;
        learner.step_with(batch, |params, grad| {
            if let EwcFisher::Online { .. } = config.fisher {
                add_squares(current, grad, 1.0 / *n_batches as f32);
            }
            if let Some(spring) = spring {
                spring.add_gradient(config.lambda as f32, params, grad);
            }
        })
    }

    fn end_task(&mut self, learner: &mut Learner, task: &TaskView) -> Result<()> {
        let earlier = self.spring.take().unwrap_or_else(|| Spring {
            fisher: vec![0.0; self.n_params],
            centre: learner.params().to_vec(),
        });
        self.spring = Some(match self.config.fisher {
            EwcFisher::Online { decay } => earlier.moved(decay, &self.current, learner.params()),
            EwcFisher::Textbook { rows } => {
                let fisher = Self::textbook(learner, task, rows)?;
                earlier.and(&fisher, learner.params())
            }
        });
        Ok(())
    }

    fn kept_bytes(&self) -> u64 {
        let vectors = self.spring.iter().flat_map(|s| [&s.fisher, &s.centre]);
        bytes_of(vectors)
    }

    fn save_state(&self, state: &mut State) {
        state.put("method.current", &self.current);
        state.put_counter("method.has_spring", u64::from(self.spring.is_some()));
        if let Some(Spring { fisher, centre }) = &self.spring {
            state.put("method.fisher", fisher);
            state.put("method.centre", centre);
        }
    }

    fn load_state(&mut self, state: &State) -> Result<()> {
        let current = state.tensor("method.current", self.current.len())?;
        self.current.copy_from_slice(current);
        self.spring = None;
        if state.counter_up_to("method.has_spring", 1)? == 1 {
            self.spring = Some(Spring {
                fisher: state.tensor("method.fisher", self.n_params)?.to_vec(),
                centre: state.tensor("method.centre", self.n_params)?.to_vec(),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference::{Case, distance};
    use super::*;

    fn spring(case: &Case) -> Spring {
        Spring {
            fisher: case.vector("fisher_1"),
            centre: case.vector("theta_1"),
        }
    }

    #[test]
    fn the_sum_of_two_springs_has_the_gradient_of_numpy() {
        let case = Case::read("ewc");
        let both = spring(&case).and(&case.vector("fisher_2"), &case.vector("theta_2"));
        let mut grad = case.vector("grad");
        let lambda = case.number("lambda") as f32;
        both.add_gradient(lambda, &case.vector("theta"), &mut grad);
        assert!(distance(&grad, &case.vector("textbook_gradient")) < 1e-5);
    }

    #[test]
    fn the_moved_spring_has_the_gradient_of_numpy() {
        let case = Case::read("ewc");
        let decay = case.number("decay") as f32;
        let moved = spring(&case).moved(decay, &case.vector("fisher_2"), &case.vector("theta_2"));
        let mut grad = case.vector("grad");
        let lambda = case.number("lambda") as f32;
        moved.add_gradient(lambda, &case.vector("theta"), &mut grad);
        assert!(distance(&grad, &case.vector("online_gradient")) < 1e-5);
    }

    #[test]
    fn a_parameter_without_fisher_information_is_free() {
        let free = Spring {
            fisher: vec![0.0],
            centre: vec![1.0],
        }
        .and(&[0.0], &[5.0]);
        let mut grad = [0.25];
        free.add_gradient(400.0, &[-3.0], &mut grad);
        assert_eq!(grad, [0.25]);
    }
}
