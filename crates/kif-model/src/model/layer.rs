//! What layers are made of: weights, and linear maps with an adapter.

use crate::ModelError;
use crate::engine::{Engine, InputGradient};

/// A weight, and where it lies in the flat parameter vector if it is trained.
pub(crate) struct Param<E: Engine> {
    pub(crate) weight: E::Weight,
    /// Index into the layout's specs.
    pub(crate) slot: Option<usize>,
    /// What the weight has more than the stored values and the parameter vector have.
    pub(crate) offset: f32,
}

impl<E: Engine> Param<E> {
    /// Gives a trained weight the values of the parameter vector.
    pub(crate) fn set(&mut self, engine: &E, values: &[f32]) -> Result<(), ModelError> {
        if self.offset == 0.0 {
            return engine.set_weight(&mut self.weight, values);
        }
        engine.set_weight(&mut self.weight, &shifted(values, self.offset))
    }
}

pub(super) fn shifted(values: &[f32], offset: f32) -> Vec<f32> {
    values.iter().map(|x| x + offset).collect()
}

/// The trained low-rank part of a linear layer.
pub(crate) struct Adapter<E: Engine> {
    pub(crate) a: Param<E>,
    pub(crate) b: Param<E>,
    /// alpha / R.
    pub(crate) scale: f32,
    /// Number of this layer among those with an adapter: names its dropout stream.
    pub(crate) stream: u64,
    /// G `[n_slots, in]`, where tokens are routed.
    pub(crate) router: Option<Param<E>>,
}

/// A linear layer.
pub(crate) struct Linear<E: Engine> {
    pub(crate) weight: Param<E>,
    /// `[1, out]`.
    pub(crate) bias: Option<Param<E>>,
    pub(crate) adapter: Option<Adapter<E>>,
}

impl<E: Engine> Linear<E> {
    pub(crate) fn params_mut<'a>(&'a mut self, into: &mut Vec<&'a mut Param<E>>) {
        into.push(&mut self.weight);
        into.extend(&mut self.bias);
        if let Some(adapter) = &mut self.adapter {
            into.push(&mut adapter.a);
            into.push(&mut adapter.b);
            into.extend(&mut adapter.router);
        }
    }
}

/// What the first and later readers of one activation do about its gradient: `(add, write)`, where
/// the last reader writes. Where nothing trainable lies below, both leave it out.
pub(crate) fn shared_input(is_lowest: bool) -> (InputGradient, InputGradient) {
    if is_lowest {
        (InputGradient::Skip, InputGradient::Skip)
    } else {
        (InputGradient::Add, InputGradient::Write)
    }
}
