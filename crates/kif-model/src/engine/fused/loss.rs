//! Cross-entropy of the output head on the tape. The gradient is made in the forward pass, chunk by
//! chunk, so that the logits of all rows never exist together.

use dfdx::prelude::*;

use super::{Fused, FusedWeight, view};
use crate::ModelError;
use crate::engine::{Act, Loss, device_error};

pub(super) fn cross_entropy<T: Tape<f32, Cpu>>(
    engine: &Fused,
    x: Act<Cpu, T>,
    head: &FusedWeight,
    scale: f32,
    targets: &[u32],
    weight: f32,
) -> Result<Loss<Cpu, T>, ModelError> {
    let (x, mut tape) = x.split_tape();
    let (n_rows, width) = *x.shape();
    let x_scaled = scaled(view(&x), scale);
    if T::OWNS_TAPE && head.leaf.is_some() {
        return trained_head(engine, x, x_scaled, head, scale, targets, weight, tape);
    }
    let mut gx = T::OWNS_TAPE.then(|| vec![0.0; n_rows * width]);
    let nll =
        kif_kernels::linear_cross_entropy(&x_scaled, head.packed(), targets, gx.as_deref_mut());
    let loss = weight * nll.iter().sum::<f32>();
    let out = engine.device.try_tensor(loss).map_err(device_error)?;
    if let Some(mut gx) = gx {
        let out_ghost = out.ghost();
        tape.add_backward_op(move |gradients| {
            let factor = scale * weight * gradients.get_or_alloc_mut(&out_ghost)?[0];
            gx.iter_mut().for_each(|g| *g *= factor);
            // Nothing reads the last hidden states but the head.
            **gradients.get_or_alloc_mut(&x)? = gx;
            Ok(())
        });
    }
    Ok((out.put_tape(tape), nll))
}

/// The same with a head that is trained, too: its gradient needs the softmax of all rows.
fn trained_head<T: Tape<f32, Cpu>>(
    engine: &Fused,
    x: Act<Cpu>,
    x_scaled: Vec<f32>,
    head: &FusedWeight,
    scale: f32,
    targets: &[u32],
    weight: f32,
    tape: T,
) -> Result<Loss<Cpu, T>, ModelError> {
    let nll = |logits: &mut [f32]| kif_kernels::cross_entropy(logits, targets, head.spec.n_rows);
    of_logits(engine, x, x_scaled, head, scale, weight, tape, nll)
}

/// `weight * sum(KL(q || p))`, with the logits of all rows at once.
pub(super) fn divergence<T: Tape<f32, Cpu>>(
    engine: &Fused,
    x: Act<Cpu, T>,
    head: &FusedWeight,
    scale: f32,
    log_probs: &[f32],
    weight: f32,
) -> Result<Loss<Cpu, T>, ModelError> {
    let (x, tape) = x.split_tape();
    let x_scaled = scaled(view(&x), scale);
    let divergence =
        |logits: &mut [f32]| kif_kernels::divergence(logits, log_probs, head.spec.n_rows);
    of_logits(engine, x, x_scaled, head, scale, weight, tape, divergence)
}

/// `weight * sum(losses(logits))`; `losses` gives the loss of every row and puts the gradient of
/// their sum in the place of the logits, `[rows, V]`.
fn of_logits<T: Tape<f32, Cpu>>(
    engine: &Fused,
    x: Act<Cpu>,
    x_scaled: Vec<f32>,
    head: &FusedWeight,
    scale: f32,
    weight: f32,
    mut tape: T,
    losses: impl FnOnce(&mut [f32]) -> Vec<f32>,
) -> Result<Loss<Cpu, T>, ModelError> {
    let (n_rows, width) = *x.shape();
    let vocab_size = head.spec.n_rows;
    let mut g_logits = vec![0.0; n_rows * vocab_size];
    head.packed()
        .forward(n_rows, &x_scaled, &mut g_logits, false);
    let losses = losses(&mut g_logits);
    let loss = weight * losses.iter().sum::<f32>();
    let out = engine.device.try_tensor(loss).map_err(device_error)?;
    let (out_ghost, head_packed, leaf) = (out.ghost(), head.packed().clone(), head.leaf.clone());
    tape.add_backward_op(move |gradients| {
        let factor = weight * gradients.get_or_alloc_mut(&out_ghost)?[0];
        g_logits.iter_mut().for_each(|g| *g *= factor);
        if let Some(leaf) = &leaf {
            super::linear::add_weight_gradient(
                gradients.get_or_alloc_mut(leaf)?,
                &g_logits,
                &x_scaled,
                vocab_size,
                width,
            );
        }
        let mut gx = vec![0.0; n_rows * width];
        head_packed.backward(n_rows, &g_logits, &mut gx, false);
        gx.iter_mut().for_each(|g| *g *= scale);
        **gradients.get_or_alloc_mut(&x)? = gx;
        Ok(())
    });
    Ok((out.put_tape(tape), losses))
}

/// `scale * x`.
pub(super) fn scaled(x: &[f32], scale: f32) -> Vec<f32> {
    x.iter().map(|x| x * scale).collect()
}
