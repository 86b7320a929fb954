//! The gate between A and B of a low-rank part: how much each adapter counts, token by token.

use dfdx::prelude::*;

use super::{buffers, view};
use crate::engine::{Act, Gate};

/// The weights that token `i` reads, one of each adapter.
fn weights_of(gate: &Gate<Act<Cpu>>, i: usize) -> &[f32] {
    let n_slots = gate.weights.shape().1;
    let row = gate.rows.as_ref().map_or(i, |rows| rows[i]);
    &view(&gate.weights)[row * n_slots..][..n_slots]
}

/// Multiplies the columns of every adapter in `hidden[tokens, rank]` by its weight.
pub(super) fn apply(gate: &Gate<Act<Cpu>>, hidden: &mut [f32], rank: usize) {
    let width = rank / gate.weights.shape().1;
    for (i, token) in hidden.chunks_exact_mut(rank).enumerate() {
        for (slot, weight) in token.chunks_exact_mut(width).zip(weights_of(gate, i)) {
            slot.iter_mut().for_each(|h| *h *= weight);
        }
    }
}

/// As [`apply`], into another buffer.
pub(super) fn gated(gate: &Gate<Act<Cpu>>, hidden: &[f32], rank: usize) -> Vec<f32> {
    let mut gated = buffers::take(hidden.len());
    gated.copy_from_slice(hidden);
    apply(gate, &mut gated, rank);
    gated
}

/// Adds the gradient of the weights for the gradient `g_gated[tokens, rank]` of the gated `hidden`.
pub(super) fn add_gradient(
    gate: &Gate<Act<Cpu>>,
    hidden: &[f32],
    g_gated: &[f32],
    rank: usize,
    into: &mut [f32],
) {
    let n_slots = gate.weights.shape().1;
    let tokens = hidden.chunks_exact(rank).zip(g_gated.chunks_exact(rank));
    for (i, (hidden, g)) in tokens.enumerate() {
        let row = gate.rows.as_ref().map_or(i, |rows| rows[i]);
        let into = &mut into[row * n_slots..][..n_slots];
        let width = rank / n_slots;
        let slots = hidden.chunks_exact(width).zip(g.chunks_exact(width));
        for (into, (hidden, g)) in into.iter_mut().zip(slots) {
            *into += hidden.iter().zip(g).map(|(h, g)| h * g).sum::<f32>();
        }
    }
}
