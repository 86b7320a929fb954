//! MIGU: only the rows of a layer whose outputs are largest are updated (Du et al., *Unlocking
//! Continual Learning Abilities in Language Models*, Findings of EMNLP 2024, arXiv 2406.17245).
//!
//! From the second task on: before each step, the mean absolute output of every row of every LoRA A
//! and B over the batch; rows below the quantile of their own matrix do not move in this step. The
//! published code normalises the magnitudes of a layer to sum to 1 first, which changes no row's
//! rank within the layer. No memory, no task id.

use std::ops::Range;

use anyhow::Result;
use kif_data::Batch;
use kif_importance::quantile;
use kif_model::ParamLayout;
use serde::{Deserialize, Serialize};

use super::{FORWARD_ONLY, Method, MethodSpec};
use crate::error::{SettingError, check_setting};
use crate::learner::Learner;
use crate::task_view::TaskView;

/// How many rows move.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MiguConfig {
    /// Rows move whose magnitude is at least this quantile of their matrix (published for LoRA:
    /// 0.7, the top 30 %). In `[0, 1]`.
    pub quantile: f64,
}

impl Default for MiguConfig {
    fn default() -> Self {
        Self { quantile: 0.7 }
    }
}

impl MethodSpec for MiguConfig {
    fn presets() -> Vec<Self> {
        vec![Self::default()]
    }

    fn name(&self) -> &'static str {
        "migu"
    }

    fn summary(&self) -> &'static str {
        "only the rows with the largest outputs move"
    }

    fn check(&self) -> Result<(), SettingError> {
        check_setting(
            (0.0..=1.0).contains(&self.quantile),
            "quantile",
            self.quantile,
            "a number in [0, 1]",
        )
    }

    fn needs_stream(&self) -> bool {
        true
    }

    fn added_steps(&self) -> f64 {
        // A pass forward.
        FORWARD_ONLY
    }

    fn build(&self, _: &ParamLayout) -> Box<dyn Method> {
        Box::new(Migu::new(*self))
    }
}

/// The rows of one matrix whose magnitude, `[rows]`, is at least its `q`-quantile.
fn largest(magnitudes: &[f32], q: f64) -> Result<Vec<usize>> {
    let threshold = quantile(magnitudes, q)?;
    Ok((0..magnitudes.len())
        .filter(|&row| magnitudes[row] >= threshold)
        .collect())
}

/// Steps that move the rows with the largest outputs.
pub(super) struct Migu {
    config: MiguConfig,
    is_first: bool,
}

impl Migu {
    pub(super) fn new(config: MiguConfig) -> Self {
        Self {
            config,
            is_first: true,
        }
    }

    /// Where the rows that move lie in the flat vector, in ascending order.
    fn moving(&self, learner: &mut Learner, batch: &Batch) -> Result<Vec<Range<usize>>> {
        let magnitudes = learner.model_mut().output_magnitudes(batch)?;
        let mut moving = Vec::new();
        for (spec, magnitudes) in learner.layout().specs().iter().zip(&magnitudes) {
            let width = spec.range.len() / magnitudes.len().max(1);
            for row in largest(magnitudes, self.config.quantile)? {
                let start = spec.range.start + row * width;
                moving.push(start..start + width);
            }
        }
        Ok(moving)
    }
}

impl Method for Migu {
    fn begin_task(&mut self, _: &mut Learner, task: &TaskView) -> Result<()> {
        self.is_first = task.index == 0;
        Ok(())
    }

    fn observe(&mut self, learner: &mut Learner, batch: &Batch) -> Result<f64> {
        if !self.is_first {
            let moving = self.moving(learner, batch)?;
            learner.train_only(moving);
        }
        learner.step(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference::Case;
    use super::*;

    #[test]
    fn the_largest_rows_are_those_of_numpy() {
        let case = Case::read("migu");
        let rows = largest(&case.vector("magnitudes"), case.number("quantile")).unwrap();
        let expected: Vec<usize> = case
            .vector("rows")
            .iter()
            .map(|&row| row as usize)
            .collect();
        assert_eq!(rows, expected);
    }

    #[test]
    fn equal_magnitudes_all_move() {
        assert_eq!(largest(&[0.0; 3], 0.7).unwrap(), [0, 1, 2]);
    }
}
