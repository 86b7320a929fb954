//! Greedy and drawn texts, and scoring of a label set: what is asked of a network that continues
//! texts token by token.

use std::collections::BTreeSet;

use kif_data::Ragged;
use kif_data::chance::uniform;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::{Model, Network};
use crate::engine::Engine;
use crate::{ModelError, Sampling};

impl<E: Engine, N: Network<E>> Model<E, N> {
    /// Greedy continuations of all prompts.
    pub(super) fn greedy(
        &self,
        prompts: &Ragged,
        max_new_tokens: usize,
    ) -> Result<Vec<Vec<u32>>, ModelError> {
        let mut written = vec![Vec::new(); prompts.n_rows()];
        self.write(prompts, max_new_tokens, |prompt, logits| {
            let id = kif_kernels::argmax(logits) as u32;
            let goes_on = !self.core.end_ids.contains(&id);
            goes_on.then(|| {
                written[prompt].push(id);
                id
            })
        })?;
        Ok(written)
    }

    /// Drawn continuations of all prompts, see
    /// [`Distributions::sample`](crate::Distributions::sample).
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
            if self.core.end_ids.contains(&id) {
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

    /// Continues all prompts, token by token: `next(prompt, logits)` says which id comes next, or
    /// ends the text. Finished rows leave the batch at once.
    fn write(
        &self,
        prompts: &Ragged,
        max_new_tokens: usize,
        mut next: impl FnMut(usize, &[f32]) -> Option<u32>,
    ) -> Result<(), ModelError> {
        if prompts.n_rows() == 0 || max_new_tokens == 0 {
            return Ok(());
        }
        let reading = self.read(prompts)?;
        let (mut written, mut logits) = self.network.begin(&self.core, &reading)?;
        let mut active: Vec<usize> = (0..prompts.n_rows()).collect();
        for position in 1.. {
            let (mut from, mut ids) = (Vec::new(), Vec::new());
            for (row, logits) in logits.chunks_exact(self.core.vocab_size).enumerate() {
                if let Some(id) = next(active[row], logits) {
                    from.push(row);
                    ids.push(id);
                }
            }
            if from.is_empty() || position == max_new_tokens {
                break;
            }
            active = from.iter().map(|&row| active[row]).collect();
            logits = self
                .network
                .append_tokens(&self.core, &mut written, &from, &ids)?;
        }
        Ok(())
    }

    /// Log-likelihood of every label for every prompt, in nats. Prompts are read once, and so is
    /// every beginning that labels share: a step takes in one more token of all distinct
    /// beginnings.
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
        let reading = self.read(prompts)?;
        let (mut written, mut logits) = self.network.begin(&self.core, &reading)?;
        let mut earlier = beginnings(labels, 0);
        for position in 0.. {
            let rows = logits.chunks_exact(self.core.vocab_size).enumerate();
            for (row, logits) in rows {
                let (prompt, beginning) = (row / earlier.len(), earlier[row % earlier.len()]);
                for (label, score) in labels.iter().zip(&mut scores[prompt]) {
                    if label.len() > position && &label[..position] == beginning {
                        let next = label[position] as usize;
                        *score += f64::from(kif_kernels::log_softmax_at(logits, next));
                    }
                }
            }
            let longer = beginnings(labels, position + 1);
            if longer.is_empty() {
                break;
            }
            let from = rows_before(&earlier, &longer, n_prompts);
            let last = longer.iter().map(|beginning| beginning[position]);
            let ids: Vec<u32> = (0..n_prompts).flat_map(|_| last.clone()).collect();
            logits = self
                .network
                .append_tokens(&self.core, &mut written, &from, &ids)?;
            earlier = longer;
        }
        Ok(scores)
    }
}

/// One of the `top_k` largest logits by its share of their softmax: the one that `u`, in `[0, 1)`,
/// falls on. Of equals the earlier one is larger.
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

/// For every prompt and every one of `beginnings`, the row of the prompt and the beginning that is
/// one token shorter.
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
}
