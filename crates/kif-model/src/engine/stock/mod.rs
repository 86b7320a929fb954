//! The same operations with dfdx's own tensor operations, on any device: the oracle of the tests,
//! and the way to a GPU.
//!
//! Only attention needs rectangles: it pads inside itself. dfdx computes a gradient for both sides
//! of a product; [`frozen::product`] leaves the frozen side out.

mod attention;
mod frozen;
mod rotate;

use dfdx::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::{
    Act, Angles, Attention, Engine, Gate, HostCache, InputGradient, Loss, LowRank, PositionBias,
    Step, WeightSpec, device_error,
};
use crate::files::Values;
use crate::{Dropout, ModelError};

/// The engine on device `D`.
#[derive(Clone)]
pub(crate) struct Stock<D: Device<f32>> {
    device: D,
}

impl<D: Device<f32>> Stock<D> {
    pub(crate) fn new(device: D) -> Self {
        Self { device }
    }

    fn tensor(&self, values: Vec<f32>, n_rows: usize, n_cols: usize) -> Result<Act<D>, ModelError> {
        self.device
            .try_tensor_from_vec(values, (n_rows, n_cols))
            .map_err(device_error)
    }

    /// The weights of a gate for every column of `[tokens, R]`.
    fn columns<T: Tape<f32, D>>(
        &self,
        gate: Gate<Act<D, T>>,
        (n_tokens, rank): (usize, usize),
    ) -> Result<Act<D, T>, ModelError> {
        let weights = match gate.rows {
            None => gate.weights,
            Some(rows) => {
                let rows = self.indices(rows.to_vec(), (n_tokens,))?;
                gate.weights.try_gather(rows).map_err(device_error)?
            }
        };
        let n_slots = weights.shape().1;
        weights
            .try_broadcast_like::<_, Axis<2>>(&(n_tokens, n_slots, rank / n_slots))
            .and_then(|slots| slots.try_reshape_like(&(n_tokens, rank)))
            .map_err(device_error)
    }

    /// Rows of `more` for ids from the table's end on: both looked up everywhere, and the wrong one
    /// multiplied by 0.
    fn embed_from_both<T: Tape<f32, D>>(
        &self,
        table: &StockWeight<D>,
        more: &StockWeight<D>,
        ids: &[u32],
    ) -> Result<Act<D, T>, ModelError> {
        let (n_ids, width) = (table.spec.n_rows as u32, table.spec.n_cols);
        let is_more = |id: &u32| *id >= n_ids;
        let own = ids.iter().map(|id| if is_more(id) { 0 } else { *id });
        let others = ids.iter().map(|id| id.saturating_sub(n_ids));
        let part = |weight, part_ids: Vec<u32>, wanted: bool| {
            let rows: Act<D, T> = self.embed(weight, None, &part_ids)?;
            let factor = |id| f32::from(u8::from(is_more(id) == wanted));
            let mask = ids
                .iter()
                .flat_map(|id| std::iter::repeat_n(factor(id), width));
            let mask = self.tensor(mask.collect(), ids.len(), width)?;
            rows.try_mul(mask).map_err(device_error)
        };
        let own = part(table, own.collect(), false)?;
        let others = part(more, others.collect(), true)?;
        others.try_add(own).map_err(device_error)
    }

    fn indices<S: Shape>(
        &self,
        values: Vec<usize>,
        shape: S,
    ) -> Result<Tensor<S, usize, D>, ModelError> {
        self.device
            .try_tensor_from_vec(values, shape)
            .map_err(|e| ModelError::Device(format!("{e:?}")))
    }
}

/// A weight on the device.
pub(crate) struct StockWeight<D: Device<f32>> {
    spec: WeightSpec,
    tensor: Act<D>,
}

impl<D: Device<f32>> StockWeight<D> {
    /// The weight with the tape that makes it a leaf, `[n_rows, n_cols]`.
    fn taped<T: Tape<f32, D>>(&self) -> Act<D, T> {
        self.tensor.retaped::<T>()
    }

    /// A vector `[1, n]` repeated for every row, `[n_rows, n]`.
    fn rows<T: Tape<f32, D>>(&self, n_rows: usize) -> Result<Act<D, T>, ModelError> {
        let n = self.spec.n_cols;
        let vector = self
            .taped::<T>()
            .try_reshape_like(&(n,))
            .map_err(device_error)?;
        vector
            .try_broadcast_like::<_, Axis<0>>(&(n_rows, n))
            .map_err(device_error)
    }
}

/// `x W^T`, with a gradient for W only if it is trained.
fn product<D: Device<f32>, T: Tape<f32, D>>(
    x: Act<D, T>,
    weight: &StockWeight<D>,
) -> Result<Act<D, T>, ModelError> {
    if weight.spec.trainable {
        let transposed = weight
            .taped::<T>()
            .try_permute::<(usize, usize), Axes2<1, 0>>()
            .map_err(device_error)?;
        x.try_matmul(transposed).map_err(device_error)
    } else {
        frozen::product(x, &weight.tensor).map_err(device_error)
    }
}

impl<D: Device<f32>> Engine for Stock<D> {
    type Device = D;
    type Weight = StockWeight<D>;

    fn weight(&self, values: Values, spec: WeightSpec) -> Result<StockWeight<D>, ModelError> {
        let tensor = self.tensor(values.into_vec(), spec.n_rows, spec.n_cols)?;
        Ok(StockWeight { spec, tensor })
    }

    fn set_weight(&self, weight: &mut StockWeight<D>, values: &[f32]) -> Result<(), ModelError> {
        weight.tensor.copy_from(values);
        Ok(())
    }

    fn add_gradient(
        &self,
        weight: &StockWeight<D>,
        gradients: &mut Gradients<f32, D>,
        into: &mut [f32],
    ) -> Result<(), ModelError> {
        // A weight that no operation used has no gradient yet, and reading it would panic.
        gradients
            .get_or_alloc_mut(&weight.tensor)
            .map_err(device_error)?;
        let gradient = gradients.get(&weight.tensor).as_vec();
        assert_eq!(gradient.len(), into.len(), "gradient of a weight");
        into.iter_mut()
            .zip(&gradient)
            .for_each(|(into, g)| *into += g);
        Ok(())
    }

    fn embed<T: Tape<f32, D>>(
        &self,
        table: &StockWeight<D>,
        more: Option<&StockWeight<D>>,
        ids: &[u32],
    ) -> Result<Act<D, T>, ModelError> {
        let n_ids = table.spec.n_rows as u32;
        if let Some(more) = more.filter(|_| ids.iter().any(|&id| id >= n_ids)) {
            return self.embed_from_both(table, more, ids);
        }
        let indices = self.indices(ids.iter().map(|&id| id as usize).collect(), (ids.len(),))?;
        if table.spec.trainable {
            table.taped::<T>().try_gather(indices).map_err(device_error)
        } else {
            let rows: Act<D> = table
                .tensor
                .clone()
                .try_gather(indices)
                .map_err(device_error)?;
            Ok(rows.retaped::<T>())
        }
    }

    fn rms_norm<T: Tape<f32, D>>(
        &self,
        x: Act<D, T>,
        gain: &StockWeight<D>,
        eps: f32,
    ) -> Result<Act<D, T>, ModelError> {
        let shape = *x.shape();
        let normed = (|| {
            let mean_square = x
                .with_empty_tape()
                .try_square()?
                .try_mean::<(usize,), Axis<1>>()?;
            let rms = mean_square.try_add(eps)?.try_sqrt()?;
            x.try_div(rms.try_broadcast_like::<_, Axis<1>>(&shape)?)
        })()
        .map_err(device_error)?;
        if gain.spec.trainable {
            normed
                .try_mul(gain.rows::<T>(shape.0)?)
                .map_err(device_error)
        } else {
            normed
                .try_mul(gain.rows::<NoneTape>(shape.0)?)
                .map_err(device_error)
        }
    }

    fn add<T: Tape<f32, D>>(
        &self,
        residual: Act<D, T>,
        x: Act<D, T>,
    ) -> Result<Act<D, T>, ModelError> {
        residual.try_add(x).map_err(device_error)
    }

    fn scale<T: Tape<f32, D>>(&self, x: Act<D, T>, factor: f32) -> Result<Act<D, T>, ModelError> {
        x.try_mul(factor).map_err(device_error)
    }

    fn linear<T: Tape<f32, D>>(
        &self,
        x: Act<D, T>,
        weight: &StockWeight<D>,
        low_rank: Option<LowRank<'_, StockWeight<D>, Act<D, T>>>,
        residual: Option<Act<D, T>>,
        _input_gradient: InputGradient,
    ) -> Result<Act<D, T>, ModelError> {
        let shape = *x.shape();
        let low_rank = match low_rank {
            None => None,
            Some(low_rank) => {
                let mut input = x.with_empty_tape();
                if let Some((dropout, stream)) = low_rank.dropout {
                    let mask =
                        self.tensor(dropout_mask(dropout, stream, shape), shape.0, shape.1)?;
                    input = input.try_mul(mask).map_err(device_error)?;
                }
                let mut hidden = product(input, low_rank.a)?;
                if let Some(gate) = low_rank.gate {
                    let gate = self.columns(gate, *hidden.shape())?;
                    hidden = hidden.try_mul(gate).map_err(device_error)?;
                }
                Some(
                    product(hidden, low_rank.b)?
                        .try_mul(low_rank.scale)
                        .map_err(device_error)?,
                )
            }
        };
        let mut y = product(x, weight)?;
        if let Some(low_rank) = low_rank {
            y = y.try_add(low_rank).map_err(device_error)?;
        }
        if let Some(residual) = residual {
            y = y.try_add(residual).map_err(device_error)?;
        }
        Ok(y)
    }

    fn relu<T: Tape<f32, D>>(&self, x: Act<D, T>) -> Result<Act<D, T>, ModelError> {
        x.try_relu().map_err(device_error)
    }

    fn gated_gelu<T: Tape<f32, D>>(
        &self,
        gate: Act<D, T>,
        up: Act<D, T>,
    ) -> Result<Act<D, T>, ModelError> {
        gate.try_fast_gelu()
            .and_then(|gate| gate.try_mul(up))
            .map_err(device_error)
    }

    fn gated_silu<T: Tape<f32, D>>(
        &self,
        gate: Act<D, T>,
        up: Act<D, T>,
    ) -> Result<Act<D, T>, ModelError> {
        gate.with_empty_tape()
            .try_sigmoid()
            .and_then(|sigmoid| sigmoid.try_mul(gate))
            .and_then(|silu| silu.try_mul(up))
            .map_err(device_error)
    }

    fn head_norm<T: Tape<f32, D>>(
        &self,
        x: Act<D, T>,
        gain: &StockWeight<D>,
        eps: f32,
    ) -> Result<Act<D, T>, ModelError> {
        let (shape, head_dim) = (*x.shape(), gain.spec.n_cols);
        let heads = (shape.0 * shape.1 / head_dim, head_dim);
        let x = x.try_reshape_like(&heads).map_err(device_error)?;
        let normed = self.rms_norm(x, gain, eps)?;
        normed.try_reshape_like(&shape).map_err(device_error)
    }

    fn add_bias<T: Tape<f32, D>>(
        &self,
        x: Act<D, T>,
        bias: &StockWeight<D>,
    ) -> Result<Act<D, T>, ModelError> {
        let n_rows = x.shape().0;
        if bias.spec.trainable {
            x.try_add(bias.rows::<T>(n_rows)?).map_err(device_error)
        } else {
            x.try_add(bias.rows::<NoneTape>(n_rows)?)
                .map_err(device_error)
        }
    }

    fn rotate<T: Tape<f32, D>>(
        &self,
        x: Act<D, T>,
        angles: &Angles,
    ) -> Result<Act<D, T>, ModelError> {
        rotate::rotate(self, x, angles)
    }

    fn select<T: Tape<f32, D>>(
        &self,
        x: Act<D, T>,
        rows: &[usize],
    ) -> Result<Act<D, T>, ModelError> {
        let rows = self.indices(rows.to_vec(), (rows.len(),))?;
        x.try_gather(rows).map_err(device_error)
    }

    fn repeat<T: Tape<f32, D>>(
        &self,
        x: Act<D, T>,
        rows: &[usize],
    ) -> Result<Act<D, T>, ModelError> {
        self.select(x, rows)
    }

    fn attention_step(
        &self,
        q: Act<D>,
        prompts: HostCache<'_>,
        own: HostCache<'_>,
        shape: &Step<'_>,
    ) -> Result<Act<D>, ModelError> {
        attention::attention_step(self, q, prompts, own, shape)
    }

    fn attention<T: Tape<f32, D>>(
        &self,
        q: Act<D, T>,
        k: Act<D, T>,
        v: Act<D, T>,
        shape: &Attention,
        bias: Option<PositionBias<'_, StockWeight<D>>>,
    ) -> Result<Act<D, T>, ModelError> {
        attention::attention(self, q, k, v, shape, bias)
    }

    fn attention_cached(
        &self,
        q: Act<D>,
        k: &[f32],
        v: &[f32],
        shape: &Attention,
        bias: Option<PositionBias<'_, StockWeight<D>>>,
    ) -> Result<Act<D>, ModelError> {
        let width = shape.n_kv_heads * shape.head_dim;
        let k = self.tensor(k.to_vec(), k.len() / width, width)?;
        let v = self.tensor(v.to_vec(), v.len() / width, width)?;
        attention::attention(self, q, k, v, shape, bias)
    }

    fn cross_entropy<T: Tape<f32, D>>(
        &self,
        x: Act<D, T>,
        head: &StockWeight<D>,
        scale: f32,
        targets: &[u32],
        weight: f32,
    ) -> Result<Loss<D, T>, ModelError> {
        let logits = product(x.try_mul(scale).map_err(device_error)?, head)?;
        let targets = self.indices(
            targets.iter().map(|&id| id as usize).collect(),
            (targets.len(),),
        )?;
        (|| {
            let nll: Tensor<(usize,), f32, D, T> = logits
                .try_log_softmax::<Axis<1>>()?
                .try_select(targets)?
                .try_negate()?;
            let host = nll.as_vec();
            let loss = nll.try_sum::<Rank0, Axis<0>>()?.try_mul(weight)?;
            Ok((loss, host))
        })()
        .map_err(|e: D::Err| device_error(e))
    }

    fn divergence<T: Tape<f32, D>>(
        &self,
        x: Act<D, T>,
        head: &StockWeight<D>,
        scale: f32,
        log_probs: &[f32],
        weight: f32,
    ) -> Result<Loss<D, T>, ModelError> {
        let (n_rows, vocab_size) = (x.shape().0, head.spec.n_rows);
        let logits = product(x.try_mul(scale).map_err(device_error)?, head)?;
        let log_q = self.tensor(log_probs.to_vec(), n_rows, vocab_size)?;
        (|| {
            let q = log_q.clone().try_exp()?;
            let log_p = logits.try_log_softmax::<Axis<1>>()?;
            let divergence: Tensor<(usize,), f32, D, T> = log_p
                .try_sub(log_q)?
                .try_mul(q)?
                .try_sum::<(usize,), Axis<1>>()?
                .try_negate()?;
            let host = divergence.as_vec();
            let loss = divergence.try_sum::<Rank0, Axis<0>>()?.try_mul(weight)?;
            Ok((loss, host))
        })()
        .map_err(|e: D::Err| device_error(e))
    }

    fn logits(&self, x: Act<D>, head: &StockWeight<D>, scale: f32) -> Result<Vec<f32>, ModelError> {
        Ok(product(x.try_mul(scale).map_err(device_error)?, head)?.as_vec())
    }

    fn to_host(&self, x: &Act<D>) -> Result<Vec<f32>, ModelError> {
        Ok(x.as_vec())
    }

    fn upload(&self, values: Vec<f32>, shape: (usize, usize)) -> Result<Act<D>, ModelError> {
        self.tensor(values, shape.0, shape.1)
    }
}

/// The factor of every input value, `[tokens, width]`: 0 or `1 / (1 - p)`, as the fused engine
/// draws it.
///
/// Value i of the layer's ChaCha8 stream is its i-th 16-bit word; it is dropped where the word is
/// below `p * 2^16`.
fn dropout_mask(dropout: Dropout, stream: u64, (n_rows, width): (usize, usize)) -> Vec<f32> {
    let mut rng = ChaCha8Rng::from_seed(dropout.key);
    rng.set_stream(stream);
    let threshold = (dropout.p * 65536.0).round() as u32;
    let kept = 1.0 / (1.0 - dropout.p);
    let mut mask = Vec::with_capacity(n_rows * width + 1);
    while mask.len() < n_rows * width {
        let word = rng.next_u32();
        for half in [word & 0xffff, word >> 16] {
            mask.push(if half < threshold { 0.0 } else { kept });
        }
    }
    mask.truncate(n_rows * width);
    mask
}
