//! An adapter folded into its base.

use rayon::prelude::*;

use super::adapter::{Adapter, PEFT_PREFIX};
use super::weights::Weights;
use crate::error::{Mismatch, check_finite};
use crate::{LORA_A, LORA_B, ModelError};

/// `W += alpha / rank * B A` for every module that the adapter sits on.
///
/// Nothing is changed if a module is not in the base or a shape does not fit; all such are listed.
pub fn merge(weights: &mut Weights, adapter: &Adapter) -> Result<(), ModelError> {
    adapter.config.validate()?;
    let pairs = adapter_pairs(weights, adapter)?;
    for Pair { module, down, up } in pairs {
        let shape = weights
            .shape(&module)
            .map(<[usize]>::to_vec)
            .unwrap_or_default();
        let mut values = weights.take(&module)?;
        add_product(
            &mut values,
            shape[1],
            &adapter.tensors[&up].values,
            &adapter.tensors[&down].values,
            adapter,
        );
        check_finite(&module, &values)?;
        weights.insert(module, shape, values);
    }
    Ok(())
}

/// Names of one module's weight, A and B.
struct Pair {
    module: String,
    down: String,
    up: String,
}

fn adapter_pairs(weights: &Weights, adapter: &Adapter) -> Result<Vec<Pair>, ModelError> {
    let rank = adapter.config.rank;
    let (mut pairs, mut mismatches) = (Vec::new(), Vec::new());
    for name in adapter.tensors.keys() {
        let module = name.strip_prefix(PEFT_PREFIX).and_then(|rest| {
            let stem = rest
                .strip_suffix(LORA_A)
                .or_else(|| rest.strip_suffix(LORA_B))?;
            Some((stem, format!("{stem}.weight")))
        });
        let Some((stem, module, [n_out, n_in])) = module
            .and_then(|(stem, module)| {
                Some((stem, weights.shape(&module)?.try_into().ok()?, module))
            })
            .map(|(stem, shape, module): (_, [usize; 2], _)| (stem, module, shape))
        else {
            mismatches.push(Mismatch::Extra { name: name.clone() });
            continue;
        };
        let (down, up) = (
            format!("{PEFT_PREFIX}{stem}{LORA_A}"),
            format!("{PEFT_PREFIX}{stem}{LORA_B}"),
        );
        let is_down = *name == down;
        let (other, expected, expected_other) = if is_down {
            (&up, vec![rank, n_in], vec![n_out, rank])
        } else {
            (&down, vec![n_out, rank], vec![rank, n_in])
        };
        let got = &adapter.tensors[name].shape;
        if *got != expected {
            mismatches.push(Mismatch::Shape {
                name: name.clone(),
                got: got.clone(),
                expected,
            });
        }
        if !adapter.tensors.contains_key(other) {
            mismatches.push(Mismatch::Missing {
                name: other.clone(),
                shape: expected_other,
            });
        }
        if is_down {
            pairs.push(Pair { module, down, up });
        }
    }
    if mismatches.is_empty() {
        return Ok(pairs);
    }
    Err(ModelError::Tensors {
        file: adapter.origin().to_owned(),
        mismatches,
    })
}

/// Row by row: `w[i, :] += scale * sum_r b[i, r] a[r, :]`, summed in f64 and rounded once.
fn add_product(w: &mut [f32], n_in: usize, b: &[f32], a: &[f32], adapter: &Adapter) {
    let (rank, scale) = (
        adapter.config.rank,
        f64::from(adapter.config.alpha) / adapter.config.rank as f64,
    );
    w.par_chunks_mut(n_in)
        .zip(b.par_chunks(rank))
        .for_each(|(w, b)| {
            for (j, w) in w.iter_mut().enumerate() {
                let product: f64 = (0..rank)
                    .map(|r| f64::from(b[r]) * f64::from(a[r * n_in + j]))
                    .sum();
                *w = (f64::from(*w) + scale * product) as f32;
            }
        });
}
