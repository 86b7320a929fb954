//! Texts that the decoder writes, token by token, with keys and values kept.

use super::T5;
use crate::ModelError;
use crate::engine::{Act, Attention, Engine, Span};
use crate::model::{AdapterPass, Cache, Core, Reading, spans};

/// Cross-attention keys and values of one decoder layer, `[encoder tokens, H * head_dim]`.
type KeysAndValues<E> = (Act<<E as Engine>::Device>, Act<<E as Engine>::Device>);

/// Texts that are being written.
pub(crate) struct Written<E: Engine> {
    /// What the decoder needs of all prompts, computed once, by decoder layer.
    cross: Vec<KeysAndValues<E>>,
    /// Weights of the adapters, `[prompts, n_slots]`, where rows are routed.
    weights: Option<Act<E::Device>>,
    /// Own keys and values, by decoder layer.
    caches: Vec<Cache>,
    /// The prompt that each text answers.
    prompts: Vec<usize>,
    /// The encoder rows of each prompt.
    encoded: Vec<Span>,
    /// Tokens that have been read, the same number in every text.
    position: usize,
}

impl<E: Engine> T5<E> {
    /// Encodes all prompts and reads the start token.
    pub(super) fn begin_texts(
        &self,
        core: &Core<E>,
        reading: &Reading<'_, E>,
    ) -> Result<(Written<E>, Vec<f32>), ModelError> {
        let (inputs, weights) = (&*reading.inputs, &reading.weights);
        let encoded: Act<E::Device> = self.encode(core, inputs, weights.as_ref(), None)?;
        let pass = AdapterPass::new(weights.as_ref(), inputs, None);
        let layers = self.decoder.blocks.iter();
        let cross = layers
            .filter_map(|block| block.cross.as_ref())
            .map(|layer| {
                Ok((
                    core.project_plain(encoded.clone(), &layer.k, &pass)?,
                    core.project_plain(encoded.clone(), &layer.v, &pass)?,
                ))
            });
        let (n_rows, width) = (inputs.n_rows(), self.config.inner_dim());
        let layers = self.decoder.blocks.iter();
        let mut written = Written {
            cross: cross.collect::<Result<_, ModelError>>()?,
            weights: weights.clone(),
            caches: layers.map(|_| Cache::new(n_rows, width)).collect(),
            prompts: (0..n_rows).collect(),
            encoded: spans(inputs),
            position: 0,
        };
        let starts = vec![self.config.decoder_start_token_id; n_rows];
        let logits = self.step(core, &mut written, &starts)?;
        Ok((written, logits))
    }

    /// See [`Network::append_tokens`](crate::model::Network::append_tokens).
    pub(super) fn write_on(
        &self,
        core: &Core<E>,
        written: &mut Written<E>,
        from: &[usize],
        ids: &[u32],
    ) -> Result<Vec<f32>, ModelError> {
        if !from.iter().copied().eq(0..written.prompts.len()) {
            written
                .caches
                .iter_mut()
                .for_each(|cache| cache.select(from));
            written.prompts = from.iter().map(|&text| written.prompts[text]).collect();
        }
        self.step(core, written, ids)
    }

    /// Neighbours that answer the same prompt attend to it together: its keys are prepared once.
    fn cross_shape(&self, written: &Written<E>) -> Attention {
        let (mut queries, mut keys) = (Vec::new(), Vec::new());
        let mut start = 0;
        for group in written.prompts.chunk_by(|a, b| a == b) {
            let len = group.len();
            queries.push(Span { start, len });
            keys.push(written.encoded[group[0]]);
            start += len;
        }
        self.attention_shape(queries, keys, false)
    }

    /// Reads one more token of every text: logits `[texts, V]` of the next.
    fn step(
        &self,
        core: &Core<E>,
        written: &mut Written<E>,
        ids: &[u32],
    ) -> Result<Vec<f32>, ModelError> {
        let (n_rows, position) = (ids.len(), written.position);
        let rows = written.prompts.clone().into();
        let pass = AdapterPass::of_rows(written.weights.as_ref(), rows, None);
        let queries: Vec<Span> = (0..n_rows).map(|row| Span { start: row, len: 1 }).collect();
        let cross_shape = self.cross_shape(written);
        let distances = self.distances(position + 1, false);
        let table = &self.decoder.embedding(core).weight;
        let mut y: Act<E::Device> = core.engine.embed(table, None, ids)?;
        for ((block, cache), (cross_k, cross_v)) in
            (self.decoder.blocks.iter().zip(&mut written.caches)).zip(&written.cross)
        {
            let layer = &block.attention;
            let normed = core.norm(y.clone(), &layer.norm)?;
            let q = core.project_plain(normed.clone(), &layer.q, &pass)?;
            let k = core.project_plain(normed.clone(), &layer.k, &pass)?;
            let v = core.project_plain(normed, &layer.v, &pass)?;
            let (k, v) = (core.engine.to_host(&k)?, core.engine.to_host(&v)?);
            cache.append(position, &k, &v);
            let keys = cache.spans(n_rows, position + 1);
            let shape = self.attention_shape(queries.clone(), keys, true);
            let bias = distances.bias(&self.decoder);
            let mixed =
                core.engine
                    .attention_cached(q, &cache.keys, &cache.values, &shape, Some(bias))?;
            y = core.project_onto(y, mixed, &layer.o, &pass)?;
            if let Some(layer) = &block.cross {
                let q = core.project_plain(core.norm(y.clone(), &layer.norm)?, &layer.q, &pass)?;
                let mixed = core.engine.attention(
                    q,
                    cross_k.clone(),
                    cross_v.clone(),
                    &cross_shape,
                    None,
                )?;
                y = core.project_onto(y, mixed, &layer.o, &pass)?;
            }
            y = self.feed_forward(core, y, &block.feed_forward, &pass)?;
        }
        written.position += 1;
        core.logits(core.norm(y, &self.decoder.final_norm)?)
    }
}
