//! The gate between A and B of a low-rank part: how much each adapter counts, token by token.

use std::rc::Rc;

use cudarc::driver::CudaSlice;
use dfdx::prelude::*;

use super::Groups;
use super::device::{Address, Gpu, Grid, Result, arguments};
use crate::engine::{Act, Gate};

/// A gate on the device.
pub(super) struct DeviceGate {
    pub(super) weights: Act<Cuda>,
    /// The row of `weights` that each token reads.
    rows: Vec<u32>,
    on_device: Rc<CudaSlice<u32>>,
}

impl DeviceGate {
    pub(super) fn new(gpu: &Gpu, gate: Gate<Act<Cuda>>, n_tokens: usize) -> Result<Self> {
        let rows: Vec<u32> = match &gate.rows {
            Some(rows) => rows.iter().map(|&row| row as u32).collect(),
            None => (0..n_tokens as u32).collect(),
        };
        Ok(Self {
            weights: gate.weights,
            on_device: gpu.indices(&rows)?,
            rows,
        })
    }

    /// `out` = the columns of every adapter in `hidden[tokens, rank]` times its weight.
    pub(super) fn apply(
        &self,
        gpu: &Gpu,
        hidden: Address,
        rank: usize,
        out: Address,
    ) -> Result<()> {
        let (n_tokens, n_slots) = (self.rows.len(), self.weights.shape().1);
        let (weights, rows) = (
            Address::of_tensor(&self.weights),
            Address::of(&self.on_device),
        );
        gpu.launch(
            "gate",
            Grid::elements(n_tokens * rank),
            arguments![n_tokens, rank, n_slots, weights, rows, hidden, out],
        )
    }

    /// Adds the gradient of the weights for the gradient `g_gated[tokens, rank]` of the gated
    /// `hidden`.
    pub(super) fn add_gradient(
        &self,
        gpu: &Gpu,
        hidden: Address,
        g_gated: Address,
        rank: usize,
        into: Address,
    ) -> Result<()> {
        let n_slots = self.weights.shape().1;
        let groups = Groups::new(self.rows.iter().copied().map(Some));
        let lists = groups.upload(gpu)?;
        let [ids, starts, places] = lists.each_ref().map(|list| Address::of(list));
        gpu.launch(
            "gate_backward",
            Grid::rows(groups.len(), n_slots),
            arguments![rank, n_slots, ids, starts, places, hidden, g_gated, into],
        )
    }
}
