//! T5 (v1.0: relu, tied head; v1.1 and Flan: gated gelu, own head), written once over [`Engine`].

mod build;
mod forward;
mod position;
mod recompute;
mod write;

use dfdx::prelude::Tape;
use kif_data::Ragged;

use crate::engine::{Act, Engine, Loss};
use crate::files::T5Config;
use crate::model::{Core, Linear, Network, Param, Reading, Recomputed, Recorded};
use crate::{Dropout, ModelError};

/// Norm, attention, residual.
struct AttentionLayer<E: Engine> {
    norm: Param<E>,
    q: Linear<E>,
    k: Linear<E>,
    v: Linear<E>,
    o: Linear<E>,
}

/// Norm, feed-forward block, residual.
struct FeedForward<E: Engine> {
    norm: Param<E>,
    /// `wi`, or `wi_0` where the block is gated.
    wi: Linear<E>,
    /// `wi_1`.
    up: Option<Linear<E>>,
    wo: Linear<E>,
}

struct Block<E: Engine> {
    attention: AttentionLayer<E>,
    /// Attention to the encoder's output; decoder only.
    cross: Option<AttentionLayer<E>>,
    feed_forward: FeedForward<E>,
}

/// Encoder or decoder.
struct Stack<E: Engine> {
    /// Its own token embedding, where it is not the shared one.
    embedding: Option<Param<E>>,
    /// Table `[buckets, H]` of the first block, used by all.
    position_bias: Param<E>,
    blocks: Vec<Block<E>>,
    final_norm: Param<E>,
}

/// The layers of a T5 on engine `E`; the embedding of its core is the shared one.
pub(crate) struct T5<E: Engine> {
    config: T5Config,
    encoder: Stack<E>,
    decoder: Stack<E>,
}

impl<E: Engine> Stack<E> {
    fn embedding<'a>(&'a self, core: &'a Core<E>) -> &'a Param<E> {
        self.embedding.as_ref().unwrap_or(&core.embedding)
    }
}

impl<E: Engine> Network<E> for T5<E> {
    type Written = write::Written<E>;

    const SHARES_BEGINNINGS: bool = false;

    fn params_mut(&mut self) -> Vec<&mut Param<E>> {
        let mut all = Vec::new();
        for stack in [&mut self.encoder, &mut self.decoder] {
            all.extend(&mut stack.embedding);
            all.push(&mut stack.position_bias);
            for block in &mut stack.blocks {
                for layer in [Some(&mut block.attention), block.cross.as_mut()]
                    .into_iter()
                    .flatten()
                {
                    all.push(&mut layer.norm);
                    for linear in [&mut layer.q, &mut layer.k, &mut layer.v, &mut layer.o] {
                        linear.params_mut(&mut all);
                    }
                }
                let feed_forward = &mut block.feed_forward;
                all.push(&mut feed_forward.norm);
                feed_forward.wi.params_mut(&mut all);
                if let Some(up) = &mut feed_forward.up {
                    up.params_mut(&mut all);
                }
                feed_forward.wo.params_mut(&mut all);
            }
            all.push(&mut stack.final_norm);
        }
        all
    }

    fn text_embedding<'a>(&'a self, core: &'a Core<E>) -> &'a Param<E> {
        self.encoder.embedding(core)
    }

    fn hidden<T: Tape<f32, E::Device>>(
        &self,
        core: &Core<E>,
        reading: &Reading<'_, E, T>,
        targets: &Ragged,
        dropout: Option<Dropout>,
    ) -> Result<(Act<E::Device, T>, T), ModelError> {
        self.decoded(core, reading, targets, dropout)
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
        self.in_segments(core, reading, targets, dropout, compare)
    }

    fn begin(
        &self,
        core: &Core<E>,
        reading: &Reading<'_, E>,
    ) -> Result<(Self::Written, Vec<f32>), ModelError> {
        self.begin_texts(core, reading)
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
