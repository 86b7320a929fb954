//! Cross entropy in nats, alone and fused with the output layer, and what is read
//! off a row of logits.

use crate::cpu::instruction_set;
use crate::exp::{log_sum_exp, softmax};
use crate::packed::PackedWeight;
use crate::parallel::{SendPtr, for_each_task};

/// Rows whose logits live at once.
const ROWS: usize = 64;

/// Negative log likelihoods of `targets`, and their gradients in place of the logits.
///
/// `logits` is `[n, V]` and is replaced by `softmax(logits) - onehot(targets)`, the gradient of
/// the sum of the result.
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

/// `KL(q || p)` of `p = softmax(logits)`, row by row in nats, and the gradient of their sum in
/// place of the logits.
///
/// `logits` and `log_q` are `[n, V]`; every row of q sums to 1. The gradient is `p - q`.
pub fn divergence(logits: &mut [f32], log_q: &[f32], vocab: usize) -> Vec<f32> {
    assert_eq!(logits.len(), log_q.len(), "logits and probabilities");
    let set = instruction_set();
    let n_rows = logits.len() / vocab;
    let mut divergence = vec![0f32; n_rows];
    let (rows, out) = (SendPtr::new(logits), SendPtr::new(&mut divergence));
    for_each_task(n_rows, 16 * log_q.len(), |i| {
        // SAFETY: row i of both, which no other task touches.
        let (row, out) = unsafe {
            (
                std::slice::from_raw_parts_mut(rows.get().add(i * vocab), vocab),
                &mut *out.get().add(i),
            )
        };
        let log_q = &log_q[i * vocab..(i + 1) * vocab];
        let log_sum = log_sum_exp(set, row);
        let mut sum = 0.0;
        for (logit, log_q) in row.iter_mut().zip(log_q) {
            let (log_p, q) = (*logit - log_sum, log_q.exp());
            // Where q is 0 its logarithm may be -inf.
            if q > 0.0 {
                sum += f64::from(q) * f64::from(log_q - log_p);
            }
            *logit = log_p.exp() - q;
        }
        *out = sum as f32;
    });
    divergence
}

/// Negative log likelihoods of `targets` under the logits `x head^T`, without ever holding
/// the logits of all rows.
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
    fn a_distribution_diverges_from_another_by_hand() {
        let log_q = [0.5f32.ln(), 0.5f32.ln(), 0.0, f32::NEG_INFINITY];
        let mut logits = [0.9f32.ln() + 3.0, 0.1f32.ln() + 3.0, 1.0, 1.0];
        let divergence = divergence(&mut logits, &log_q, 2);
        let by_hand = 0.5 * (0.5f32 / 0.9).ln() + 0.5 * (0.5f32 / 0.1).ln();
        assert!((divergence[0] - by_hand).abs() < 1e-6, "{divergence:?}");
        assert!((divergence[1] - 2f32.ln()).abs() < 1e-6, "{divergence:?}");
        let wanted = [0.4, -0.4, -0.5, 0.5];
        assert!(logits.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-6));
    }

    #[test]
    fn the_divergence_and_its_gradient_are_those_of_numpy() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../fixtures/golden/updates.json"
        );
        let all: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let vector = |name: &str| -> Vec<f32> {
            let values = all["lfpt5"][name].as_array().unwrap().iter();
            values.map(|x| x.as_f64().unwrap() as f32).collect()
        };
        let mut logits = vector("present");
        let found = divergence(&mut logits, &vector("log_probs"), 7);
        let near = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5);
        assert!(near(&found, &vector("divergence")), "{found:?}");
        assert!(near(&logits, &vector("gradient")), "{logits:?}");
    }

    #[test]
    fn the_first_of_equal_maxima_wins() {
        assert_eq!(argmax(&[1.0, 3.0, 3.0, 0.0]), 1);
        assert_eq!(argmax(&[f32::NEG_INFINITY; 3]), 0);
        assert!((log_softmax_at(&[0.0, 0.0], 1) + 2f32.ln()).abs() < 1e-6);
    }
}
