//! Greedy and drawn texts with a key-value cache, and scoring of a label set.

use std::collections::BTreeSet;

use kif_data::Ragged;
use kif_data::chance::uniform;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::forward::spans;
use super::routing::AdapterPass;
use super::{Linear, T5};
use crate::engine::{Act, Attention, Engine, InputGradient, Span};
use crate::{ModelError, Sampling};

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

    /// The cache of other rows: the i-th goes on from what was written for row `from[i]`.
    fn select(&mut self, from: &[usize]) {
        let size = self.capacity * self.width;
        for cache in [&mut self.keys, &mut self.values] {
            let mut selected = Vec::with_capacity(from.len() * size);
            for row in from {
                selected.extend_from_slice(&cache[row * size..][..size]);
            }
            *cache = selected;
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

/// What the decoder needs of all prompts: computed once.
struct Prompts<E: Engine> {
    /// By decoder layer.
    cross: Vec<KeysAndValues<E>>,
    /// Weights of the adapters, `[prompts, n_slots]`, where rows are routed.
    weights: Option<Act<E::Device>>,
}

/// A row that is being written.
struct Active {
    /// The prompt that it answers.
    prompt: usize,
    /// The encoder rows that it attends to.
    encoded: Span,
    last_id: u32,
}

impl<E: Engine> T5<E> {
    /// Greedy continuations of all prompts.
    pub(super) fn greedy(
        &self,
        prompts: &Ragged,
        max_new_tokens: usize,
    ) -> Result<Vec<Vec<u32>>, ModelError> {
        let mut written = vec![Vec::new(); prompts.n_rows()];
        self.write(prompts, max_new_tokens, |prompt, logits| {
            let id = kif_kernels::argmax(logits) as u32;
            let goes_on = id != self.config.eos_token_id;
            goes_on.then(|| {
                written[prompt].push(id);
                id
            })
        })?;
        Ok(written)
    }

    /// Drawn continuations of all prompts, see [`LanguageModel::sample`](crate::LanguageModel::sample).
    pub(super) fn drawn(
        &self,
        prompts: &Ragged,
        keys: &[[u8; 32]],
        sampling: Sampling,
    ) -> Result<Vec<Vec<Vec<u32>>>, ModelError> {
        let Sampling {
            top_k,
            n_parts,
            max_new_tokens,
        } = sampling;
        let mut rngs: Vec<_> = keys.iter().map(|&key| ChaCha8Rng::from_seed(key)).collect();
        let mut parts = vec![vec![Vec::new()]; prompts.n_rows()];
        self.write(prompts, max_new_tokens, |prompt, logits| {
            let id = draw(logits, top_k, uniform(&mut rngs[prompt])) as u32;
            let parts = &mut parts[prompt];
            parts.last_mut().expect("a part is being written").push(id);
            if id == self.config.eos_token_id {
                parts.push(Vec::new());
            }
            (parts.len() <= n_parts).then_some(id)
        })?;
        // The part that is being written when a text ends is not finished, or has not begun.
        parts
            .iter_mut()
            .for_each(|parts| parts.truncate(parts.len() - 1));
        Ok(parts)
    }

    /// Continues all prompts, token by token: `next(prompt, logits)` says which id comes next, or ends the text.
    /// Finished rows leave the batch at once.
    fn write(
        &self,
        prompts: &Ragged,
        max_new_tokens: usize,
        mut next: impl FnMut(usize, &[f32]) -> Option<u32>,
    ) -> Result<(), ModelError> {
        if prompts.n_rows() == 0 || max_new_tokens == 0 {
            return Ok(());
        }
        let weights = self.row_weights(prompts)?;
        let prompts = &*self.encoder_inputs(prompts)?;
        let encoded = self.encode_prompts(prompts, weights)?;
        let mut caches = self.caches(prompts.n_rows());
        let mut active: Vec<Active> = spans(prompts)
            .into_iter()
            .enumerate()
            .map(|(prompt, encoded)| Active {
                prompt,
                encoded,
                last_id: self.config.decoder_start_token_id,
            })
            .collect();
        for position in 0..max_new_tokens {
            let logits = self.decode_step(&active, position, &mut caches, &encoded)?;
            let mut kept = Vec::with_capacity(active.len());
            for (i, row_logits) in logits.chunks_exact(self.config.vocab_size).enumerate() {
                if let Some(id) = next(active[i].prompt, row_logits) {
                    active[i].last_id = id;
                    kept.push(i);
                }
            }
            if kept.is_empty() {
                break;
            }
            if kept.len() < active.len() {
                caches.iter_mut().for_each(|cache| cache.select(&kept));
                let mut place = 0;
                active.retain(|_| {
                    place += 1;
                    kept.binary_search(&(place - 1)).is_ok()
                });
            }
        }
        Ok(())
    }

    /// Empty caches of all decoder layers.
    fn caches(&self, n_rows: usize) -> Vec<Cache> {
        let width = self.config.num_heads * self.config.d_kv;
        let layers = self.decoder.blocks.iter();
        layers.map(|_| Cache::new(n_rows, width)).collect()
    }

    /// Encodes all prompts.
    fn encode_prompts(
        &self,
        prompts: &Ragged,
        weights: Option<Act<E::Device>>,
    ) -> Result<Prompts<E>, ModelError> {
        let encoded: Act<E::Device> = self.encode(prompts, weights.as_ref(), None)?;
        let pass = AdapterPass::new(weights.as_ref(), prompts, None);
        let layers = self.decoder.blocks.iter();
        let cross = layers
            .filter_map(|block| block.cross.as_ref())
            .map(|layer| {
                Ok((
                    self.project_plain(encoded.clone(), &layer.k, &pass)?,
                    self.project_plain(encoded.clone(), &layer.v, &pass)?,
                ))
            });
        Ok(Prompts {
            cross: cross.collect::<Result<_, ModelError>>()?,
            weights,
        })
    }

    /// A linear layer without tape.
    fn project_plain(
        &self,
        x: Act<E::Device>,
        linear: &Linear<E>,
        pass: &AdapterPass<E>,
    ) -> Result<Act<E::Device>, ModelError> {
        self.project(x, linear, pass, InputGradient::Skip)
    }

    /// Neighbours that answer the same prompt attend to it together: its keys are prepared once.
    fn cross_shape(&self, active: &[Active]) -> Attention {
        let (mut queries, mut keys) = (Vec::new(), Vec::new());
        let mut start = 0;
        for group in active.chunk_by(|a, b| a.prompt == b.prompt) {
            let len = group.len();
            queries.push(Span { start, len });
            keys.push(group[0].encoded);
            start += len;
        }
        self.attention_shape(queries, keys, false)
    }

    /// Logits `[active, V]` of the token at `position`.
    fn decode_step(
        &self,
        active: &[Active],
        position: usize,
        caches: &mut [Cache],
        prompts: &Prompts<E>,
    ) -> Result<Vec<f32>, ModelError> {
        let n_rows = active.len();
        let rows = active.iter().map(|row| row.prompt).collect();
        let pass = AdapterPass::of_rows(prompts.weights.as_ref(), rows, None);
        let ids: Vec<u32> = active.iter().map(|row| row.last_id).collect();
        let queries: Vec<Span> = (0..n_rows).map(|row| Span { start: row, len: 1 }).collect();
        let cross_shape = self.cross_shape(active);
        let distances = self.distances(position + 1, false);
        let mut y: Act<E::Device> =
            self.engine
                .embed(&self.embedding(&self.decoder).weight, None, &ids)?;
        for ((block, cache), (cross_k, cross_v)) in
            self.decoder.blocks.iter().zip(caches).zip(&prompts.cross)
        {
            let layer = &block.attention;
            let normed = self.norm(y.clone(), &layer.norm)?;
            let q = self.project_plain(normed.clone(), &layer.q, &pass)?;
            let k = self
                .engine
                .to_host(&self.project_plain(normed.clone(), &layer.k, &pass)?);
            let v = self
                .engine
                .to_host(&self.project_plain(normed, &layer.v, &pass)?);
            cache.append(position, &k, &v);
            let shape =
                self.attention_shape(queries.clone(), cache.spans(n_rows, position + 1), true);
            let bias = distances.bias(&self.decoder);
            let mixed =
                self.engine
                    .attention_cached(q, &cache.keys, &cache.values, &shape, Some(bias))?;
            y = self.project_onto(y, mixed, &layer.o, &pass)?;
            if let Some(layer) = &block.cross {
                let q = self.project_plain(self.norm(y.clone(), &layer.norm)?, &layer.q, &pass)?;
                let mixed = self.engine.attention(
                    q,
                    cross_k.clone(),
                    cross_v.clone(),
                    &cross_shape,
                    None,
                )?;
                y = self.project_onto(y, mixed, &layer.o, &pass)?;
            }
            y = self.feed_forward(y, &block.feed_forward, &pass)?;
        }
        let hidden = self.norm(y, &self.decoder.final_norm)?;
        self.engine.logits(hidden, self.head(), self.logit_scale())
    }

    /// Log-likelihood of every label for every prompt, in nats. Prompts are encoded once, and so is every beginning that
    /// labels share: a step takes in one more token of all distinct beginnings.
    pub(super) fn score_labels(
        &self,
        prompts: &Ragged,
        labels: &[Vec<u32>],
    ) -> Result<Vec<Vec<f64>>, ModelError> {
        let n_prompts = prompts.n_rows();
        let mut scores = vec![vec![0.0; labels.len()]; n_prompts];
        if n_prompts == 0 || labels.is_empty() {
            return Ok(scores);
        }
        let weights = self.row_weights(prompts)?;
        let prompts = &*self.encoder_inputs(prompts)?;
        let encoded = self.encode_prompts(prompts, weights)?;
        let mut caches = self.caches(n_prompts);
        let mut earlier = Vec::new();
        for position in 0.. {
            let beginnings = beginnings(labels, position);
            if beginnings.is_empty() {
                break;
            }
            if position > 0 {
                let rows = rows_before(&earlier, &beginnings, n_prompts);
                caches.iter_mut().for_each(|cache| cache.select(&rows));
            }
            let start = self.config.decoder_start_token_id;
            let active: Vec<Active> = spans(prompts)
                .into_iter()
                .enumerate()
                .flat_map(|(prompt, encoded)| {
                    beginnings.iter().map(move |beginning| Active {
                        prompt,
                        encoded,
                        last_id: beginning.last().copied().unwrap_or(start),
                    })
                })
                .collect();
            let logits = self.decode_step(&active, position, &mut caches, &encoded)?;
            let logits = logits.chunks_exact(self.config.vocab_size);
            for ((i, row), logits) in active.iter().enumerate().zip(logits) {
                let beginning = beginnings[i % beginnings.len()];
                for (label, score) in labels.iter().zip(&mut scores[row.prompt]) {
                    if label.len() > position && &label[..position] == beginning {
                        let next = label[position] as usize;
                        *score += f64::from(kif_kernels::log_softmax_at(logits, next));
                    }
                }
            }
            earlier = beginnings;
        }
        Ok(scores)
    }
}

/// One of the `top_k` largest logits by its share of their softmax: the one that `u`, in `[0, 1)`, falls on. Of equals
/// the earlier one is larger.
fn draw(logits: &[f32], top_k: usize, u: f32) -> usize {
    let by_size = |a: &usize, b: &usize| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b));
    let mut ranked: Vec<usize> = (0..logits.len()).collect();
    let top_k = top_k.clamp(1, logits.len());
    ranked.select_nth_unstable_by(top_k - 1, by_size);
    ranked.truncate(top_k);
    ranked.sort_unstable_by(by_size);
    let weight = |&i: &usize| f64::from(logits[i] - logits[ranked[0]]).exp();
    let mut left = f64::from(u) * ranked.iter().map(weight).sum::<f64>();
    for i in &ranked {
        left -= weight(i);
        if left < 0.0 {
            return *i;
        }
    }
    // Rounding may leave a little behind the last one.
    ranked[ranked.len() - 1]
}

/// The distinct first `len` tokens of all labels that are longer, in order.
fn beginnings(labels: &[Vec<u32>], len: usize) -> Vec<&[u32]> {
    let longer = labels.iter().filter(|label| label.len() > len);
    let distinct: BTreeSet<&[u32]> = longer.map(|label| &label[..len]).collect();
    distinct.into_iter().collect()
}

/// For every prompt and every one of `beginnings`, the row of the prompt and the beginning that is one token shorter.
fn rows_before(earlier: &[&[u32]], beginnings: &[&[u32]], n_prompts: usize) -> Vec<usize> {
    let before: Vec<usize> = beginnings
        .iter()
        .map(|beginning| {
            let shorter = &beginning[..beginning.len() - 1];
            let found = earlier.binary_search(&shorter);
            found.expect("a label that is longer than this beginning is longer than that")
        })
        .collect();
    (0..n_prompts)
        .flat_map(|prompt| {
            before
                .iter()
                .map(move |place| prompt * earlier.len() + place)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draw_falls_on_the_likeliest_ones_by_their_shares() {
        // Shares of 3/4 and 1/4 among the two largest.
        let logits = [1.0, 3f32.ln() + 2.0, -4.0, 2.0];
        let drawn = [0.0, 0.74, 0.76, 0.999].map(|u| draw(&logits, 2, u));
        assert_eq!(drawn, [1, 1, 3, 3]);
        assert_eq!(draw(&logits, 1, 0.999), 1);
        assert_eq!(draw(&logits, 9, 0.999_999), 2, "more than there are is all");
    }

    #[test]
    fn labels_share_their_beginnings() {
        let labels = [vec![7, 1], vec![3, 4, 1], vec![3, 5, 1], vec![3, 4]];
        assert_eq!(beginnings(&labels, 0), [&[] as &[u32]]);
        assert_eq!(beginnings(&labels, 1), [&[3][..], &[7]]);
        assert_eq!(beginnings(&labels, 2), [&[3, 4][..], &[3, 5]]);
        assert!(beginnings(&labels, 3).is_empty());
    }

    #[test]
    fn a_longer_beginning_goes_on_from_the_row_of_its_own_prompt() {
        let (earlier, now): ([&[u32]; 2], [&[u32]; 2]) = ([&[3], &[7]], [&[7, 2], &[7, 4]]);
        assert_eq!(rows_before(&earlier, &now, 2), [1, 1, 3, 3]);
    }

    #[test]
    fn a_cache_follows_the_rows_that_were_selected() {
        let mut cache = Cache::new(2, 1);
        cache.append(0, &[1.0, 2.0], &[3.0, 4.0]);
        cache.select(&[1, 0, 1]);
        let first = |of: &[f32]| -> Vec<f32> {
            cache
                .spans(3, 1)
                .iter()
                .map(|span| of[span.start])
                .collect()
        };
        assert_eq!(first(&cache.keys), [2.0, 1.0, 2.0]);
        assert_eq!(first(&cache.values), [4.0, 3.0, 4.0]);
    }
}
