//! Decoder-only models ([`Family`](crate::Family)), written once over [`Engine`].
//!
//! A row is the prompt and behind it the target; the hidden state of every token predicts the next.
//! Only those that predict target tokens are computed after the last attention.

mod angles;
mod build;
mod forward;
mod shared;
mod write;

use dfdx::prelude::{NoneTape, Tape, Trace};
use kif_data::Ragged;

use self::forward::Tokens;
use crate::engine::{Act, Engine, Loss};
use crate::files::DecoderConfig;
use crate::model::{Core, Linear, Network, Param, Reading, Recomputed, Recorded, Segments};
use crate::{Dropout, DropoutOf, ModelError};

/// Norm, attention, residual; norm, feed-forward block, residual.
struct Layer<E: Engine> {
    attention_norm: Param<E>,
    q: Linear<E>,
    k: Linear<E>,
    v: Linear<E>,
    o: Linear<E>,
    /// Gains of the norms of every head of q and k, `[1, head_dim]`, where there are such norms.
    head_norms: Option<[Param<E>; 2]>,
    /// Gains of the norms of what attention and the feed-forward block add to the residual stream,
    /// where there are such norms.
    output_norms: Option<[Param<E>; 2]>,
    feed_forward_norm: Param<E>,
    gate: Linear<E>,
    up: Linear<E>,
    down: Linear<E>,
}

/// The layers of a decoder-only model on engine `E`.
pub(crate) struct Decoder<E: Engine> {
    config: DecoderConfig,
    /// Angle per position of every pair of a head, `[head_dim / 2]`.
    frequencies: Vec<f32>,
    /// The same of layers that see only a window.
    window_frequencies: Vec<f32>,
    layers: Vec<Layer<E>>,
    final_norm: Param<E>,
}

impl<E: Engine> Network<E> for Decoder<E> {
    type Written = write::Written<E>;

    const SHARES_BEGINNINGS: bool = true;

    fn params_mut(&mut self) -> Vec<&mut Param<E>> {
        let mut all = Vec::new();
        for layer in &mut self.layers {
            all.push(&mut layer.attention_norm);
            for linear in [&mut layer.q, &mut layer.k, &mut layer.v, &mut layer.o] {
                linear.params_mut(&mut all);
            }
            all.extend(layer.head_norms.iter_mut().flatten());
            all.extend(layer.output_norms.iter_mut().flatten());
            all.push(&mut layer.feed_forward_norm);
            for linear in [&mut layer.gate, &mut layer.up, &mut layer.down] {
                linear.params_mut(&mut all);
            }
        }
        all.push(&mut self.final_norm);
        all
    }

    fn text_embedding<'a>(&'a self, core: &'a Core<E>) -> &'a Param<E> {
        &core.embedding
    }

    fn hidden<T: Tape<f32, E::Device>>(
        &self,
        core: &Core<E>,
        reading: &Reading<'_, E, T>,
        targets: &Ragged,
        dropout: Option<Dropout>,
    ) -> Result<(Act<E::Device, T>, T), ModelError> {
        let rows = joined(&reading.inputs, targets);
        let weights = reading.weights.as_ref();
        let are_shared = !T::OWNS_TAPE || core.dropout_of == DropoutOf::Beginning;
        let are_shared = are_shared && !core.is_gathering() && weights.is_none();
        let tokens = Tokens::of(&rows, are_shared);
        let chosen = tokens.chosen(predicting(&rows, targets));
        // Who looks inside sees what the layers make of all tokens.
        let early = (!core.is_gathering()).then(|| chosen.places.clone());
        let mut x = core.embed_ids::<T>(&core.embedding, &tokens.ids)?;
        let pass = self.pass(tokens, weights, dropout, early);
        for i in 0..self.layers.len() {
            x = self.layer(core, i, x, &pass)?;
        }
        if core.is_gathering() {
            x = core.engine.select(x, &chosen.places)?;
        }
        let hidden = core.norm(x, &self.final_norm)?;
        Ok((chosen.answers(core, hidden)?, T::default()))
    }

    fn recomputed(
        &self,
        core: &Core<E>,
        reading: &Reading<'_, E>,
        targets: &Ragged,
        dropout: Option<Dropout>,
        compare: impl FnOnce(
            Act<E::Device, Recorded<E>>,
        ) -> Result<Loss<E::Device, Recorded<E>>, ModelError>,
    ) -> Result<Recomputed<E>, ModelError> {
        let rows = joined(&reading.inputs, targets);
        let weights = reading.weights.as_ref();
        let are_shared = core.dropout_of == DropoutOf::Beginning && weights.is_none();
        let tokens = Tokens::of(&rows, are_shared);
        let chosen = tokens.chosen(predicting(&rows, targets));
        let ids = tokens.ids.clone();
        let pass = self.pass(tokens, weights, dropout, Some(chosen.places.clone()));
        let mut xs = vec![core.embed_ids::<NoneTape>(&core.embedding, &ids)?];
        for i in 0..self.layers.len() {
            xs.push(self.layer(core, i, xs[i].clone(), &pass)?);
        }
        let mut x = xs.pop().expect("the embedding at least");
        let hidden = x.clone().leaky_traced();
        let hidden = core.norm(hidden, &self.final_norm)?;
        let (loss, losses) = compare(chosen.answers(core, hidden)?)?;
        let mut segments = Segments::begin(loss)?;
        for i in (0..self.layers.len()).rev() {
            let input = xs.pop().expect("an input for every layer");
            let out = self.layer(core, i, input.clone().leaky_traced(), &pass)?;
            segments = segments.backward(out, &x)?;
            x = input;
        }
        if trains_inputs(core) {
            segments = segments.backward(core.embed_ids(&core.embedding, &ids)?, &x)?;
        }
        Ok((losses, segments))
    }

    fn begin(
        &self,
        core: &Core<E>,
        reading: &Reading<'_, E>,
    ) -> Result<(Self::Written, Vec<f32>), ModelError> {
        self.read_prompts(core, reading)
    }

    fn append_tokens(
        &self,
        core: &Core<E>,
        written: &mut Self::Written,
        from: &[usize],
        ids: &[u32],
    ) -> Result<Vec<f32>, ModelError> {
        self.write_on(core, written, from, ids)
    }
}

/// Whether something below the lowest layer is trained.
fn trains_inputs<E: Engine>(core: &Core<E>) -> bool {
    core.embedding.slot.is_some() || core.prompts.is_some()
}

/// What is read: every prompt and its target but for the last token, which predicts nothing.
fn joined(inputs: &Ragged, targets: &Ragged) -> Ragged {
    let pairs = inputs.rows().zip(targets.rows());
    Ragged::from_rows(pairs.map(|(input, target)| [input, &target[..target.len() - 1]].concat()))
}

/// The places of `rows` that predict a target token: as many at the end of each as it has targets.
fn predicting(rows: &Ragged, targets: &Ragged) -> Vec<usize> {
    let ends = rows.offsets()[1..].iter();
    let places = ends.zip(targets.rows());
    places
        .flat_map(|(end, target)| end - target.len()..*end)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_prompt_token_predicts_the_first_target() {
        let inputs = Ragged::from_rows([vec![5, 6, 7], vec![8]]);
        let targets = Ragged::from_rows([vec![1], vec![2, 3]]);
        let rows = joined(&inputs, &targets);
        assert_eq!(rows.row(0), [5, 6, 7]);
        assert_eq!(rows.row(1), [8, 2]);
        assert_eq!(predicting(&rows, &targets), [2, 3, 4]);
    }
}
