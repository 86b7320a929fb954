//! Loss and gradients with the activations of one block at a time, see [`Segments`].

use dfdx::prelude::{NoneTape, Trace};
use kif_data::Ragged;

use super::T5;
use crate::engine::{Act, Engine, Loss};
use crate::model::{Core, Reading, Recomputed, Recorded, Segments};
use crate::{Dropout, ModelError};

impl<E: Engine> T5<E> {
    /// See [`Network::recomputed`](crate::model::Network::recomputed).
    pub(super) fn in_segments(
        &self,
        core: &Core<E>,
        reading: &Reading<'_, E>,
        targets: &Ragged,
        dropout: Option<Dropout>,
        compare: impl FnOnce(
            Act<E::Device, Recorded<E>>,
        ) -> Result<Loss<E::Device, Recorded<E>>, ModelError>,
    ) -> Result<Recomputed<E>, ModelError> {
        let (inputs, weights) = (&*reading.inputs, reading.weights.as_ref());
        let (encoder_table, decoder_table) =
            (self.encoder.embedding(core), self.decoder.embedding(core));
        let pass = self.encoder_pass(inputs, weights, dropout);
        let mut xs = vec![core.embed::<NoneTape>(encoder_table, inputs)?];
        for i in 0..self.encoder.blocks.len() {
            xs.push(self.encoder_block(core, i, xs[i].clone(), &pass)?);
        }
        let top = xs.last().expect("the embedding at least").clone();
        let encoded = core.norm(top, &self.encoder.final_norm)?;

        let decoder_inputs = self.decoder_inputs(targets.rows());
        let decoder_pass = self.decoder_pass(inputs, &decoder_inputs, weights, dropout);
        let mut ys = vec![core.embed::<NoneTape>(decoder_table, &decoder_inputs)?];
        for i in 0..self.decoder.blocks.len() {
            ys.push(self.decoder_block(core, i, ys[i].clone(), &encoded, &decoder_pass)?);
        }

        let mut y = ys.pop().expect("the embedding at least");
        let hidden = core.norm(y.clone().leaky_traced(), &self.decoder.final_norm)?;
        let (loss, losses) = compare(hidden)?;
        let mut segments = Segments::begin(loss)?;
        for i in (0..self.decoder.blocks.len()).rev() {
            let input = ys.pop().expect("an input for every block");
            let traced = input.clone().leaky_traced();
            let out = self.decoder_block(core, i, traced, &encoded.retaped(), &decoder_pass)?;
            segments = segments.backward(out, &y)?;
            y = input;
        }
        if decoder_table.slot.is_some() {
            segments = segments.backward(core.embed(decoder_table, &decoder_inputs)?, &y)?;
        }

        let mut x = xs.pop().expect("the embedding at least");
        let out = core.norm(x.clone().leaky_traced(), &self.encoder.final_norm)?;
        segments = segments.backward(out, &encoded)?;
        for i in (0..self.encoder.blocks.len()).rev() {
            let input = xs.pop().expect("an input for every block");
            let out = self.encoder_block(core, i, input.clone().leaky_traced(), &pass)?;
            segments = segments.backward(out, &x)?;
            x = input;
        }
        if self.trains_encoder_inputs(core) {
            segments = segments.backward(core.embed(encoder_table, inputs)?, &x)?;
        }
        Ok((losses, segments))
    }
}
