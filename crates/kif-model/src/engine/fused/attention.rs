//! Multi-head attention on the tape, without permutes: heads are column ranges.

use dfdx::prelude::*;
use kif_kernels::{AttentionShape, RelativeBias, StepShape};

use super::{Fused, FusedWeight, buffers, take_gradient, view};
use crate::ModelError;
use crate::engine::{Act, Attention, HostCache, PositionBias, Step, bias_by_distance};

/// A position bias laid out by head and distance, with what its gradient needs.
struct Bias {
    by_distance: Vec<f32>,
    min_distance: isize,
    buckets: Vec<usize>,
    leaf: Option<Act<Cpu>>,
}

impl Bias {
    fn new(bias: PositionBias<'_, FusedWeight>, n_heads: usize) -> Self {
        Self {
            by_distance: bias_by_distance(bias.table.elements(), n_heads, bias.buckets),
            min_distance: bias.min_distance,
            buckets: bias.buckets.to_vec(),
            leaf: bias.table.leaf.clone(),
        }
    }
}

/// Keys of the longest sequence whose probabilities are kept for the backward pass. Up to there
/// they are less than what a layer keeps besides, and computing them again would cost time.
const SAVED_KEYS: usize = 512;

fn kernel_shape<'a>(shape: &'a Attention, bias: Option<&'a Bias>) -> AttentionShape<'a> {
    AttentionShape {
        queries: &shape.queries,
        keys: &shape.keys,
        n_heads: shape.n_heads,
        n_kv_heads: shape.n_kv_heads,
        head_dim: shape.head_dim,
        scale: shape.scale,
        causal: shape.causal,
        window: shape.window,
        bias: bias.map(|bias| RelativeBias {
            by_distance: &bias.by_distance,
            min_distance: bias.min_distance,
        }),
        saved_keys: SAVED_KEYS,
    }
}

pub(super) fn attention<T: Tape<f32, Cpu>>(
    engine: &Fused,
    q: Act<Cpu, T>,
    k: Act<Cpu, T>,
    v: Act<Cpu, T>,
    shape: &Attention,
    bias: Option<PositionBias<'_, FusedWeight>>,
) -> Result<Act<Cpu, T>, ModelError> {
    let (q, q_tape) = q.split_tape();
    let (k, k_tape) = k.split_tape();
    let (v, v_tape) = v.split_tape();
    let mut tape = q_tape.merge(k_tape).merge(v_tape);
    let bias = bias.map(|bias| Bias::new(bias, shape.n_heads));
    let (n_rows, width) = *q.shape();
    let mut y = buffers::take(n_rows * width);
    let mut probs = T::OWNS_TAPE.then(Vec::new);
    let kernel = kernel_shape(shape, bias.as_ref());
    kif_kernels::attention(view(&q), view(&k), view(&v), kernel, &mut y, probs.as_mut());
    let out = engine.tensor(y, n_rows, width)?;
    if let Some(probs) = probs {
        let (out_ghost, shape) = (out.ghost(), shape.clone());
        tape.add_backward_op(move |gradients| {
            let gy = take_gradient!(gradients, out_ghost);
            let gradient_of = |x: &Act<Cpu>| buffers::take(x.shape().0 * x.shape().1);
            let (mut gq, mut gk, mut gv) = (gradient_of(&q), gradient_of(&k), gradient_of(&v));
            let trained_bias = bias.as_ref().filter(|bias| bias.leaf.is_some());
            let mut g_distance = trained_bias.map(|bias| vec![0.0; bias.by_distance.len()]);
            kif_kernels::attention_backward(
                view(&q),
                view(&k),
                view(&v),
                kernel_shape(&shape, bias.as_ref()),
                &probs,
                &gy,
                &mut gq,
                &mut gk,
                &mut gv,
                g_distance.as_deref_mut(),
            );
            // q, k and v have no other consumer: their gradients are moved, not added.
            buffers::give(gy);
            buffers::replace(gradients.get_or_alloc_mut(&q)?, gq);
            buffers::replace(gradients.get_or_alloc_mut(&k)?, gk);
            buffers::replace(gradients.get_or_alloc_mut(&v)?, gv);
            if let (Some(bias), Some(g_distance)) = (trained_bias, g_distance) {
                let leaf = bias.leaf.as_ref().expect("a trained bias has a leaf");
                let into = gradients.get_or_alloc_mut(leaf)?;
                for (head, row) in g_distance.chunks_exact(bias.buckets.len()).enumerate() {
                    for (bucket, g) in bias.buckets.iter().zip(row) {
                        into[bucket * shape.n_heads + head] += g;
                    }
                }
            }
            Ok(())
        });
    }
    Ok(out.put_tape(tape))
}

pub(super) fn attention_cached(
    engine: &Fused,
    q: Act<Cpu>,
    k: &[f32],
    v: &[f32],
    shape: &Attention,
    bias: Option<PositionBias<'_, FusedWeight>>,
) -> Result<Act<Cpu>, ModelError> {
    let bias = bias.map(|bias| Bias::new(bias, shape.n_heads));
    let (n_rows, width) = *q.shape();
    let mut y = buffers::take(n_rows * width);
    kif_kernels::attention(
        view(&q),
        k,
        v,
        kernel_shape(shape, bias.as_ref()),
        &mut y,
        None,
    );
    engine.tensor(y, n_rows, width)
}

pub(super) fn attention_step(
    engine: &Fused,
    q: Act<Cpu>,
    prompts: HostCache<'_>,
    own: HostCache<'_>,
    shape: &Step<'_>,
) -> Result<Act<Cpu>, ModelError> {
    let (n_rows, width) = *q.shape();
    let mut y = buffers::take(n_rows * width);
    let kernel = StepShape {
        prompts: shape.prompts,
        own: shape.own,
        n_heads: shape.n_heads,
        n_kv_heads: shape.n_kv_heads,
        head_dim: shape.head_dim,
        scale: shape.scale,
    };
    kif_kernels::attention_step(view(&q), prompts, own, kernel, &mut y);
    engine.tensor(y, n_rows, width)
}
