//! Models that choose between adapters side by side.

use kif_data::Batch;

use super::Capability;
use crate::{ModelError, Routing};

/// A model whose adapters side by side share the work as a router says.
pub trait SlotRouted {
    /// What chooses between them, and how many take part.
    fn routing(&self) -> Routing;

    /// From now on the first `open_slots` adapters share the work, at least one and at most all.
    fn set_open_slots(&mut self, open_slots: usize) -> Result<(), ModelError>;
}

/// A model whose router weighs its adapters for whole rows
/// ([`Router::Instance`](crate::Router::Instance)).
pub trait RowRouted {
    /// How much every adapter counts for every row of the batch, `[B, n_slots]`, as its inputs say;
    /// targets are not read.
    fn routing_weights(&self, batch: &Batch) -> Result<Vec<f32>, ModelError>;

    /// Adds to `grad` (`[P]`) the gradient of a function of
    /// [`routing_weights`](Self::routing_weights) whose derivatives with respect to them are
    /// `by_weights`, `[B, n_slots]`.
    fn add_routing_gradient(
        &mut self,
        batch: &Batch,
        by_weights: &[f32],
        grad: &mut [f32],
    ) -> Result<(), ModelError>;
}

impl Capability for dyn SlotRouted + '_ {
    const WANTED: &'static str = "open slots of a model that does not route between adapters";
}

impl Capability for dyn RowRouted + '_ {
    const WANTED: &'static str =
        "routing weights of a model that does not route rows between adapters";
}
