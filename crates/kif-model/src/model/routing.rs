//! How the model chooses between its adapters side by side: by the row's prompt, or by the token.
//!
//! The heads are small, so all engines share them: products are the engine's, the rest is dfdx's
//! own operations.

use dfdx::prelude::{
    Axis, Backward, Device, HasShape, NoneTape, OwnedTape, SumTo, Tape, TryAdd, TryMul,
    WithEmptyTape,
};
use kif_data::{Batch, Ragged};

use super::core::Core;
use super::layer::{Linear, Param};
use super::parts::AdapterPass;
use super::{Model, Network};
use crate::engine::{Act, Engine, Gate, InputGradient, LowRank, Routed, Scalar, device_error};
use crate::{ModelError, Router, Routing, RowRouted};

/// What a score is lowered by to get the weight 0 exactly.
const CLOSED: f32 = -1e30;

impl<E: Engine> Core<E> {
    /// How much each adapter counts for each row, `[B, n_slots]`; nothing unless rows are routed.
    /// `table` embeds the texts.
    pub(crate) fn row_weights<T: Tape<f32, E::Device>>(
        &self,
        table: &Param<E>,
        inputs: &Ragged,
    ) -> Result<Option<Act<E::Device, T>>, ModelError> {
        let Some(router) = &self.instance_router else {
            return Ok(None);
        };
        let skip = InputGradient::Skip;
        let shape = (inputs.n_rows(), self.width);
        let embedding = self
            .engine
            .upload(self.mean_embeddings(table, inputs)?, shape)?
            .retaped::<T>();
        let narrow = self
            .engine
            .linear(embedding, &router.down.weight, None, None, skip)?;
        let write = InputGradient::Write;
        let wide = self
            .engine
            .linear(narrow, &router.up.weight, None, None, write)?;
        let sigmoid = wide.with_empty_tape().try_sigmoid().map_err(device_error)?;
        let silu = sigmoid.try_mul(wide).map_err(device_error)?;
        let query = self.norm(silu, &router.gain)?;
        let scores = self
            .engine
            .linear(query, &router.keys.weight, None, None, write)?;
        let scale = (self.width as f32).powf(-0.5);
        let scores = scores.try_mul(scale).map_err(device_error)?;
        softmax_over_largest(scores, self.open_slots(), self.open_slots()).map(Some)
    }

    fn routing(&self) -> Option<Routing> {
        self.side_by_side.as_ref().map(|slots| slots.routing)
    }

    fn open_slots(&self) -> usize {
        self.routing().map_or(1, |routing| routing.open_slots)
    }

    /// The low-rank part of a layer for the input `x`, with its gate.
    pub(crate) fn low_rank<'a, T: Tape<f32, E::Device>>(
        &self,
        x: &Act<E::Device, T>,
        linear: &'a Linear<E>,
        pass: &AdapterPass<E>,
        input_gradient: InputGradient,
    ) -> Result<Option<Routed<'a, E, T>>, ModelError> {
        let Some(adapter) = &linear.adapter else {
            return Ok(None);
        };
        let gate = match (&adapter.router, &pass.gate) {
            (Some(router), _) => Some(Gate {
                weights: self.token_weights(x.with_empty_tape(), router, input_gradient)?,
                rows: None,
            }),
            (None, Some(gate)) => Some(Gate {
                weights: gate.weights.retaped(),
                rows: gate.rows.clone(),
            }),
            (None, None) => None,
        };
        Ok(Some(LowRank {
            a: &adapter.a.weight,
            b: &adapter.b.weight,
            scale: adapter.scale,
            dropout: pass.dropout.map(|dropout| (dropout, adapter.stream)),
            gate,
        }))
    }

    /// How much each adapter of one layer counts for each of its tokens, `[tokens, n_slots]`.
    fn token_weights<T: Tape<f32, E::Device>>(
        &self,
        x: Act<E::Device, T>,
        router: &Param<E>,
        input_gradient: InputGradient,
    ) -> Result<Act<E::Device, T>, ModelError> {
        // The layer reads `x` after its router: of both it is the layer that writes the gradient
        // first.
        let input_gradient = match input_gradient {
            InputGradient::Skip => InputGradient::Skip,
            InputGradient::Write | InputGradient::Add => InputGradient::Add,
        };
        let scores = self
            .engine
            .linear(x, &router.weight, None, None, input_gradient)?;
        let open = self.open_slots();
        let top_k = match self.routing().map(|routing| routing.router) {
            Some(Router::Token { top_k }) => top_k.min(open),
            _ => open,
        };
        softmax_over_largest(scores, open, top_k)
    }
}

impl<E: Engine, N: Network<E>> Model<E, N> {
    /// The weights of the rows by a router of rows, which is there.
    fn routed_rows<T: Tape<f32, E::Device>>(
        &self,
        batch: &Batch,
    ) -> Result<Act<E::Device, T>, ModelError> {
        self.core.check_rows(&batch.inputs)?;
        let weights = self.core.row_weights(self.table(), &batch.inputs)?;
        Ok(weights.expect("who has no router of rows does not offer to route rows"))
    }
}

impl<E: Engine, N: Network<E>> RowRouted for Model<E, N> {
    fn routing_weights(&self, batch: &Batch) -> Result<Vec<f32>, ModelError> {
        let weights = self.routed_rows::<NoneTape>(batch)?;
        self.core.engine.to_host(&weights)
    }

    fn add_routing_gradient(
        &mut self,
        batch: &Batch,
        by_weights: &[f32],
        grad: &mut [f32],
    ) -> Result<(), ModelError> {
        let weights = self.routed_rows::<OwnedTape<f32, E::Device>>(batch)?;
        let shape = *weights.shape();
        assert_eq!(
            by_weights.len(),
            shape.0 * shape.1,
            "a gradient of weights {shape:?}"
        );
        let by_weights = self.core.engine.upload(by_weights.to_vec(), shape)?;
        let mut gradients = weights
            .try_mul(by_weights)
            .and_then(|products| products.try_sum())
            .and_then(|sum: Scalar<_, _>| sum.try_backward())
            .map_err(device_error)?;
        self.add_gradients(&mut gradients, grad)
    }
}

/// Softmax of each row of `scores`, `[rows, n]`, over the `k` largest of its first `n_open`
/// entries; 0 elsewhere.
fn softmax_over_largest<D: Device<f32>, T: Tape<f32, D>>(
    scores: Act<D, T>,
    n_open: usize,
    k: usize,
) -> Result<Act<D, T>, ModelError> {
    let shape = *scores.shape();
    let scores = if k == shape.1 {
        scores
    } else {
        let host = scores.as_vec();
        let mask = host
            .chunks_exact(shape.1)
            .flat_map(|row| closed(row, n_open, k))
            .collect();
        let mask: Act<D> = scores
            .device()
            .try_tensor_from_vec(mask, shape)
            .map_err(device_error)?;
        scores.try_add(mask).map_err(device_error)?
    };
    scores.try_softmax::<Axis<1>>().map_err(device_error)
}

/// [`CLOSED`] for all but the `k` largest of the first `n_open` scores; of equal ones the first are
/// taken.
fn closed(scores: &[f32], n_open: usize, k: usize) -> Vec<f32> {
    let mut order: Vec<usize> = (0..n_open).collect();
    order.sort_by(|&i, &j| scores[j].total_cmp(&scores[i]));
    let mut mask = vec![CLOSED; scores.len()];
    order[..k].iter().for_each(|&i| mask[i] = 0.0);
    mask
}

#[cfg(test)]
mod tests {
    use dfdx::prelude::{Cpu, TensorFromVec, Trace};

    use super::*;

    fn weights(scores: &[f32], n_open: usize, k: usize) -> Vec<f32> {
        let scores: Act<Cpu> = Cpu::default().tensor_from_vec(scores.to_vec(), (1, scores.len()));
        softmax_over_largest(scores, n_open, k).unwrap().as_vec()
    }

    #[test]
    fn only_the_largest_open_entries_count() {
        let third = 2f32.ln();
        let found = weights(&[third, 0.0, -1.0, 9.0], 3, 2);
        assert!((found[0] - 2.0 / 3.0).abs() < 1e-6 && (found[1] - 1.0 / 3.0).abs() < 1e-6);
        assert_eq!(found[2..], [0.0, 0.0]);
        assert_eq!(weights(&[1.0, 1.0, 1.0], 3, 2), [0.5, 0.5, 0.0]);
        assert_eq!(weights(&[-7.0, 3.0], 1, 1), [1.0, 0.0]);
    }

    #[test]
    fn weights_and_their_gradient_are_those_of_numpy() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../fixtures/golden/updates.json"
        );
        let all: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let case = &all["token_router"];
        let number = |name: &str| case[name].as_u64().unwrap() as usize;
        let vector = |name: &str| -> Vec<f32> {
            let values = case[name].as_array().unwrap().iter();
            values.map(|x| x.as_f64().unwrap() as f32).collect()
        };
        let close = |found: &[f32], expected: &[f32]| {
            assert_eq!(found.len(), expected.len());
            let pairs = found.iter().zip(expected);
            pairs.for_each(|(a, b)| assert!((a - b).abs() < 1e-5, "{a} instead of {b}"));
        };
        let device = Cpu::default();
        let tensor = |values: Vec<f32>| -> Act<Cpu> {
            let shape = (values.len() / number("n_slots"), number("n_slots"));
            device.tensor_from_vec(values, shape)
        };
        let scores = tensor(vector("scores"));
        let (n_open, top_k) = (number("n_open"), number("top_k"));
        let weights = softmax_over_largest(scores.leaky_trace(), n_open, top_k).unwrap();
        close(&weights.as_vec(), &vector("weights"));
        let gradients = (weights * tensor(vector("by_weights"))).sum().backward();
        close(&gradients.get(&scores).as_vec(), &vector("gradient"));
    }
}
