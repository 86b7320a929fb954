//! Greedy generation with a key-value cache, and scoring of a label set.

use kif_data::Ragged;

use super::forward::spans;
use super::{Linear, T5};
use crate::ModelError;
use crate::engine::{Act, Engine, InputGradient, Span};

/// Keys and values of one decoder layer for all rows that are still being written.
///
/// Row i owns the places `i * capacity ..`, so that a step appends in place.
struct Cache {
    keys: Vec<f32>,
    values: Vec<f32>,
    width: usize,
    capacity: usize,
}

impl Cache {
    /// Room for the first tokens: answers are mostly short, however long they may get.
    const FIRST_CAPACITY: usize = 8;

    fn new(n_rows: usize, width: usize) -> Self {
        let len = n_rows * Self::FIRST_CAPACITY * width;
        Self {
            keys: vec![0.0; len],
            values: vec![0.0; len],
            width,
            capacity: Self::FIRST_CAPACITY,
        }
    }

    /// Writes position `at` of every row; `keys` and `values` are `[rows, width]`.
    fn append(&mut self, at: usize, keys: &[f32], values: &[f32]) {
        if at == self.capacity {
            self.double();
        }
        for (cache, new) in [(&mut self.keys, keys), (&mut self.values, values)] {
            for (row, new) in new.chunks_exact(self.width).enumerate() {
                cache[(row * self.capacity + at) * self.width..][..self.width].copy_from_slice(new);
            }
        }
    }

    /// Gives every row twice the places.
    fn double(&mut self) {
        let size = self.capacity * self.width;
        for cache in [&mut self.keys, &mut self.values] {
            let mut larger = vec![0.0; 2 * cache.len()];
            for (new, old) in larger
                .chunks_exact_mut(2 * size)
                .zip(cache.chunks_exact(size))
            {
                new[..size].copy_from_slice(old);
            }
            *cache = larger;
        }
        self.capacity *= 2;
    }

    /// Keeps the rows at `kept` (ascending), moved together.
    fn retain(&mut self, kept: &[usize]) {
        let size = self.capacity * self.width;
        for cache in [&mut self.keys, &mut self.values] {
            for (to, &from) in kept.iter().enumerate() {
                cache.copy_within(from * size..(from + 1) * size, to * size);
            }
            cache.truncate(kept.len() * size);
        }
    }

    fn spans(&self, n_rows: usize, len: usize) -> Vec<Span> {
        (0..n_rows)
            .map(|row| Span {
                start: row * self.capacity,
                len,
            })
            .collect()
    }
}

/// Cross-attention keys and values of one decoder layer, `[encoder tokens, H * head_dim]`.
type KeysAndValues<E> = (Act<<E as Engine>::Device>, Act<<E as Engine>::Device>);

/// A row that is being written.
struct Active {
    /// Its place in the result.
    row: usize,
    /// The encoder rows that it attends to.
    encoded: Span,
    last_id: u32,
}

impl<E: Engine> T5<E> {
    /// Greedy continuations of all prompts; finished rows leave the batch at once.
    pub(super) fn greedy(
        &self,
        prompts: &Ragged,
        max_new_tokens: usize,
    ) -> Result<Vec<Vec<u32>>, ModelError> {
        let mut written = vec![Vec::new(); prompts.n_rows()];
        if prompts.n_rows() == 0 || max_new_tokens == 0 {
            return Ok(written);
        }
        let encoded: Act<E::Device> = self.encode(prompts, None)?;
        let cross = self.cross_keys_and_values(&encoded)?;
        let width = self.config.num_heads * self.config.d_kv;
        let mut caches: Vec<Cache> = (0..self.decoder.blocks.len())
            .map(|_| Cache::new(prompts.n_rows(), width))
            .collect();
        let mut active: Vec<Active> = spans(prompts)
            .into_iter()
            .enumerate()
            .map(|(row, encoded)| Active {
                row,
                encoded,
                last_id: self.config.decoder_start_token_id,
            })
            .collect();
        for position in 0..max_new_tokens {
            let logits = self.decode_step(&active, position, &mut caches, &cross)?;
            let mut kept = Vec::with_capacity(active.len());
            for (i, row_logits) in logits.chunks_exact(self.config.vocab_size).enumerate() {
                let id = kif_kernels::argmax(row_logits) as u32;
                if id != self.config.eos_token_id {
                    written[active[i].row].push(id);
                    active[i].last_id = id;
                    kept.push(i);
                }
            }
            if kept.is_empty() {
                break;
            }
            if kept.len() < active.len() {
                caches.iter_mut().for_each(|cache| cache.retain(&kept));
                let mut place = 0;
                active.retain(|_| {
                    place += 1;
                    kept.binary_search(&(place - 1)).is_ok()
                });
            }
        }
        Ok(written)
    }

    /// Cross-attention keys and values of all decoder layers: computed once per prompt.
    fn cross_keys_and_values(
        &self,
        encoded: &Act<E::Device>,
    ) -> Result<Vec<KeysAndValues<E>>, ModelError> {
        let cross_layers = self
            .decoder
            .blocks
            .iter()
            .filter_map(|block| block.cross.as_ref());
        cross_layers
            .map(|layer| {
                Ok((
                    self.project_plain(encoded.clone(), &layer.k)?,
                    self.project_plain(encoded.clone(), &layer.v)?,
                ))
            })
            .collect()
    }

    /// A linear layer without tape and dropout.
    fn project_plain(
        &self,
        x: Act<E::Device>,
        linear: &Linear<E>,
    ) -> Result<Act<E::Device>, ModelError> {
        self.project(x, linear, None, InputGradient::Skip)
    }

    /// Logits `[active, V]` of the token at `position`.
    fn decode_step(
        &self,
        active: &[Active],
        position: usize,
        caches: &mut [Cache],
        cross: &[KeysAndValues<E>],
    ) -> Result<Vec<f32>, ModelError> {
        let n_rows = active.len();
        let ids: Vec<u32> = active.iter().map(|row| row.last_id).collect();
        let queries: Vec<Span> = (0..n_rows).map(|row| Span { start: row, len: 1 }).collect();
        let encoded_spans = active.iter().map(|row| row.encoded).collect();
        let cross_shape = self.attention_shape(queries.clone(), encoded_spans, false);
        let distances = self.distances(position + 1, false);
        let mut y: Act<E::Device> = self
            .engine
            .embed(&self.embedding(&self.decoder).weight, &ids)?;
        for ((block, cache), (cross_k, cross_v)) in
            self.decoder.blocks.iter().zip(caches).zip(cross)
        {
            let layer = &block.attention;
            let normed = self.norm(y.clone(), &layer.norm)?;
            let q = self.project_plain(normed.clone(), &layer.q)?;
            let k = self
                .engine
                .to_host(&self.project_plain(normed.clone(), &layer.k)?);
            let v = self.engine.to_host(&self.project_plain(normed, &layer.v)?);
            cache.append(position, &k, &v);
            let shape =
                self.attention_shape(queries.clone(), cache.spans(n_rows, position + 1), true);
            let bias = distances.bias(&self.decoder);
            let mixed =
                self.engine
                    .attention_cached(q, &cache.keys, &cache.values, &shape, Some(bias))?;
            y = self.project_onto(y, mixed, &layer.o, None)?;
            if let Some(layer) = &block.cross {
                let q = self.project_plain(self.norm(y.clone(), &layer.norm)?, &layer.q)?;
                let mixed = self.engine.attention(
                    q,
                    cross_k.clone(),
                    cross_v.clone(),
                    &cross_shape,
                    None,
                )?;
                y = self.project_onto(y, mixed, &layer.o, None)?;
            }
            y = self.feed_forward(y, &block.feed_forward, None)?;
        }
        let hidden = self.norm(y, &self.decoder.final_norm)?;
        self.engine.logits(hidden, self.head(), self.logit_scale())
    }

    /// Log-likelihood of every label for every prompt; prompts are encoded once.
    pub(super) fn score_labels(
        &self,
        prompts: &Ragged,
        labels: &[Vec<u32>],
    ) -> Result<Vec<Vec<f64>>, ModelError> {
        if prompts.n_rows() == 0 || labels.is_empty() {
            return Ok(vec![Vec::new(); prompts.n_rows()]);
        }
        let encoded: Act<E::Device> = self.encode(prompts, None)?;
        // Rows of the decoder: every label of the first prompt, then of the second, and so on.
        let rows: Vec<&[u32]> = (0..prompts.n_rows())
            .flat_map(|_| labels.iter().map(Vec::as_slice))
            .collect();
        let encoded_spans = spans(prompts)
            .into_iter()
            .flat_map(|span| std::iter::repeat_n(span, labels.len()))
            .collect();
        let decoder_inputs = self.decoder_inputs(rows.iter().copied());
        let hidden = self.decode(&encoded, encoded_spans, &decoder_inputs, None)?;
        let targets = Ragged::from_rows(&rows);
        let (_, nll) = self.engine.cross_entropy(
            hidden,
            self.head(),
            self.logit_scale(),
            targets.ids(),
            1.0,
        )?;
        let scores: Vec<f64> = super::sum_rows(&nll, &targets)
            .iter()
            .map(|nll| -nll)
            .collect();
        Ok(scores
            .chunks_exact(labels.len())
            .map(<[f64]>::to_vec)
            .collect())
    }
}
