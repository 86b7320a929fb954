//! L2P: a pool of soft prompts, of which every text gets those with the closest keys (Wang et al.,
//! *Learning to Prompt for Continual Learning*, CVPR 2022, arXiv 2112.08654; for language models as
//! in TRACE, arXiv 2310.06762).
//!
//! The model chooses: the cosine of a prompt's trained key and the mean embedding of the text. Keys
//! learn by a term of the loss alone, which pulls chosen ones towards the texts: `- pull / B * sum
//! over texts and their prompts of cos(key, query)`. No rehearsal, and nobody says which task a row
//! is from.

use std::ops::Range;

use anyhow::Result;
use kif_data::Batch;
use kif_model::{ParamGroup, ParamLayout, PromptConfig, PromptSelection, closest_keys, cosine};
use serde::{Deserialize, Serialize};

use super::prog_prompt::check_rate;
use super::{Method, MethodSpec, Parts};
use crate::error::{SettingError, check_setting};
use crate::learner::Learner;
use crate::task_view::TaskView;

/// The pool.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct L2pConfig {
    /// Prompts of the pool (published: 10). At least 1.
    pub pool_size: usize,
    /// Rows of a prompt (published: 5). At least 1.
    pub length: usize,
    /// Prompts of a text (TRACE: 3). In `1..=pool_size`.
    pub top_k: usize,
    /// Weight of the term that pulls keys (published: 0.5). At least 0.
    pub pull: f64,
    /// Peak learning rate, in the place of the run's (published: 0.03). Positive.
    pub lr: f64,
}

impl Default for L2pConfig {
    fn default() -> Self {
        Self {
            pool_size: 10,
            length: 5,
            top_k: 3,
            pull: 0.5,
            lr: 0.03,
        }
    }
}

impl MethodSpec for L2pConfig {
    fn presets() -> Vec<Self> {
        vec![Self::default()]
    }

    fn name(&self) -> &'static str {
        "l2p"
    }

    fn summary(&self) -> &'static str {
        "a pool of soft prompts, chosen by the text"
    }

    fn check(&self) -> Result<(), SettingError> {
        let pull = self.pull;
        check_setting(
            self.pool_size > 0,
            "pool_size",
            self.pool_size,
            "at least 1",
        )?;
        let fits = (1..=self.pool_size).contains(&self.top_k);
        check_setting(
            fits,
            "top_k",
            self.top_k,
            "at least 1 and at most pool_size",
        )?;
        check_setting(self.length > 0, "length", self.length, "at least 1")?;
        let fine = pull.is_finite() && pull >= 0.0;
        check_setting(fine, "pull", pull, "a finite number, at least 0")?;
        check_rate(self.lr)
    }

    fn parts(&self, _: usize) -> Parts {
        Parts::prompts(PromptConfig {
            n_prompts: self.pool_size,
            length: self.length,
            selection: PromptSelection::Pool { top_k: self.top_k },
        })
    }

    fn peak_rate(&self) -> Option<f64> {
        Some(self.lr)
    }

    fn build(&self, layout: &ParamLayout) -> Box<dyn Method> {
        Box::new(L2p::new(*self, layout))
    }
}

/// Adds to `grad` the gradient of `-weight * cos(key, query)` with respect to the key; all are
/// `[D]`.
///
/// `d cos / d key = (query / |query| - cos * key / |key|) / |key|`; a zero vector is not pulled and
/// does not pull.
fn add_pull_gradient(key: &[f32], query: &[f32], weight: f64, grad: &mut [f32]) {
    let length = |x: &[f32]| x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    let (of_key, of_query) = (length(key), length(query));
    if of_key == 0.0 || of_query == 0.0 {
        return;
    }
    let cosine = cosine(key, query);
    for ((g, key), query) in grad.iter_mut().zip(key).zip(query) {
        let slope = (f64::from(*query) / of_query - cosine * f64::from(*key) / of_key) / of_key;
        *g -= (weight * slope) as f32;
    }
}

/// Steps on all prompts that a batch's texts get, and on their keys.
pub(super) struct L2p {
    config: L2pConfig,
    keys: Range<usize>,
}

impl L2p {
    pub(super) fn new(config: L2pConfig, layout: &ParamLayout) -> Self {
        let keys = layout.group(ParamGroup::PromptKeys).pop().unwrap_or(0..0);
        Self { config, keys }
    }
}

impl Method for L2p {
    fn begin_task(&mut self, learner: &mut Learner, _: &TaskView) -> Result<()> {
        let all: Vec<usize> = (0..self.config.pool_size).collect();
        Ok(learner.model_mut().activate_prompts(&all)?)
    }

    fn observe(&mut self, learner: &mut Learner, batch: &Batch) -> Result<f64> {
        let L2pConfig {
            pool_size,
            top_k,
            pull,
            ..
        } = self.config;
        let queries = learner.model_mut().mean_embeddings(&batch.inputs)?;
        let width = queries.len() / batch.n_rows();
        let all: Vec<usize> = (0..pool_size).collect();
        let weight = pull / batch.n_rows() as f64;
        learner.step_with(batch, |params, grad| {
            let (keys, grad) = (&params[self.keys.clone()], &mut grad[self.keys.clone()]);
            for query in queries.chunks_exact(width) {
                for prompt in closest_keys(keys, query, &all, top_k) {
                    let at = prompt * width..(prompt + 1) * width;
                    add_pull_gradient(&keys[at.clone()], query, weight, &mut grad[at]);
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
    fn choice_and_pull_are_those_of_numpy() {
        let case = Case::read("l2p");
        let (keys, queries) = (case.vector("keys"), case.vector("queries"));
        let (width, top_k) = (case.number("width") as usize, case.number("top_k") as usize);
        let all: Vec<usize> = (0..keys.len() / width).collect();
        let mut grad = vec![0.0; keys.len()];
        let mut chosen = Vec::new();
        for query in queries.chunks_exact(width) {
            for prompt in closest_keys(&keys, query, &all, top_k) {
                let at = prompt * width..(prompt + 1) * width;
                let weight = case.number("pull") / (queries.len() / width) as f64;
                add_pull_gradient(&keys[at.clone()], query, weight, &mut grad[at]);
                chosen.push(prompt as f32);
            }
        }
        assert_eq!(chosen, case.vector("chosen"));
        assert!(distance(&grad, &case.vector("key_gradient")) < 1e-6);
    }

    #[test]
    fn a_key_that_points_at_its_text_and_a_zero_vector_stay() {
        let mut grad = [0.0; 2];
        add_pull_gradient(&[3.0, 4.0], &[6.0, 8.0], 1.0, &mut grad);
        assert!(grad.iter().all(|g| g.abs() < 1e-6), "{grad:?}");
        add_pull_gradient(&[0.0, 0.0], &[6.0, 8.0], 1.0, &mut grad);
        add_pull_gradient(&[3.0, 4.0], &[0.0, 0.0], 1.0, &mut grad);
        assert!(grad.iter().all(|g| g.abs() < 1e-6), "{grad:?}");
    }
}
