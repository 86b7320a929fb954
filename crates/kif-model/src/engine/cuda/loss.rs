//! Losses of the output head on the tape. The gradient is made in the forward pass, chunk by chunk,
//! so that the logits of all rows never exist together unless the head is trained.

use dfdx::prelude::*;

use super::device::{Address, Grid, Result, Store, arguments};
use super::{CudaEngine, CudaWeight, Side, linear};
use crate::engine::{Act, Loss};

/// Logits that live at once, unless the head is trained: half a GiB.
const N_LOGITS: usize = 1 << 27;

/// What the rows of logits are compared with.
#[derive(Clone, Copy)]
pub(super) enum Wanted<'a> {
    /// Token ids, `[rows]`.
    Ids(&'a [u32]),
    /// Logarithms of probabilities, `[rows, V]`.
    LogProbs(&'a [f32]),
}

impl Wanted<'_> {
    /// The losses of `n_rows` rows from `first` on, and their gradient in the place of the logits.
    fn compare(
        self,
        engine: &CudaEngine,
        (first, n_rows, vocab): (usize, usize, usize),
        with_gradient: bool,
        logits: Address,
        losses: Address,
    ) -> Result<()> {
        let (gpu, grid) = (&engine.gpu, Grid::rows(n_rows, vocab));
        match self {
            Self::Ids(ids) => {
                let ids = gpu.copied(ids[first..first + n_rows].to_vec())?;
                let ids = Address::of(&ids);
                gpu.launch(
                    "cross_entropy",
                    grid,
                    arguments![vocab, with_gradient, ids, logits, losses],
                )
            }
            Self::LogProbs(log_q) => {
                let log_q = gpu.copied(log_q[first * vocab..(first + n_rows) * vocab].to_vec())?;
                gpu.launch(
                    "divergence",
                    grid,
                    arguments![vocab, Address::of(&log_q), logits, losses],
                )
            }
        }
    }
}

/// `weight * sum(losses)` of the logits `scale * x head^T`.
pub(super) fn loss<T: Tape<f32, Cuda>>(
    engine: &CudaEngine,
    x: Act<Cuda, T>,
    head: &CudaWeight,
    scale: f32,
    wanted: Wanted<'_>,
    weight: f32,
) -> Result<Loss<Cuda, T>> {
    let gpu = engine.gpu.clone();
    let (x, mut tape) = x.split_tape();
    let (n_rows, width) = *x.shape();
    let vocab = head.spec.n_rows;
    let losses = gpu.scratch::<f32>(n_rows)?;
    // The gradient of a trained head needs that of all logits.
    let rows_at_once = if T::OWNS_TAPE && head.leaf().is_some() {
        n_rows
    } else {
        (N_LOGITS / vocab).max(1).min(n_rows)
    };
    let logits = gpu.scratch::<f32>(rows_at_once * vocab)?;
    let gx = gpu.scratch::<f32>(if T::OWNS_TAPE { n_rows * width } else { 0 })?;
    for first in (0..n_rows).step_by(rows_at_once.max(1)) {
        let n = rows_at_once.min(n_rows - first);
        let rows = Address::of_tensor(&x).offset::<f32>(first * width);
        let logits = Address::of(&logits);
        let side = Side::of_rows(&gpu, rows, (n, width), head, scale)?;
        side.times_transposed(&gpu, n, head, logits, Store::Replace)?;
        let losses = Address::of(&losses).offset::<f32>(first);
        wanted.compare(engine, (first, n, vocab), T::OWNS_TAPE, logits, losses)?;
        if T::OWNS_TAPE {
            let gx = Address::of(&gx).offset::<f32>(first * width);
            let side = Side::of_rows(&gpu, logits, (n, vocab), head, 1.0)?;
            side.times(&gpu, n, head, gx, Store::Replace)?;
        }
    }
    let losses = gpu.read(Address::of(&losses), n_rows)?;
    let out = gpu.scalar(weight * losses.iter().sum::<f32>())?;
    if T::OWNS_TAPE {
        let (out_ghost, leaf) = (out.ghost(), head.leaf());
        tape.add_backward_op(move |gradients| {
            let factor = Address::of_gradient(gradients.get_or_alloc_mut(&out_ghost)?);
            let into = Address::of_gradient(gradients.get_or_alloc_mut(&x)?);
            let n = n_rows * width;
            gpu.add_scaled((&gx, n), scale * weight, factor, into)?;
            let Some(leaf) = leaf else { return Ok(()) };
            let n_logits = n_rows * vocab;
            gpu.scale((&logits, n_logits), scale * weight, factor)?;
            let into = Address::of_gradient(gradients.get_or_alloc_mut(&leaf)?);
            let shape = (n_rows, vocab, width);
            linear::add_weight_gradient(
                &gpu,
                Address::of(&logits),
                Address::of_tensor(&x),
                shape,
                into,
            )
        });
    }
    Ok((out.put_tape(tape), losses))
}
