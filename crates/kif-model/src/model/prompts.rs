//! Soft prompts in front of the texts: as ids behind the vocabulary, which only the embedding knows
//! apart.

use std::borrow::Cow;

use dfdx::prelude::NoneTape;
use kif_data::Ragged;

use super::core::Core;
use super::layer::Param;
use super::parts::SoftPrompts;
use crate::engine::{Act, Engine};
use crate::prompts::closest_keys;
use crate::{ModelError, PromptSelection};

impl<E: Engine> Core<E> {
    /// What the model reads: every text behind its prompts, whose row r is the id `V + r`. `table`
    /// embeds the texts.
    pub(crate) fn behind_prompts<'a>(
        &self,
        table: &Param<E>,
        texts: &'a Ragged,
    ) -> Result<Cow<'a, Ragged>, ModelError> {
        let Some(prompts) = self.prompts.as_ref().filter(|p| !p.active.is_empty()) else {
            return Ok(Cow::Borrowed(texts));
        };
        let length = prompts.config.length;
        let ids_of = |prompt: &usize| {
            let first = self.vocab_size + prompt * length;
            first as u32..(first + length) as u32
        };
        let chosen = self.chosen_prompts(table, prompts, texts)?;
        let rows = texts.rows().zip(&chosen).map(|(text, chosen)| {
            let mut row: Vec<u32> = chosen.iter().flat_map(ids_of).collect();
            row.extend_from_slice(text);
            row
        });
        Ok(Cow::Owned(Ragged::from_rows(rows)))
    }

    /// The prompts of every text.
    fn chosen_prompts(
        &self,
        table: &Param<E>,
        prompts: &SoftPrompts<E>,
        texts: &Ragged,
    ) -> Result<Vec<Vec<usize>>, ModelError> {
        let SoftPrompts {
            config,
            keys,
            active,
            ..
        } = prompts;
        match (config.selection, keys) {
            (PromptSelection::Pool { top_k }, &Some(keys)) => {
                let keys = &self.params[self.layout.specs()[keys].range.clone()];
                let queries = self.mean_embeddings(table, texts)?;
                let closest = |query| closest_keys(keys, query, active, top_k);
                Ok(queries.chunks_exact(self.width).map(closest).collect())
            }
            _ => Ok(vec![active.clone(); texts.n_rows()]),
        }
    }

    /// Mean embedding of every text, `[B, D]`, each summed by itself in order.
    pub(crate) fn mean_embeddings(
        &self,
        table: &Param<E>,
        texts: &Ragged,
    ) -> Result<Vec<f32>, ModelError> {
        let width = self.width;
        let embedded: Act<E::Device> = self.embed::<NoneTape>(table, texts)?;
        let embedded = self.engine.to_host(&embedded)?;
        let mut means = vec![0.0; texts.n_rows() * width];
        for (mean, place) in means
            .chunks_exact_mut(width)
            .zip(texts.offsets().windows(2))
        {
            for row in embedded[place[0] * width..place[1] * width].chunks_exact(width) {
                mean.iter_mut().zip(row).for_each(|(mean, x)| *mean += x);
            }
            let n_tokens = (place[1] - place[0]) as f32;
            mean.iter_mut().for_each(|mean| *mean /= n_tokens);
        }
        Ok(means)
    }
}
