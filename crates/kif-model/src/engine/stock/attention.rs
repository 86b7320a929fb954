//! Attention on padded rectangles: gather, compute, gather back.

use dfdx::prelude::*;

use super::{Stock, StockWeight, frozen};
use crate::ModelError;
use crate::engine::{Act, Attention, HostCache, PositionBias, Span, Step, device_error};

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
    let (k, v) = (
        shared_heads(engine, k, shape)?,
        shared_heads(engine, v, shape)?,
    );
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

/// Every query head with keys, or values, of its own: a product with a matrix of 0 and 1.
fn shared_heads<D: Device<f32>, T: Tape<f32, D>>(
    engine: &Stock<D>,
    x: Act<D, T>,
    shape: &Attention,
) -> Result<Act<D, T>, ModelError> {
    let Attention {
        n_heads,
        n_kv_heads,
        head_dim,
        ..
    } = *shape;
    if n_kv_heads == n_heads {
        return Ok(x);
    }
    let (n_out, n_in) = (n_heads * head_dim, n_kv_heads * head_dim);
    let mut copy = vec![0.0; n_out * n_in];
    for (column, row) in copy.chunks_exact_mut(n_in).enumerate() {
        let kv_head = column / head_dim / (n_heads / n_kv_heads);
        row[kv_head * head_dim + column % head_dim] = 1.0;
    }
    frozen::product(x, &engine.tensor(copy, n_out, n_in)?).map_err(device_error)
}

/// Keys of prompt and text in a row, for each text.
pub(super) fn attention_step<D: Device<f32>>(
    engine: &Stock<D>,
    q: Act<D>,
    prompts: HostCache<'_>,
    own: HostCache<'_>,
    step: &Step<'_>,
) -> Result<Act<D>, ModelError> {
    let width = step.n_kv_heads * step.head_dim;
    let rows = |from: &[f32], span: &Span| from[span.start * width..][..span.len * width].to_vec();
    let joined = |i: usize| {
        let texts = step.prompts.iter().zip(step.own);
        let all = texts.flat_map(|(prompt, text)| {
            let of_prompt = prompt.iter().map(|piece| rows(prompts[i], piece));
            of_prompt.chain([rows(own[i], text)])
        });
        let values = all.collect::<Vec<_>>().concat();
        let n_rows = values.len() / width;
        engine.tensor(values, n_rows, width)
    };
    let n_rows = |pieces: &[Span]| pieces.iter().map(|piece| piece.len).sum::<usize>();
    let mut start = 0;
    let texts = step.prompts.iter().zip(step.own);
    let keys = texts.map(|(prompt, text)| {
        let len = n_rows(prompt) + text.len;
        start += len;
        Span {
            start: start - len,
            len,
        }
    });
    let shape = Attention {
        keys: keys.collect(),
        queries: (0..step.own.len())
            .map(|start| Span { start, len: 1 })
            .collect(),
        n_heads: step.n_heads,
        n_kv_heads: step.n_kv_heads,
        head_dim: step.head_dim,
        scale: step.scale,
        causal: true,
        window: None,
    };
    attention(engine, q, joined(0)?, joined(1)?, &shape, None)
}

/// Row of every padded place; padding repeats row 0, whose score is masked and whose output is
/// never read.
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
            let end = if shape.causal {
                (i as isize + offset + 1).min(keys.len as isize)
            } else {
                keys.len as isize
            };
            let first = shape.window.map_or(0, |window| end - window as isize);
            let visible = |j: usize| (first..end).contains(&(j as isize));
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
    // Where queries continue a cached sequence they are the last positions of it, the same number
    // in every row.
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
