//! Attention on padded rectangles: gather, compute, gather back.

use dfdx::prelude::*;

use super::{Stock, StockWeight};
use crate::ModelError;
use crate::engine::{Act, Attention, PositionBias, Span, device_error};

/// Added to the score of a key that must not be seen; its probability becomes exactly 0.
const HIDDEN: f32 = -1e9;

type Act3<D, T> = Tensor<(usize, usize, usize), f32, D, T>;
type Act4<D, T> = Tensor<(usize, usize, usize, usize), f32, D, T>;

pub(super) fn attention<D: Device<f32>, T: Tape<f32, D>>(
    engine: &Stock<D>,
    q: Act<D, T>,
    k: Act<D, T>,
    v: Act<D, T>,
    shape: &Attention,
    bias: Option<PositionBias<'_, StockWeight<D>>>,
) -> Result<Act<D, T>, ModelError> {
    let (n_seqs, n_heads, head_dim) = (shape.queries.len(), shape.n_heads, shape.head_dim);
    let n_tokens = q.shape().0;
    let longest = |spans: &[Span]| spans.iter().map(|span| span.len).max().unwrap_or(0);
    let (n_queries, n_keys) = (longest(&shape.queries), longest(&shape.keys));

    let query_rows = engine.indices(padded_rows(&shape.queries, n_queries), (n_seqs, n_queries))?;
    let key_rows = engine.indices(padded_rows(&shape.keys, n_keys), (n_seqs, n_keys))?;
    let mask = engine
        .device
        .try_tensor_from_vec(mask(shape, n_queries, n_keys), (n_seqs, n_queries, n_keys))
        .map_err(device_error)?;
    let bias = bias
        .map(|bias| score_bias::<D, T>(engine, bias, shape, n_queries, n_keys))
        .transpose()?;
    let real_rows = engine.indices(
        unpadded_rows(&shape.queries, n_queries, n_tokens),
        (n_tokens,),
    )?;

    (|| {
        let heads = |x: Act<D, T>, rows: Tensor<(usize, usize), usize, D>, n| {
            let x: Act3<D, T> = x.try_gather(rows)?;
            x.try_reshape_like(&(n_seqs, n, n_heads, head_dim))
        };
        let q = heads(q, query_rows, n_queries)?.try_permute::<_, Axes4<0, 2, 1, 3>>()?;
        let k = heads(k, key_rows.clone(), n_keys)?.try_permute::<_, Axes4<0, 2, 3, 1>>()?;
        let v = heads(v, key_rows, n_keys)?.try_permute::<_, Axes4<0, 2, 1, 3>>()?;
        let full = (n_seqs, n_heads, n_queries, n_keys);
        let mut scores: Act4<D, T> = q.try_matmul(k)?.try_mul(shape.scale)?;
        if let Some(bias) = bias {
            scores = scores.try_add(bias.try_broadcast_like::<_, Axis<0>>(&full)?)?;
        }
        let scores = scores.try_add(mask.try_broadcast_like::<_, Axis<1>>(&full)?)?;
        let mixed: Act4<D, T> = scores.try_softmax::<Axis<3>>()?.try_matmul(v)?;
        mixed
            .try_permute::<(usize, usize, usize, usize), Axes4<0, 2, 1, 3>>()?
            .try_reshape_like(&(n_seqs * n_queries, n_heads * head_dim))?
            .try_gather(real_rows)
    })()
    .map_err(|e: D::Err| device_error(e))
}

/// Row of every padded place; padding repeats row 0, whose score is masked and whose output is never read.
fn padded_rows(spans: &[Span], longest: usize) -> Vec<usize> {
    spans
        .iter()
        .flat_map(|span| (0..longest).map(|i| if i < span.len { span.start + i } else { 0 }))
        .collect()
}

/// Padded place of every real query row. Query spans cover all rows, in any order.
fn unpadded_rows(spans: &[Span], longest: usize, n_tokens: usize) -> Vec<usize> {
    let mut places = vec![usize::MAX; n_tokens];
    for (seq, span) in spans.iter().enumerate() {
        for i in 0..span.len {
            places[span.start + i] = seq * longest + i;
        }
    }
    assert!(
        places.iter().all(|&place| place != usize::MAX),
        "every query row belongs to a sequence"
    );
    places
}

fn mask(shape: &Attention, n_queries: usize, n_keys: usize) -> Vec<f32> {
    let mut mask = Vec::with_capacity(shape.queries.len() * n_queries * n_keys);
    for (queries, keys) in shape.queries.iter().zip(&shape.keys) {
        let offset = keys.len as isize - queries.len as isize;
        for i in 0..n_queries {
            let visible =
                |j: usize| j < keys.len && (!shape.causal || j as isize <= i as isize + offset);
            mask.extend((0..n_keys).map(|j| if visible(j) { 0.0 } else { HIDDEN }));
        }
    }
    mask
}

/// The position bias of every (head, query, key), `[H, n_queries, n_keys]`.
fn score_bias<D: Device<f32>, T: Tape<f32, D>>(
    engine: &Stock<D>,
    bias: PositionBias<'_, StockWeight<D>>,
    shape: &Attention,
    n_queries: usize,
    n_keys: usize,
) -> Result<Act3<D, T>, ModelError> {
    // Where queries continue a cached sequence they are the last positions of it, the same number in every row.
    let offset = shape.keys[0].len as isize - shape.queries[0].len as isize;
    let same_offset = |(q, k): (&Span, &Span)| k.len as isize - q.len as isize == offset;
    assert!(
        shape.queries.iter().zip(&shape.keys).all(same_offset),
        "one query offset for all sequences"
    );
    let last = bias.buckets.len() as isize - 1;
    let buckets = (0..n_queries as isize)
        .flat_map(|i| (0..n_keys as isize).map(move |j| j - (i + offset)))
        // Padding may lie further away than any real pair; it is masked.
        .map(|distance| bias.buckets[(distance - bias.min_distance).clamp(0, last) as usize])
        .collect();
    let buckets = engine.indices(buckets, (n_queries * n_keys,))?;
    let table = if bias.table.spec.trainable {
        bias.table
            .taped::<T>()
            .try_gather(buckets)
            .map_err(device_error)?
    } else {
        let table: Act<D> = bias
            .table
            .tensor
            .clone()
            .try_gather(buckets)
            .map_err(device_error)?;
        table.retaped::<T>()
    };
    table
        .try_permute::<(usize, usize), Axes2<1, 0>>()
        .and_then(|by_head| by_head.try_reshape_like(&(shape.n_heads, n_queries, n_keys)))
        .map_err(device_error)
}
