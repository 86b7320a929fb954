//! Joint training: one adapter on the rows of all tasks shuffled together ("MTL"), the upper bound
//! of the tables.

use kif_data::Encoded;
use kif_model::ParamLayout;
use serde::{Deserialize, Serialize};

use super::{Method, MethodSpec, Regime};
use crate::task_view::TaskView;

/// It has no settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JointConfig;

impl MethodSpec for JointConfig {
    fn presets() -> Vec<Self> {
        vec![Self]
    }

    fn name(&self) -> &'static str {
        "joint"
    }

    fn summary(&self) -> &'static str {
        "all tasks at once (upper bound)"
    }

    fn regime(&self) -> Regime {
        Regime::Joint
    }

    fn build(&self, _: &ParamLayout) -> Box<dyn Method> {
        Box::new(Joint)
    }
}

/// Plain steps on everything.
pub(super) struct Joint;

impl Method for Joint {
    fn training_rows(&self, task: &TaskView) -> Vec<Encoded> {
        task.all_rows.to_vec()
    }
}
