//! Texts that go on from prompts, token by token, with keys and values kept: those of a prompt once, whatever number of
//! texts answer it.

use std::ops::Range;

use kif_data::Ragged;

use super::{Decoder, angles};
use crate::ModelError;
use crate::engine::{Act, Engine, Span, Step};
use crate::model::{AdapterPass, Cache, Core, Reading, spans};

/// Texts that are being written.
pub(crate) struct Written<E: Engine> {
    /// Keys and values of all prompts, by layer.
    of_prompts: Vec<[Vec<f32>; 2]>,
    /// The rows of each prompt there.
    prompts: Vec<Span>,
    /// The texts' own keys and values, by layer.
    caches: Vec<Cache>,
    /// The prompt that each text answers.
    answers: Vec<usize>,
    /// Tokens of their own that texts have, all the same number.
    position: usize,
    /// Weights of the adapters, `[prompts, n_slots]`, where rows are routed.
    weights: Option<Act<E::Device>>,
}

/// Prompt tokens that are read at once: more do not stay in the second-level cache from one panel of a weight to the next.
const READ_AT_ONCE: usize = 512;

impl<E: Engine> Decoder<E> {
    /// See [`Network::begin`](crate::model::Network::begin).
    pub(super) fn read_prompts(
        &self,
        core: &Core<E>,
        reading: &Reading<'_, E>,
    ) -> Result<(Written<E>, Vec<f32>), ModelError> {
        let (rows, weights) = (&*reading.inputs, &reading.weights);
        let width = self.config.num_key_value_heads * self.config.head_dim;
        let room = || Vec::with_capacity(rows.n_tokens() * width);
        let layers = self.layers.iter();
        let mut of_prompts: Vec<_> = layers.map(|_| [room(), room()]).collect();
        let mut hidden = Vec::with_capacity(rows.n_rows() * core.width);
        for group in groups(rows) {
            let of_group = Ragged::from_rows(group.clone().map(|row| rows.row(row)));
            let x = self.read_group(core, &of_group, group.start, weights, &mut of_prompts)?;
            hidden.extend(core.engine.to_host(&x)?);
        }
        let hidden = core.engine.upload(hidden, (rows.n_rows(), core.width))?;
        let layers = self.layers.iter();
        let written = Written {
            of_prompts,
            prompts: spans(rows),
            caches: layers.map(|_| Cache::new(rows.n_rows(), width)).collect(),
            answers: (0..rows.n_rows()).collect(),
            position: 0,
            weights: weights.clone(),
        };
        Ok((written, core.logits(hidden)?))
    }

    /// Reads some prompts, whose first has number `first_row`: the last hidden states behind the norm, `[rows, D]`. Keys and
    /// values go behind those of the prompts before.
    fn read_group(
        &self,
        core: &Core<E>,
        rows: &Ragged,
        first_row: usize,
        weights: &Option<Act<E::Device>>,
        of_prompts: &mut [[Vec<f32>; 2]],
    ) -> Result<Act<E::Device>, ModelError> {
        let last = rows.offsets()[1..].iter().map(|end| end - 1).collect();
        let pass = self.pass(rows, first_row, weights.as_ref(), None, Some(last));
        let mut x: Act<E::Device> = core.embed(&core.embedding, rows)?;
        for (i, [keys, values]) in of_prompts.iter_mut().enumerate() {
            let (layer, adapters) = (&self.layers[i], &pass.adapters);
            let [q, k, v] =
                self.projections(core, x.clone(), layer, &pass.angles, adapters, true)?;
            keys.extend(core.engine.to_host(&k)?);
            values.extend(core.engine.to_host(&v)?);
            let mixed = core.engine.attention(q, k, v, &pass.shape, None)?;
            x = self.behind_attention(core, i, x, mixed, &pass)?;
        }
        core.norm(x, &self.final_norm)
    }

    /// See [`Network::go_on`](crate::model::Network::go_on).
    pub(super) fn write_on(
        &self,
        core: &Core<E>,
        written: &mut Written<E>,
        from: &[usize],
        ids: &[u32],
    ) -> Result<Vec<f32>, ModelError> {
        if !from.iter().copied().eq(0..written.answers.len()) {
            let caches = written.caches.iter_mut();
            caches.for_each(|cache| cache.select(from));
            written.answers = from.iter().map(|&text| written.answers[text]).collect();
        }
        let position = written.position;
        written.position += 1;
        let prompts: Vec<Span> = written
            .answers
            .iter()
            .map(|&p| written.prompts[p])
            .collect();
        let positions = prompts.iter().map(|prompt| prompt.len + position);
        let angles = angles::angles(&self.frequencies, positions);
        let adapters = AdapterPass::of_rows(
            written.weights.as_ref(),
            written.answers.clone().into(),
            None,
        );
        let table = &core.embedding.weight;
        let mut x: Act<E::Device> = core.engine.embed(table, None, ids)?;
        for ((layer, of_prompts), cache) in
            (self.layers.iter().zip(&written.of_prompts)).zip(&mut written.caches)
        {
            let [q, k, v] = self.projections(core, x.clone(), layer, &angles, &adapters, true)?;
            cache.append(
                position,
                &core.engine.to_host(&k)?,
                &core.engine.to_host(&v)?,
            );
            let step = Step {
                prompts: &prompts,
                own: &cache.spans(ids.len(), position + 1),
                n_heads: self.config.num_attention_heads,
                n_kv_heads: self.config.num_key_value_heads,
                head_dim: self.config.head_dim,
                scale: self.scale(),
            };
            let [keys, values] = of_prompts;
            let own = [cache.keys.as_slice(), &cache.values];
            let mixed = core.engine.attention_step(q, [keys, values], own, &step)?;
            x = core.project_onto(x, mixed, &layer.o, &adapters)?;
            x = self.feed_forward(core, x, layer, &adapters)?;
        }
        core.logits(core.norm(x, &self.final_norm)?)
    }
}

/// Rows in order, in groups of at most [`READ_AT_ONCE`] tokens or one longer row. No row sees the others, so that groups
/// change no bit.
fn groups(rows: &Ragged) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    let offsets = rows.offsets();
    for row in 0..rows.n_rows() {
        match groups.last_mut() {
            Some(group) if offsets[row + 1] - offsets[group.start] <= READ_AT_ONCE => {
                group.end = row + 1;
            }
            _ => groups.push(row..row + 1),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_hold_every_row_once_and_few_tokens() {
        let rows = Ragged::from_rows([300, 212, 1, 600, 511, 1].map(|len| vec![7; len]));
        assert_eq!(groups(&rows), [0..2, 2..3, 3..4, 4..6]);
        assert!(groups(&Ragged::from_rows([] as [Vec<u32>; 0])).is_empty());
    }
}
