//! Fine-tuning with a pull towards the parameters at the end of the last task (the place for the
//! method's reference).

use anyhow::Result;
use kif_data::Batch;
use kif_methods::methods::{Method, MethodSpec};
use kif_methods::{Learner, SettingError, State, TaskView, check_setting};
use kif_model::ParamLayout;
use serde::{Deserialize, Serialize};

/// How strong the pull is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnchorConfig {
    /// Share of the way back per step and unit of learning rate (ours: 0.1). At least 0.
    pub strength: f64,
}

impl MethodSpec for AnchorConfig {
    fn presets() -> Vec<Self> {
        vec![Self { strength: 0.1 }]
    }

    fn name(&self) -> &'static str {
        "anchor"
    }

    fn summary(&self) -> &'static str {
        "a pull towards the end of the last task"
    }

    fn check(&self) -> Result<(), SettingError> {
        let strength = self.strength;
        let fine = strength.is_finite() && strength >= 0.0;
        check_setting(fine, "strength", strength, "a finite number, at least 0")
    }

    fn build(&self, _: &ParamLayout) -> Box<dyn Method> {
        Box::new(Anchor {
            config: *self,
            anchor: None,
        })
    }
}

/// `theta + pull (anchor - theta)`, elementwise over `[P]`.
fn pulled(theta: &[f32], anchor: &[f32], pull: f32) -> Vec<f32> {
    let pairs = theta.iter().zip(anchor);
    pairs.map(|(t, a)| t + pull * (a - t)).collect()
}

/// Plain steps, each followed by the pull; none on the first task.
struct Anchor {
    config: AnchorConfig,
    anchor: Option<Vec<f32>>,
}

impl Method for Anchor {
    fn begin_task(&mut self, learner: &mut Learner, task: &TaskView) -> Result<()> {
        self.anchor = (task.index > 0).then(|| learner.params().to_vec());
        Ok(())
    }

    fn observe(&mut self, learner: &mut Learner, batch: &Batch) -> Result<f64> {
        let rate = learner.next_rate();
        let loss = learner.step(batch)?;
        if let Some(anchor) = &self.anchor {
            let pull = (rate * self.config.strength) as f32;
            learner.set_params(&pulled(learner.params(), anchor, pull))?;
        }
        Ok(loss)
    }

    fn save_state(&self, state: &mut State) {
        if let Some(anchor) = &self.anchor {
            state.put("method.anchor", anchor);
        }
    }

    fn load_state(&mut self, state: &State) -> Result<()> {
        if let Some(anchor) = &mut self.anchor {
            let n_params = anchor.len();
            anchor.copy_from_slice(state.tensor("method.anchor", n_params)?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::pulled;

    #[test]
    fn by_hand() {
        assert_eq!(pulled(&[1.0, 3.0], &[5.0, 3.0], 0.25), [2.0, 3.0]);
    }
}
