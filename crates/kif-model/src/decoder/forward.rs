//! The layers of a decoder-only model.

use std::collections::BTreeMap;
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
    /// See [`Tokens`].
    shared: Option<Shared>,
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
    shared: Option<Shared>,
}

/// Where rows share tokens: places among those that go through the layers.
pub(super) struct Shared {
    /// Of the tokens of all rows, one after the other.
    places: Vec<usize>,
    /// Of what the tokens that look, look at.
    keys: Vec<usize>,
}

impl Tokens {
    /// Those of `rows`: of what rows have in common one, where they share it.
    pub(super) fn of(rows: &Ragged, are_shared: bool) -> Self {
        if are_shared {
            Self::distinct(rows)
        } else {
            Self::all(rows)
        }
    }

    /// All tokens of `rows`.
    fn all(rows: &Ragged) -> Self {
        let numbered = rows.rows().enumerate();
        let row_of = numbered.flat_map(|(i, row)| std::iter::repeat_n(i, row.len()));
        Self {
            ids: rows.ids().to_vec(),
            positions: rows.rows().flat_map(|row| 0..row.len()).collect(),
            row_of: row_of.collect(),
            queries: spans(rows),
            keys: spans(rows),
            shared: None,
        }
    }

    /// Those of `rows` that no row before has, where any are shared.
    fn distinct(rows: &Ragged) -> Self {
        let beginnings = Beginnings::of(rows);
        if !beginnings.are_shared() {
            return Self::all(rows);
        }
        let Beginnings {
            ids,
            positions,
            places,
            queries,
            key_places,
            keys,
        } = beginnings;
        Self {
            // Only what does not depend on the row is shared.
            row_of: vec![0; ids.len()].into(),
            ids,
            positions,
            queries,
            keys,
            shared: Some(Shared {
                places,
                keys: key_places,
            }),
        }
    }

    /// Where the tokens of each of `rows` lie among those that go through the layers: pieces, one
    /// after the other.
    pub(super) fn pieces(&self, rows: &Ragged) -> Vec<Vec<Span>> {
        let Some(shared) = &self.shared else {
            return spans(rows).into_iter().map(|span| vec![span]).collect();
        };
        let of_row = |ends: &[usize]| {
            let runs = shared.places[ends[0]..ends[1]].chunk_by(|a, b| a + 1 == *b);
            let spans = runs.map(|run| Span {
                start: run[0],
                len: run.len(),
            });
            spans.collect()
        };
        rows.offsets().windows(2).map(of_row).collect()
    }

    /// What is read of the last layer for these tokens of the rows.
    pub(super) fn chosen(&self, tokens: Vec<usize>) -> Chosen {
        let Some(shared) = &self.shared else {
            return Chosen {
                places: tokens,
                answers: None,
            };
        };
        let (mut places, mut known) = (Vec::new(), BTreeMap::new());
        let answers = tokens.into_iter().map(|token| {
            let place = shared.places[token];
            *known.entry(place).or_insert_with(|| {
                places.push(place);
                places.len() - 1
            })
        });
        let answers: Vec<usize> = answers.collect();
        let is_shared = places.len() < answers.len();
        Chosen {
            places,
            answers: is_shared.then_some(answers),
        }
    }
}

/// What is read of the last layer's output: after its attention nothing else is computed.
struct Wanted<E: Engine> {
    /// Places among the tokens.
    places: Vec<usize>,
    adapters: AdapterPass<E>,
}

/// What is asked for of the last layer's output.
pub(super) struct Chosen {
    /// Places among the tokens that go through the layers, each once.
    pub(super) places: Vec<usize>,
    /// For everything that is asked for, the number of its place, where some is asked for twice.
    answers: Option<Vec<usize>>,
}

impl Chosen {
    /// What is asked for of `hidden`, which has the places' rows.
    pub(super) fn answers<E: Engine, T: Tape<f32, E::Device>>(
        &self,
        core: &Core<E>,
        hidden: Act<E::Device, T>,
    ) -> Result<Act<E::Device, T>, ModelError> {
        match &self.answers {
            None => Ok(hidden),
            Some(answers) => core.engine.repeat(hidden, answers),
        }
    }
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
            shared: tokens.shared,
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
                let x = core.engine.select(x, places)?;
                (x, core.engine.select(mixed, places)?, adapters)
            }
            _ => (x, mixed, &pass.adapters),
        };
        let x = self.attend_onto(core, x, mixed, layer, adapters)?;
        self.feed_forward(core, x, layer, adapters)
    }

    /// Keys or values that the tokens of a pass look at.
    pub(super) fn looked_at<T: Tape<f32, E::Device>>(
        &self,
        core: &Core<E>,
        x: Act<E::Device, T>,
        pass: &Pass<E>,
    ) -> Result<Act<E::Device, T>, ModelError> {
        match &pass.shared {
            None => Ok(x),
            Some(shared) => core.engine.repeat(x, &shared.keys),
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
            self.looked_at(core, k, pass)?,
            self.looked_at(core, v, pass)?,
        );
        let mixed = core.engine.attention(q, k, v, shape, None)?;
        self.after_attention(core, i, x, mixed, pass)
    }
}
