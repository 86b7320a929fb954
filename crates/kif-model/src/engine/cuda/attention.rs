//! Attention on the tape. Products are cuBLAS's over padded heads; padding stays inside.

use std::rc::Rc;

use cudarc::driver::CudaSlice;
use dfdx::prelude::*;

use super::device::{Address, Factor, Gpu, Grid, Operand, Result, Store, arguments, take_gradient};
use super::{CudaEngine, CudaWeight};
use crate::engine::{Act, Attention, HostCache, PositionBias, Span, Step};

/// Which rows of `[4, B]` spans a gather reads.
const QUERIES: u32 = 0;
const KEYS: u32 = 2;

/// What attends to what, on the device.
struct Shape {
    spans: Rc<CudaSlice<u32>>,
    n_sequences: usize,
    n_heads: usize,
    /// Query heads that share a head of keys and values.
    group: usize,
    head_dim: usize,
    /// The longest sequences of queries and of keys.
    n_queries: usize,
    n_keys: usize,
    scale: f32,
    causal: bool,
    /// Keys that a query sees at most.
    window: usize,
}

impl Shape {
    fn new(gpu: &Gpu, attention: &Attention) -> Result<Self> {
        let Attention {
            queries,
            keys,
            n_heads,
            n_kv_heads,
            head_dim,
            scale,
            causal,
            window,
        } = attention;
        assert_eq!(queries.len(), keys.len(), "query and key spans");
        let starts_and_lens = [queries, keys].into_iter().flat_map(|spans| {
            let starts = spans.iter().map(|span| span.start as u32);
            starts.chain(spans.iter().map(|span| span.len as u32))
        });
        let spans: Vec<u32> = starts_and_lens.collect();
        let longest = |spans: &[Span]| spans.iter().map(|span| span.len).max().unwrap_or(0);
        Ok(Self {
            spans: gpu.indices(&spans)?,
            n_sequences: queries.len(),
            n_heads: *n_heads,
            group: n_heads / n_kv_heads,
            head_dim: *head_dim,
            n_queries: longest(queries),
            n_keys: longest(keys),
            scale: *scale,
            causal: *causal,
            window: window.unwrap_or(usize::MAX),
        })
    }

    fn n_products(&self) -> usize {
        self.n_sequences * self.n_heads
    }

    /// Longest sequence of what `which` says.
    fn n_rows(&self, which: u32) -> usize {
        if which == QUERIES {
            self.n_queries
        } else {
            self.n_keys
        }
    }

    fn head_values(&self, which: u32) -> usize {
        self.n_products() * self.n_rows(which) * self.head_dim
    }

    /// The heads of `x[tokens, H * head_dim]`, `[B, H, rows, head_dim]`.
    fn gather(&self, gpu: &Gpu, which: u32, x: Address) -> Result<CudaSlice<f32>> {
        let heads = gpu.scratch::<f32>(self.head_values(which))?;
        self.move_heads(gpu, "gather_heads", which, x, Address::of(&heads))?;
        Ok(heads)
    }

    /// The way back to `out[tokens, H * head_dim]`.
    fn scatter(&self, gpu: &Gpu, which: u32, heads: &CudaSlice<f32>, out: Address) -> Result<()> {
        self.move_heads(gpu, "scatter_heads", which, Address::of(heads), out)
    }

    fn move_heads(
        &self,
        gpu: &Gpu,
        kernel: &'static str,
        which: u32,
        from: Address,
        to: Address,
    ) -> Result<()> {
        let (spans, n_rows) = (Address::of(&self.spans), self.n_rows(which));
        let group = if which == QUERIES { 1 } else { self.group };
        gpu.launch(
            kernel,
            Grid::elements(self.head_values(which)),
            arguments![
                self.n_sequences,
                self.n_heads,
                group,
                n_rows,
                self.head_dim,
                spans,
                which,
                from,
                to
            ],
        )
    }

    fn heads(&self, which: u32, heads: &CudaSlice<f32>) -> Operand {
        Operand::f32(Address::of(heads), (self.n_rows(which), self.head_dim))
    }

    fn scores(&self, scores: &CudaSlice<f32>) -> Operand {
        Operand::f32(Address::of(scores), (self.n_queries, self.n_keys))
    }

    /// Products of query and key rows, `[B, H, queries, keys]`.
    fn between(
        &self,
        gpu: &Gpu,
        q: &CudaSlice<f32>,
        k: &CudaSlice<f32>,
        factor: f32,
    ) -> Result<CudaSlice<f32>> {
        let scores = gpu.scratch::<f32>(self.n_products() * self.n_queries * self.n_keys)?;
        gpu.products(
            self.n_products(),
            (self.n_queries, self.n_keys, self.head_dim),
            self.heads(QUERIES, q),
            self.heads(KEYS, k).transposed(),
            Factor::Host(factor),
            Address::of(&scores),
            Store::Replace,
        )?;
        Ok(scores)
    }

    /// Sums of rows, weighted by scores: of rows of keys a sum for every query, `scores rows`, and
    /// of rows of queries one for every key, `scores^T rows`.
    fn mix(
        &self,
        gpu: &Gpu,
        scores: &CudaSlice<f32>,
        (which, rows): (u32, &CudaSlice<f32>),
        factor: f32,
    ) -> Result<CudaSlice<f32>> {
        let (to, weights) = match which {
            KEYS => (QUERIES, self.scores(scores)),
            _ => (KEYS, self.scores(scores).transposed()),
        };
        let out = gpu.scratch::<f32>(self.head_values(to))?;
        gpu.products(
            self.n_products(),
            (self.n_rows(to), self.head_dim, self.n_rows(which)),
            weights,
            self.heads(which, rows),
            Factor::Host(factor),
            Address::of(&out),
            Store::Replace,
        )?;
        Ok(out)
    }

    /// Turns scores into probabilities.
    fn softmax(&self, gpu: &Gpu, scores: &CudaSlice<f32>, bias: Option<&Bias>) -> Result<()> {
        let (bias_at, n_distances, min_distance) = bias.map_or((Address::NULL, 0, 0), |bias| {
            (
                Address::of(&bias.by_distance),
                bias.n_distances,
                bias.min_distance,
            )
        });
        let (n_rows, n_cols, spans) = (self.n_queries, self.n_keys, Address::of(&self.spans));
        gpu.launch(
            "softmax_rows",
            Grid::blocks((n_rows * self.n_sequences, self.n_heads), n_cols),
            arguments![
                self.n_sequences,
                n_rows,
                n_cols,
                spans,
                self.causal,
                self.window,
                bias_at,
                n_distances,
                min_distance,
                Address::of(scores)
            ],
        )
    }

    /// Turns the gradient of probabilities into that of scores.
    fn softmax_backward(
        &self,
        gpu: &Gpu,
        probs: &CudaSlice<f32>,
        g: &CudaSlice<f32>,
    ) -> Result<()> {
        gpu.launch(
            "softmax_rows_backward",
            Grid::rows(self.n_products() * self.n_queries, self.n_keys),
            arguments![self.n_keys, Address::of(probs), Address::of(g)],
        )
    }

    /// `softmax(scale q k^T + bias) v` into `out`, and the probabilities.
    fn attend(
        &self,
        gpu: &Gpu,
        [q, k, v]: [Address; 3],
        bias: Option<&Bias>,
        out: Address,
    ) -> Result<CudaSlice<f32>> {
        let probs = {
            let (q, k) = (self.gather(gpu, QUERIES, q)?, self.gather(gpu, KEYS, k)?);
            self.between(gpu, &q, &k, self.scale)?
        };
        self.softmax(gpu, &probs, bias)?;
        let mixed = self.mix(gpu, &probs, (KEYS, &self.gather(gpu, KEYS, v)?), 1.0)?;
        self.scatter(gpu, QUERIES, &mixed, out)?;
        Ok(probs)
    }
}

/// The position bias of one call.
struct Bias {
    /// `[H, distances]`.
    by_distance: CudaSlice<f32>,
    buckets: Rc<CudaSlice<u32>>,
    n_buckets: usize,
    n_distances: usize,
    min_distance: i64,
    leaf: Option<Act<Cuda>>,
}

impl Bias {
    fn new(gpu: &Gpu, bias: PositionBias<'_, CudaWeight>, n_heads: usize) -> Result<Self> {
        let buckets: Vec<u32> = bias.buckets.iter().map(|&bucket| bucket as u32).collect();
        let (n_distances, buckets) = (buckets.len(), gpu.indices(&buckets)?);
        let by_distance = gpu.scratch::<f32>(n_heads * n_distances)?;
        let (from, to) = (bias.table.full(), Address::of(&by_distance));
        gpu.launch(
            "bias_by_distance",
            Grid::elements(n_heads * n_distances),
            arguments![n_heads, n_distances, Address::of(&buckets), from, to],
        )?;
        Ok(Self {
            by_distance,
            buckets,
            n_buckets: bias.table.spec.n_rows,
            n_distances,
            min_distance: bias.min_distance as i64,
            leaf: bias.table.leaf(),
        })
    }

    /// Adds the gradient of a trained table for the gradient of all scores.
    fn add_gradient(
        &self,
        gpu: &Gpu,
        shape: &Shape,
        g_scores: &CudaSlice<f32>,
        gradients: &mut Gradients<f32, Cuda>,
    ) -> Result<()> {
        let Some(leaf) = &self.leaf else {
            return Ok(());
        };
        let g_bias = gpu.scratch::<f32>(shape.n_heads * self.n_distances)?;
        let (n_rows, n_cols, spans) = (shape.n_queries, shape.n_keys, Address::of(&shape.spans));
        let g_bias_at = Address::of(&g_bias);
        gpu.launch(
            "bias_backward",
            Grid::blocks(
                (self.n_distances, shape.n_heads),
                shape.n_sequences * n_rows,
            ),
            arguments![
                shape.n_sequences,
                n_rows,
                n_cols,
                spans,
                self.min_distance,
                Address::of(g_scores),
                g_bias_at
            ],
        )?;
        let into = Address::of_gradient(gradients.get_or_alloc_mut(leaf)?);
        let (n_heads, buckets) = (shape.n_heads, Address::of(&self.buckets));
        gpu.launch(
            "bias_table_backward",
            Grid::elements(self.n_buckets * n_heads),
            arguments![
                self.n_buckets,
                n_heads,
                self.n_distances,
                buckets,
                g_bias_at,
                into
            ],
        )
    }
}

pub(super) fn attention<T: Tape<f32, Cuda>>(
    engine: &CudaEngine,
    q: Act<Cuda, T>,
    k: Act<Cuda, T>,
    v: Act<Cuda, T>,
    shape: &Attention,
    bias: Option<PositionBias<'_, CudaWeight>>,
) -> Result<Act<Cuda, T>> {
    let gpu = engine.gpu.clone();
    let (q, q_tape) = q.split_tape();
    let (k, k_tape) = k.split_tape();
    let (v, v_tape) = v.split_tape();
    let mut tape = q_tape.merge(k_tape).merge(v_tape);
    let (n_rows, width) = *q.shape();
    let shape = Shape::new(&gpu, shape)?;
    let bias = bias
        .map(|bias| Bias::new(&gpu, bias, shape.n_heads))
        .transpose()?;
    let out = gpu.tensor(n_rows, width)?;
    let inputs = [&q, &k, &v].map(Address::of_tensor);
    let probs = shape.attend(&gpu, inputs, bias.as_ref(), Address::of_tensor(&out))?;
    if T::OWNS_TAPE {
        let out_ghost = out.ghost();
        tape.add_backward_op(move |gradients| {
            let mut gy = take_gradient!(gpu, gradients, out_ghost);
            let gy = shape.gather(&gpu, QUERIES, gy.address()?)?;
            // q, k and v have no other consumer: their gradients are written, not added.
            let into = |gradients: &mut Gradients<f32, Cuda>, x: &Act<Cuda>| {
                Ok::<_, CudaError>(Address::of_gradient(gradients.get_or_alloc_mut(x)?))
            };
            let gv = shape.mix(&gpu, &probs, (QUERIES, &gy), 1.0)?;
            shape.scatter(&gpu, KEYS, &gv, into(gradients, &v)?)?;
            let g_scores = shape.between(
                &gpu,
                &gy,
                &shape.gather(&gpu, KEYS, Address::of_tensor(&v))?,
                1.0,
            )?;
            shape.softmax_backward(&gpu, &probs, &g_scores)?;
            if let Some(bias) = &bias {
                bias.add_gradient(&gpu, &shape, &g_scores, gradients)?;
            }
            let k_heads = shape.gather(&gpu, KEYS, Address::of_tensor(&k))?;
            let gq = shape.mix(&gpu, &g_scores, (KEYS, &k_heads), shape.scale)?;
            shape.scatter(&gpu, QUERIES, &gq, into(gradients, &q)?)?;
            let q_heads = shape.gather(&gpu, QUERIES, Address::of_tensor(&q))?;
            let gk = shape.mix(&gpu, &g_scores, (QUERIES, &q_heads), shape.scale)?;
            shape.scatter(&gpu, KEYS, &gk, into(gradients, &k)?)
        });
    }
    Ok(out.put_tape(tape))
}

/// Without a tape; keys and values come from the host.
pub(super) fn attention_cached(
    engine: &CudaEngine,
    q: &Act<Cuda>,
    k: &[f32],
    v: &[f32],
    shape: &Attention,
    bias: Option<PositionBias<'_, CudaWeight>>,
) -> Result<Act<Cuda>> {
    let gpu = &engine.gpu;
    let (n_rows, width) = *q.shape();
    let shape = Shape::new(gpu, shape)?;
    let bias = bias
        .map(|bias| Bias::new(gpu, bias, shape.n_heads))
        .transpose()?;
    let out = gpu.tensor(n_rows, width)?;
    let (k, v) = (gpu.copied(k.to_vec())?, gpu.copied(v.to_vec())?);
    let inputs = [Address::of_tensor(q), Address::of(&k), Address::of(&v)];
    shape.attend(gpu, inputs, bias.as_ref(), Address::of_tensor(&out))?;
    Ok(out)
}

/// Attention of one new token of each text to the rows of its prompt and to its own, which come
/// from the host.
pub(super) fn attention_step(
    engine: &CudaEngine,
    q: &Act<Cuda>,
    prompts: HostCache<'_>,
    own: HostCache<'_>,
    step: &Step<'_>,
) -> Result<Act<Cuda>> {
    let width = step.n_kv_heads * step.head_dim;
    let (mut keys, mut joined, mut start) = (Vec::new(), [Vec::new(), Vec::new()], 0);
    for (prompt, own_rows) in step.prompts.iter().zip(step.own) {
        for (of_prompts, (own, joined)) in prompts.iter().zip(own.iter().zip(&mut joined)) {
            let pieces = prompt.iter().map(|piece| (of_prompts, piece));
            for (from, rows) in pieces.chain([(own, own_rows)]) {
                joined.extend_from_slice(&from[rows.start * width..][..rows.len * width]);
            }
        }
        let len = prompt.iter().map(|piece| piece.len).sum::<usize>() + own_rows.len;
        keys.push(Span { start, len });
        start += len;
    }
    let shape = Attention {
        queries: (0..keys.len())
            .map(|start| Span { start, len: 1 })
            .collect(),
        keys,
        n_heads: step.n_heads,
        n_kv_heads: step.n_kv_heads,
        head_dim: step.head_dim,
        scale: step.scale,
        causal: false,
        window: None,
    };
    attention_cached(engine, q, &joined[0], &joined[1], &shape, None)
}
