//! The layers of a decoder-only model.

use std::sync::Arc;

use dfdx::prelude::{Tape, WithEmptyTape};
use kif_data::Ragged;

use super::shared::Beginnings;
use super::{Decoder, Layer, angles, trains_inputs};
use crate::engine::{Act, Angles, Attention, Engine, InputGradient, Span};
use crate::model::{AdapterPass, Core, shared_input, spans};
use crate::{Dropout, ModelError};

/// What all layers share in one pass over whole rows.
pub(super) struct Pass<E: Engine> {
    sight: Sight,
    /// Of layers that see only a window.
    window_sight: Option<Sight>,
    pub(super) adapters: AdapterPass<E>,
    wanted: Option<Wanted<E>>,
    /// See [`Tokens::places`].
    places: Option<Vec<usize>>,
}

/// Who sees whom, and from where.
pub(super) struct Sight {
    pub(super) shape: Attention,
    pub(super) angles: Angles,
}

/// What goes through the layers.
pub(super) struct Tokens {
    /// Their ids.
    pub(super) ids: Vec<u32>,
    /// Where each stands in its row.
    positions: Vec<usize>,
    /// The row of each.
    row_of: Arc<[usize]>,
    /// Tokens that look, row after row, and what they look at.
    queries: Vec<Span>,
    keys: Vec<Span>,
    /// Where rows share tokens: the places of the tokens of all rows among those that go through
    /// the layers.
    pub(super) places: Option<Vec<usize>>,
}

impl Tokens {
    /// All tokens of `rows`.
    pub(super) fn all(rows: &Ragged) -> Self {
        let numbered = rows.rows().enumerate();
        let row_of = numbered.flat_map(|(i, row)| std::iter::repeat_n(i, row.len()));
        Self {
            ids: rows.ids().to_vec(),
            positions: rows.rows().flat_map(|row| 0..row.len()).collect(),
            row_of: row_of.collect(),
            queries: spans(rows),
            keys: spans(rows),
            places: None,
        }
    }

    /// Those of `rows` that no row before has, where any are shared.
    pub(super) fn distinct(rows: &Ragged) -> Self {
        let beginnings = Beginnings::of(rows);
        if !beginnings.are_shared() {
            return Self::all(rows);
        }
        let Beginnings {
            ids,
            positions,
            places,
            queries,
            keys,
        } = beginnings;
        Self {
            // Only what does not depend on the row is shared.
            row_of: vec![0; ids.len()].into(),
            ids,
            positions,
            queries,
            keys,
            places: Some(places),
        }
    }

    /// The places of tokens of the rows among those that go through the layers.
    pub(super) fn of_rows(&self, tokens: Vec<usize>) -> Vec<usize> {
        match &self.places {
            None => tokens,
            Some(places) => tokens.into_iter().map(|token| places[token]).collect(),
        }
    }
}

/// What is read of the last layer's output: after its attention nothing else is computed.
struct Wanted<E: Engine> {
    /// Places in the rows.
    places: Vec<usize>,
    adapters: AdapterPass<E>,
}

impl<E: Engine> Decoder<E> {
    /// A pass over `tokens`, whose rows have `weights` where they are routed. Of the last layer's
    /// output only the places `wanted` are made, or all of them.
    pub(super) fn pass(
        &self,
        tokens: Tokens,
        weights: Option<&Act<E::Device>>,
        dropout: Option<Dropout>,
        wanted: Option<Vec<usize>>,
    ) -> Pass<E> {
        let config = &self.config;
        let positions = || tokens.positions.iter().copied();
        let shape = Attention {
            queries: tokens.queries,
            keys: tokens.keys,
            n_heads: config.num_attention_heads,
            n_kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            scale: self.scale(),
            causal: true,
            window: None,
        };
        let longest = shape.keys.iter().map(|span| span.len).max().unwrap_or(0);
        let window_sight = config.window.as_ref().map(|window| Sight {
            shape: Attention {
                // Rows that fit into the window see all.
                window: Some(window.length).filter(|length| *length < longest),
                ..shape.clone()
            },
            angles: angles::angles(&self.window_frequencies, positions()),
        });
        let wanted = wanted.map(|places| {
            let rows = places.iter().map(|&place| tokens.row_of[place]).collect();
            Wanted {
                places,
                adapters: AdapterPass::of_rows(weights, rows, dropout),
            }
        });
        Pass {
            sight: Sight {
                shape,
                angles: angles::angles(&self.frequencies, positions()),
            },
            window_sight,
            adapters: AdapterPass::of_rows(weights, tokens.row_of, dropout),
            wanted,
            places: tokens.places,
        }
    }

    /// Factor on attention scores.
    pub(super) fn scale(&self) -> f32 {
        let scalar = self.config.query_pre_attn_scalar;
        (scalar.unwrap_or(self.config.head_dim) as f32).powf(-0.5)
    }

    /// The tokens that layer `i` sees at most; all without a number.
    pub(super) fn window(&self, i: usize) -> Option<usize> {
        let window = self.config.window.as_ref();
        window.filter(|w| w.layers[i]).map(|w| w.length)
    }

    /// Who sees whom in layer `i`.
    pub(super) fn sight<'a>(&self, i: usize, pass: &'a Pass<E>) -> &'a Sight {
        match (&pass.window_sight, self.window(i)) {
            (Some(sight), Some(_)) => sight,
            _ => &pass.sight,
        }
    }

    /// Queries, keys and values of a layer for its input `x`, turned by their positions.
    pub(super) fn projections<T: Tape<f32, E::Device>>(
        &self,
        core: &Core<E>,
        x: Act<E::Device, T>,
        layer: &Layer<E>,
        angles: &Angles,
        adapters: &AdapterPass<E>,
        is_lowest: bool,
    ) -> Result<[Act<E::Device, T>; 3], ModelError> {
        let normed = core.norm(x, &layer.attention_norm)?;
        let (add, write) = shared_input(is_lowest);
        let mut q = core.project(normed.with_empty_tape(), &layer.q, adapters, add)?;
        let mut k = core.project(normed.with_empty_tape(), &layer.k, adapters, add)?;
        let v = core.project(normed, &layer.v, adapters, write)?;
        let engine = &core.engine;
        if let Some([of_q, of_k]) = &layer.head_norms {
            q = engine.head_norm(q, &of_q.weight, core.epsilon)?;
            k = engine.head_norm(k, &of_k.weight, core.epsilon)?;
        }
        Ok([engine.rotate(q, angles)?, engine.rotate(k, angles)?, v])
    }

    /// What follows attention in layer `i`, for what attention made of the layer's input `x`.
    pub(super) fn after_attention<T: Tape<f32, E::Device>>(
        &self,
        core: &Core<E>,
        i: usize,
        x: Act<E::Device, T>,
        mixed: Act<E::Device, T>,
        pass: &Pass<E>,
    ) -> Result<Act<E::Device, T>, ModelError> {
        let (layer, is_last) = (&self.layers[i], i + 1 == self.layers.len());
        let (x, mixed, adapters) = match &pass.wanted {
            Some(Wanted { places, adapters }) if is_last => {
                // The norm read `x` before: the choice, which writes its gradient, comes first on
                // the way back.
                let x = self.of_last_layer(core, x, places, pass)?;
                (x, self.of_last_layer(core, mixed, places, pass)?, adapters)
            }
            _ => (x, mixed, &pass.adapters),
        };
        let x = self.attend_onto(core, x, mixed, layer, adapters)?;
        self.feed_forward(core, x, layer, adapters)
    }

    /// The places of the last layer that are read, of which rows may share some.
    fn of_last_layer<T: Tape<f32, E::Device>>(
        &self,
        core: &Core<E>,
        x: Act<E::Device, T>,
        places: &[usize],
        pass: &Pass<E>,
    ) -> Result<Act<E::Device, T>, ModelError> {
        match pass.places {
            None => core.engine.select(x, places),
            Some(_) => core.engine.repeat(x, places),
        }
    }

    /// Keys or values of the tokens of all rows.
    pub(super) fn of_all_rows<T: Tape<f32, E::Device>>(
        &self,
        core: &Core<E>,
        x: Act<E::Device, T>,
        pass: &Pass<E>,
    ) -> Result<Act<E::Device, T>, ModelError> {
        match &pass.places {
            None => Ok(x),
            Some(places) => core.engine.repeat(x, places),
        }
    }

    /// What attention read, `mixed`, added to the residual stream.
    pub(super) fn attend_onto<T: Tape<f32, E::Device>>(
        &self,
        core: &Core<E>,
        x: Act<E::Device, T>,
        mixed: Act<E::Device, T>,
        layer: &Layer<E>,
        adapters: &AdapterPass<E>,
    ) -> Result<Act<E::Device, T>, ModelError> {
        match &layer.output_norms {
            None => core.project_onto(x, mixed, &layer.o, adapters),
            Some([of_attention, _]) => {
                let out = core.project(mixed, &layer.o, adapters, InputGradient::Write)?;
                core.norm_onto(x, out, of_attention)
            }
        }
    }

    /// The feed-forward block with norm and residual.
    pub(super) fn feed_forward<T: Tape<f32, E::Device>>(
        &self,
        core: &Core<E>,
        x: Act<E::Device, T>,
        layer: &Layer<E>,
        adapters: &AdapterPass<E>,
    ) -> Result<Act<E::Device, T>, ModelError> {
        let normed = core.norm(x.with_empty_tape(), &layer.feed_forward_norm)?;
        let (add, write) = (InputGradient::Add, InputGradient::Write);
        let gate = core.project(normed.with_empty_tape(), &layer.gate, adapters, add)?;
        let up = core.project(normed, &layer.up, adapters, write)?;
        let hidden = match self.config.family.has_gelu() {
            true => core.engine.gated_gelu(gate, up)?,
            false => core.engine.gated_silu(gate, up)?,
        };
        match &layer.output_norms {
            None => core.project_onto(x, hidden, &layer.down, adapters),
            Some([_, of_block]) => {
                let out = core.project(hidden, &layer.down, adapters, write)?;
                core.norm_onto(x, out, of_block)
            }
        }
    }

    /// Layer `i` over whole rows; the last one gives the wanted places alone.
    pub(super) fn layer<T: Tape<f32, E::Device>>(
        &self,
        core: &Core<E>,
        i: usize,
        x: Act<E::Device, T>,
        pass: &Pass<E>,
    ) -> Result<Act<E::Device, T>, ModelError> {
        let (layer, adapters) = (&self.layers[i], &pass.adapters);
        let is_lowest = i == 0 && !trains_inputs(core);
        let input = x.with_empty_tape();
        let Sight { shape, angles } = self.sight(i, pass);
        let [q, k, v] = self.projections(core, input, layer, angles, adapters, is_lowest)?;
        let (k, v) = (
            self.of_all_rows(core, k, pass)?,
            self.of_all_rows(core, v, pass)?,
        );
        let mixed = core.engine.attention(q, k, v, shape, None)?;
        self.after_attention(core, i, x, mixed, pass)
    }
}
