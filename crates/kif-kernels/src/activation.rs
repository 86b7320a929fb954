//! The feed-forward block's activations: ReLU, the gated GELU of T5 v1.1, and the
//! gated SiLU of Llama.

use crate::cpu::{InstructionSet, instruction_set, versions};
use crate::exp::exp;
use crate::lanes::madd;
use crate::parallel::{SendPtr, for_each_task};
use std::ops::Range;

/// Values of one task.
const CHUNK: usize = 16 * 1024;

/// `y = max(x, 0)`; not-a-number stays.
pub fn relu(x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "input and output");
    let (set, n) = (instruction_set(), x.len());
    let y = SendPtr::new(y);
    in_chunks(n, 4, |part| {
        // SAFETY: the task's own part.
        let y = unsafe { part_of(y, &part) };
        relu_part(set, &x[part], y);
    });
}

/// The gradient of [`relu`] from its output: `gx` is overwritten.
pub fn relu_backward(y: &[f32], gy: &[f32], gx: &mut [f32]) {
    assert_eq!(
        (y.len(), gy.len()),
        (gx.len(), gx.len()),
        "output and gradients"
    );
    let (set, n) = (instruction_set(), y.len());
    let gx = SendPtr::new(gx);
    in_chunks(n, 4, |part| {
        // SAFETY: the task's own part.
        let gx = unsafe { part_of(gx, &part) };
        relu_backward_part(set, &y[part.clone()], &gy[part], gx);
    });
}

/// `y = gelu(gate) up`, with the tanh form of GELU (`gelu_new`).
pub fn gated_gelu(gate: &[f32], up: &[f32], y: &mut [f32]) {
    gated(gate, up, y, gelu_part);
}

/// `y = silu(gate) up`, with `silu(x) = x / (1 + e^-x)` (SwiGLU).
pub fn gated_silu(gate: &[f32], up: &[f32], y: &mut [f32]) {
    gated(gate, up, y, silu_part);
}

/// One chunk of gate, up and output.
type Gated = fn(InstructionSet, &[f32], &[f32], &mut [f32]);
/// One chunk of gate, up, the output's gradient, and those of gate and up.
type GatedBackward = fn(InstructionSet, &[f32], &[f32], &[f32], &mut [f32], &mut [f32]);

fn gated(gate: &[f32], up: &[f32], y: &mut [f32], part_by: Gated) {
    assert_eq!(
        (gate.len(), up.len()),
        (y.len(), y.len()),
        "inputs and output"
    );
    let (set, n) = (instruction_set(), y.len());
    let y = SendPtr::new(y);
    in_chunks(n, 32, |part| {
        // SAFETY: the task's own part.
        let y = unsafe { part_of(y, &part) };
        part_by(set, &gate[part.clone()], &up[part], y);
    });
}

/// The gradients of [`gated_gelu`]: `ggate` and `gup` are overwritten.
pub fn gated_gelu_backward(
    gate: &[f32],
    up: &[f32],
    gy: &[f32],
    ggate: &mut [f32],
    gup: &mut [f32],
) {
    gated_backward(gate, up, gy, ggate, gup, gelu_backward_part);
}

/// The gradients of [`gated_silu`]: `ggate` and `gup` are overwritten.
pub fn gated_silu_backward(
    gate: &[f32],
    up: &[f32],
    gy: &[f32],
    ggate: &mut [f32],
    gup: &mut [f32],
) {
    gated_backward(gate, up, gy, ggate, gup, silu_backward_part);
}

fn gated_backward(
    gate: &[f32],
    up: &[f32],
    gy: &[f32],
    ggate: &mut [f32],
    gup: &mut [f32],
    part_by: GatedBackward,
) {
    let n = gate.len();
    assert_eq!(
        (up.len(), gy.len(), ggate.len(), gup.len()),
        (n, n, n, n),
        "inputs and gradients"
    );
    let set = instruction_set();
    let (ggate, gup) = (SendPtr::new(ggate), SendPtr::new(gup));
    in_chunks(n, 48, |part| {
        // SAFETY: the task's own parts.
        let (ggate, gup) = unsafe { (part_of(ggate, &part), part_of(gup, &part)) };
        part_by(
            set,
            &gate[part.clone()],
            &up[part.clone()],
            &gy[part],
            ggate,
            gup,
        );
    });
}

/// Runs `f` on the chunks of `0..n`.
fn in_chunks(n: usize, work_per_value: usize, f: impl Fn(Range<usize>) + Sync + Send) {
    for_each_task(n.div_ceil(CHUNK), work_per_value * n, |t| {
        f(t * CHUNK..((t + 1) * CHUNK).min(n))
    });
}

/// # Safety
/// `part` lies in the slice behind the pointer and is used by one task alone.
unsafe fn part_of<'a>(slice: SendPtr<f32>, part: &Range<usize>) -> &'a mut [f32] {
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts_mut(slice.get().add(part.start), part.len()) }
}

versions! {
    fn relu_part(x: &[f32], y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = if *x < 0.0 { 0.0 } else { *x };
        }
    }
}

versions! {
    fn relu_backward_part(y: &[f32], gy: &[f32], gx: &mut [f32]) {
        for ((gx, gy), y) in gx.iter_mut().zip(gy).zip(y) {
            *gx = if *y > 0.0 { *gy } else { 0.0 };
        }
    }
}

const CUBIC: f32 = 0.044_715;
/// `2 sqrt(2 / pi)`: `0.5 (1 + tanh u)` is `sigmoid(2 u)`.
const TWICE_SLOPE: f32 = 1.595_769;

/// `gelu(x) / x` and the derivative of its logit with respect to `x`.
#[inline(always)]
fn gelu_gate<const FUSED: bool>(x: f32) -> (f32, f32) {
    let square = x * x;
    let logit = TWICE_SLOPE * x * madd::<FUSED>(CUBIC, square, 1.0);
    let gate = 1.0 / (1.0 + exp::<FUSED>(-logit));
    (gate, TWICE_SLOPE * madd::<FUSED>(3.0 * CUBIC, square, 1.0))
}

/// As [`gelu_gate`], for SiLU.
#[inline(always)]
fn silu_gate<const FUSED: bool>(x: f32) -> (f32, f32) {
    (1.0 / (1.0 + exp::<FUSED>(-x)), 1.0)
}

/// `y = x gate(x) up`, the gate being a sigmoid.
#[inline(always)]
fn gate_all(gate: &[f32], up: &[f32], y: &mut [f32], sigmoid: impl Fn(f32) -> (f32, f32)) {
    for ((y, &x), up) in y.iter_mut().zip(gate).zip(up) {
        *y = x * sigmoid(x).0 * up;
    }
}

#[inline(always)]
fn gate_all_backward(
    gate: &[f32],
    up: &[f32],
    gy: &[f32],
    ggate: &mut [f32],
    gup: &mut [f32],
    sigmoid: impl Fn(f32) -> (f32, f32),
) {
    for ((((ggate, gup), &x), up), gy) in ggate.iter_mut().zip(gup).zip(gate).zip(up).zip(gy) {
        let (s, slope) = sigmoid(x);
        *gup = gy * x * s;
        *ggate = gy * up * (s + x * s * (1.0 - s) * slope);
    }
}

versions! {
    fn gelu_part(gate: &[f32], up: &[f32], y: &mut [f32]) {
        gate_all(gate, up, y, gelu_gate::<FUSED>);
    }
}

versions! {
    fn silu_part(gate: &[f32], up: &[f32], y: &mut [f32]) {
        gate_all(gate, up, y, silu_gate::<FUSED>);
    }
}

versions! {
    fn gelu_backward_part(gate: &[f32], up: &[f32], gy: &[f32], ggate: &mut [f32], gup: &mut [f32]) {
        gate_all_backward(gate, up, gy, ggate, gup, gelu_gate::<FUSED>);
    }
}

versions! {
    fn silu_backward_part(gate: &[f32], up: &[f32], gy: &[f32], ggate: &mut [f32], gup: &mut [f32]) {
        gate_all_backward(gate, up, gy, ggate, gup, silu_gate::<FUSED>);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relu_passes_what_is_positive() {
        let mut y = [9.0; 3];
        relu(&[-1.0, 0.0, 2.0], &mut y);
        assert_eq!(y, [0.0, 0.0, 2.0]);
        let mut gx = [9.0; 3];
        relu_backward(&y, &[5.0, 6.0, 7.0], &mut gx);
        assert_eq!(gx, [0.0, 0.0, 7.0]);
    }

    #[test]
    fn gelu_of_one_is_the_published_value() {
        let mut y = [0.0];
        gated_gelu(&[1.0], &[2.0], &mut y);
        assert!((y[0] - 2.0 * 0.841_192).abs() < 1e-5, "{}", y[0]);
    }

    #[test]
    fn silu_of_one_and_its_slope_are_those_of_the_formula() {
        let (mut y, mut ggate, mut gup) = ([0.0], [0.0], [0.0]);
        gated_silu(&[1.0], &[2.0], &mut y);
        gated_silu_backward(&[1.0], &[2.0], &[3.0], &mut ggate, &mut gup);
        let s = 1.0 / (1.0 + (-1f32).exp());
        assert!((y[0] - 2.0 * s).abs() < 1e-6, "{}", y[0]);
        assert!((gup[0] - 3.0 * s).abs() < 1e-6, "{}", gup[0]);
        assert!(
            (ggate[0] - 6.0 * (s + s * (1.0 - s))).abs() < 1e-5,
            "{}",
            ggate[0]
        );
    }
}
