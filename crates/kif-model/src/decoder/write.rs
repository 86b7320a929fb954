//! Texts that go on from prompts, token by token, with keys and values kept: those of a prompt
//! once, whatever number of texts answer it.

use super::forward::{Sight, Tokens};
use super::{Decoder, angles};
use crate::ModelError;
use crate::engine::{Act, Engine, Span, Step};
use crate::model::{AdapterPass, Cache, Core, Reading};

/// Texts that are being written.
pub(crate) struct Written<E: Engine> {
    /// Keys and values of all prompts, by layer: of what they have in common once.
    of_prompts: Vec<[Vec<f32>; 2]>,
    /// The rows of each prompt there, in pieces.
    prompts: Vec<Vec<Span>>,
    /// The texts' own keys and values, by layer.
    caches: Vec<Cache>,
    /// The prompt that each text answers.
    answers: Vec<usize>,
    /// Tokens of their own that texts have, all the same number.
    position: usize,
    /// Weights of the adapters, `[prompts, n_slots]`, where rows are routed.
    weights: Option<Act<E::Device>>,
}

impl<E: Engine> Decoder<E> {
    /// See [`Network::begin`](crate::model::Network::begin).
    pub(super) fn read_prompts(
        &self,
        core: &Core<E>,
        reading: &Reading<'_, E>,
    ) -> Result<(Written<E>, Vec<f32>), ModelError> {
        let (rows, weights) = (&*reading.inputs, &reading.weights);
        let tokens = Tokens::of(rows, weights.is_none());
        let prompts = tokens.pieces(rows);
        let last = rows.offsets()[1..].iter().map(|end| end - 1).collect();
        let last = tokens.chosen(last);
        let mut x: Act<E::Device> = core.embed_ids(&core.embedding, &tokens.ids)?;
        let pass = self.pass(tokens, weights.as_ref(), None, Some(last.places.clone()));
        let mut of_prompts = Vec::with_capacity(self.layers.len());
        for (i, layer) in self.layers.iter().enumerate() {
            let adapters = &pass.adapters;
            let Sight { shape, angles } = self.sight(i, &pass);
            let [q, k, v] = self.projections(core, x.clone(), layer, angles, adapters, true)?;
            of_prompts.push([core.engine.to_host(&k)?, core.engine.to_host(&v)?]);
            let (k, v) = (
                self.looked_at(core, k, &pass)?,
                self.looked_at(core, v, &pass)?,
            );
            let mixed = core.engine.attention(q, k, v, shape, None)?;
            x = self.after_attention(core, i, x, mixed, &pass)?;
        }
        let hidden = last.answers(core, core.norm(x, &self.final_norm)?)?;
        let width = self.config.num_key_value_heads * self.config.head_dim;
        let layers = self.layers.iter();
        let written = Written {
            of_prompts,
            prompts,
            caches: layers.map(|_| Cache::new(rows.n_rows(), width)).collect(),
            answers: (0..rows.n_rows()).collect(),
            position: 0,
            weights: weights.clone(),
        };
        Ok((written, core.logits(hidden)?))
    }

    /// See [`Network::append_tokens`](crate::model::Network::append_tokens).
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
        let prompts: Vec<&[Span]> = written
            .answers
            .iter()
            .map(|&p| written.prompts[p].as_slice())
            .collect();
        let positions = || prompts.iter().map(|prompt| n_rows(prompt) + position);
        let angles = angles::angles(&self.frequencies, positions());
        let window_angles = angles::angles(&self.window_frequencies, positions());
        let adapters = AdapterPass::of_rows(
            written.weights.as_ref(),
            written.answers.clone().into(),
            None,
        );
        let mut x: Act<E::Device> = core.embed_ids(&core.embedding, ids)?;
        for (i, ((layer, of_prompts), cache)) in (self.layers.iter().zip(&written.of_prompts))
            .zip(&mut written.caches)
            .enumerate()
        {
            let window = self.window(i);
            let angles = if window.is_some() {
                &window_angles
            } else {
                &angles
            };
            let [q, k, v] = self.projections(core, x.clone(), layer, angles, &adapters, true)?;
            cache.append(
                position,
                &core.engine.to_host(&k)?,
                &core.engine.to_host(&v)?,
            );
            let own = cache.spans(ids.len(), position + 1);
            let (prompts, own) = newest(&prompts, own, window);
            let step = Step {
                prompts: &prompts,
                own: &own,
                n_heads: self.config.num_attention_heads,
                n_kv_heads: self.config.num_key_value_heads,
                head_dim: self.config.head_dim,
                scale: self.scale(),
            };
            let [keys, values] = of_prompts;
            let own = [cache.keys.as_slice(), &cache.values];
            let mixed = core.engine.attention_step(q, [keys, values], own, &step)?;
            x = self.attend_onto(core, x, mixed, layer, &adapters)?;
            x = self.feed_forward(core, x, layer, &adapters)?;
        }
        core.logits(core.norm(x, &self.final_norm)?)
    }
}

fn n_rows(pieces: &[Span]) -> usize {
    pieces.iter().map(|piece| piece.len).sum()
}

/// Of the rows of each prompt, and of those of each text behind it, the newest that a window shows.
fn newest(
    prompts: &[&[Span]],
    own: Vec<Span>,
    window: Option<usize>,
) -> (Vec<Vec<Span>>, Vec<Span>) {
    let window = window.unwrap_or(usize::MAX);
    let last = |span: &Span, n: usize| {
        let len = span.len.min(n);
        Span {
            start: span.start + span.len - len,
            len,
        }
    };
    let both = prompts.iter().zip(&own).map(|(prompt, own)| {
        let own = last(own, window);
        let mut n_hidden = n_rows(prompt).saturating_sub(window - own.len);
        let shown = prompt.iter().map(|piece| {
            let shown = last(piece, piece.len.saturating_sub(n_hidden));
            n_hidden -= piece.len - shown.len;
            shown
        });
        (shown.filter(|piece| piece.len > 0).collect(), own)
    });
    both.unzip()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_shows_the_end_of_the_prompt_and_then_of_the_text() {
        let span = |start, len| Span { start, len };
        let pieces = [span(0, 1), span(3, 4)];
        let (prompts, own) = ([&pieces[..]], vec![span(10, 2)]);
        let all = (vec![pieces.to_vec()], own.clone());
        assert_eq!(newest(&prompts, own.clone(), None), all);
        assert_eq!(newest(&prompts, own.clone(), Some(9)), all);
        let six = (vec![vec![span(3, 4)]], own.clone());
        assert_eq!(newest(&prompts, own.clone(), Some(6)), six);
        let three = (vec![vec![span(6, 1)]], own.clone());
        assert_eq!(newest(&prompts, own.clone(), Some(3)), three);
        let one = (vec![vec![]], vec![span(11, 1)]);
        assert_eq!(newest(&prompts, own, Some(1)), one);
    }
}
