//! Joint training: one adapter on the rows of all tasks shuffled together ("MTL"), the upper bound of the tables.

use kif_data::Encoded;

use super::{Method, Regime};
use crate::task_view::TaskView;

/// Plain steps on everything.
pub(super) struct Joint;

impl Method for Joint {
    fn training_rows(&self, task: &TaskView) -> Vec<Encoded> {
        task.all_rows.to_vec()
    }

    fn regime(&self) -> Regime {
        Regime::Joint
    }
}
