//! Cross entropy in nats, alone and fused with the output layer, and what is read off a row of logits.

use crate::cpu::instruction_set;
use crate::exp::{log_sum_exp, softmax};
use crate::packed::PackedWeight;
use crate::parallel::{SendPtr, for_each_task};

/// Rows whose logits live at once.
const ROWS: usize = 64;

/// Negative log likelihoods of `targets`, and their gradients in place of the logits.
///
/// `logits` is `[n, V]` and is replaced by `softmax(logits) - onehot(targets)`, the gradient of the sum of the result.
pub fn cross_entropy(logits: &mut [f32], targets: &[u32], vocab: usize) -> Vec<f32> {
    assert_eq!(
        logits.len(),
        targets.len() * vocab,
        "logits of {} x {vocab}",
        targets.len()
    );
    let set = instruction_set();
    let mut nll = vec![0f32; targets.len()];
    let (rows, out) = (SendPtr::new(logits), SendPtr::new(&mut nll));
    for_each_task(targets.len(), 16 * targets.len() * vocab, |i| {
        let target = targets[i] as usize;
        assert!(target < vocab, "target {target} of a vocabulary of {vocab}");
        // SAFETY: row i of both, which no other task touches.
        let (row, out) = unsafe {
            (
                std::slice::from_raw_parts_mut(rows.get().add(i * vocab), vocab),
                &mut *out.get().add(i),
            )
        };
        let logit = row[target];
        *out = softmax(set, row) - logit;
        row[target] -= 1.0;
    });
    nll
}

/// Negative log likelihoods of `targets` under the logits `x head^T`, without ever holding the logits of all rows.
///
/// `x` is `[n, D]`; `gx`, if wanted, is overwritten with the gradient of the sum of the result.
pub fn linear_cross_entropy(
    x: &[f32],
    head: &PackedWeight,
    targets: &[u32],
    mut gx: Option<&mut [f32]>,
) -> Vec<f32> {
    let (width, vocab) = (head.n_in(), head.n_out());
    assert_eq!(
        x.len(),
        targets.len() * width,
        "inputs of {} x {width}",
        targets.len()
    );
    if let Some(gx) = &gx {
        assert_eq!(gx.len(), x.len(), "gradient of {} x {width}", targets.len());
    }
    let mut nll = Vec::with_capacity(targets.len());
    let mut logits = vec![0f32; targets.len().min(ROWS) * vocab];
    for (chunk, targets) in targets.chunks(ROWS).enumerate() {
        let rows = chunk * ROWS * width..(chunk * ROWS + targets.len()) * width;
        let logits = &mut logits[..targets.len() * vocab];
        head.forward(targets.len(), &x[rows.clone()], logits, false);
        nll.extend(cross_entropy(logits, targets, vocab));
        if let Some(gx) = &mut gx {
            head.backward(targets.len(), logits, &mut gx[rows], false);
        }
    }
    nll
}

/// The place of the largest value, the first of equal ones; 0 for an empty row.
pub fn argmax(row: &[f32]) -> usize {
    let max = crate::lanes::max(row);
    row.iter().position(|&x| x == max).unwrap_or(0)
}

/// `log_softmax(row)[target]`.
pub fn log_softmax_at(row: &[f32], target: usize) -> f32 {
    row[target] - log_sum_exp(instruction_set(), row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_logits_cost_the_logarithm_of_their_number() {
        let mut logits = [2.0; 8];
        let nll = cross_entropy(&mut logits, &[1, 3], 4);
        assert!(nll.iter().all(|l| (l - 4f32.ln()).abs() < 1e-6));
        let wanted = [0.25, -0.75, 0.25, 0.25, 0.25, 0.25, 0.25, -0.75];
        assert!(logits.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-6));
    }

    #[test]
    fn the_first_of_equal_maxima_wins() {
        assert_eq!(argmax(&[1.0, 3.0, 3.0, 0.0]), 1);
        assert_eq!(argmax(&[f32::NEG_INFINITY; 3]), 0);
        assert!((log_softmax_at(&[0.0, 0.0], 1) + 2f32.ln()).abs() < 1e-6);
    }
}
