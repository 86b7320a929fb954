//! The operations that an architecture is written in, and the engines that carry them out: `fused`
//! and `cuda` with kernels of our own, for the CPU and for a GPU, and `stock` with dfdx's
//! operations on either.
//!
//! Activations are ragged: `[tokens, width]`, the rows of all sequences one after the other. An
//! engine that needs rectangles pads inside itself. Every operation is generic over the tape: with
//! dfdx's `OwnedTape` it records its backward pass, with `NoneTape` it is inference.

#[cfg(feature = "cuda")]
pub(crate) mod cuda;
pub(crate) mod fused;
pub(crate) mod stock;

use std::sync::Arc;

use dfdx::prelude::*;
pub(crate) use kif_kernels::Span;

use crate::files::Values;
use crate::{Dropout, ModelError};

/// Activations `[tokens, width]`.
pub(crate) type Act<D, T = NoneTape> = Tensor<(usize, usize), f32, D, T>;

/// A single number, such as the loss.
pub(crate) type Scalar<D, T = NoneTape> = Tensor<Rank0, f32, D, T>;

/// A weighted sum of losses with its tape, and the unweighted loss of every row in nats.
pub(crate) type Loss<D, T = NoneTape> = (Scalar<D, T>, Vec<f32>);

/// What a weight is used for; decides how an engine keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The matrix of a linear layer, `[out, in]`.
    Product,
    /// The output head, `[V, in]`: a product whose errors are those of the logits.
    Head,
    /// An embedding table, `[V, width]`, whose rows are read one by one.
    Table,
    /// An embedding table that is the output head, too.
    TableAndHead,
    /// Elements are read one by one: norm gains, biases, tables of biases.
    Elements,
}

impl Role {
    fn is_product(self) -> bool {
        matches!(self, Self::Product | Self::Head | Self::TableAndHead)
    }
}

/// Shape and use of a weight; vectors are `[1, n]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WeightSpec {
    pub(crate) n_rows: usize,
    pub(crate) n_cols: usize,
    pub(crate) role: Role,
    /// Trainable weights get a gradient; frozen ones never have one.
    pub(crate) trainable: bool,
}

/// The low-rank part of a linear layer: `scale * dropout(x) A^T B^T`, A `[R, in]`, B `[out, R]`.
///
/// `G` is the type of a gate's weights: activations with the tape of the pass.
pub(crate) struct LowRank<'a, W, G> {
    pub(crate) a: &'a W,
    pub(crate) b: &'a W,
    pub(crate) scale: f32,
    /// Dropout of this pass, and the number of the layer within it.
    pub(crate) dropout: Option<(Dropout, u64)>,
    /// Without one, adapters side by side add up.
    pub(crate) gate: Option<Gate<G>>,
}

/// The low-rank part of a layer on engine `E`, whose gate has the tape `T`.
pub(crate) type Routed<'a, E, T> =
    LowRank<'a, <E as Engine>::Weight, Act<<E as Engine>::Device, T>>;

/// How much each of `n` adapters side by side counts: of `dropout(x) A^T` the columns of adapter i
/// are multiplied by `weights[row, i]`. The weights may be read by any number of layers.
#[derive(Clone)]
pub(crate) struct Gate<G> {
    /// `[rows, n]`; n divides R.
    pub(crate) weights: G,
    /// The row of `weights` that each token reads; token i reads row i without.
    pub(crate) rows: Option<Arc<[usize]>>,
}

/// What the backward pass of a linear layer does about its input's gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InputGradient {
    /// Nothing trainable lies below: it is left out.
    Skip,
    /// This layer is the input's last consumer, and so the first to reach its gradient.
    Write,
    /// A later consumer of the input has been there before.
    Add,
}

/// Which rows attend to which.
#[derive(Clone, Debug)]
pub(crate) struct Attention {
    /// Query rows of each sequence.
    pub(crate) queries: Vec<Span>,
    /// Key and value rows of each sequence.
    pub(crate) keys: Vec<Span>,
    pub(crate) n_heads: usize,
    /// Heads of keys and values, a divisor of `n_heads`: neighbours among the query heads share
    /// one.
    pub(crate) n_kv_heads: usize,
    pub(crate) head_dim: usize,
    /// Factor on the scores before the softmax (T5: 1).
    pub(crate) scale: f32,
    /// Query i sees keys up to `i + (n_keys - n_queries)`.
    pub(crate) causal: bool,
    /// Keys that a query sees at most, the last ones. All without a number.
    pub(crate) window: Option<usize>,
}

/// The angles of rotary embedding for each token of a pass, `[tokens, head_dim / 2]`; shared by all
/// layers.
#[derive(Clone, Debug)]
pub(crate) struct Angles {
    pub(crate) cos: Arc<[f32]>,
    pub(crate) sin: Arc<[f32]>,
    /// head_dim / 2.
    pub(crate) half: usize,
}

/// What the new token of each text attends to: the keys of its prompt, which texts may share, and
/// its own.
pub(crate) struct Step<'a> {
    /// Rows of the prompts' keys, for each text in pieces, one after the other.
    pub(crate) prompts: &'a [Vec<Span>],
    /// Rows of the texts' own keys, for each text.
    pub(crate) own: &'a [Span],
    pub(crate) n_heads: usize,
    pub(crate) n_kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) scale: f32,
}

/// Keys and values on the host, `[rows, n_kv_heads * head_dim]`.
pub(crate) type HostCache<'a> = [&'a [f32]; 2];

/// A learned bias on attention scores: table `[buckets, H]`, and the bucket of each distance (key -
/// query position).
#[derive(Clone, Copy)]
pub(crate) struct PositionBias<'a, W> {
    pub(crate) table: &'a W,
    /// Bucket of distance `min_distance + i`.
    pub(crate) buckets: &'a [usize],
    pub(crate) min_distance: isize,
}

/// The operations of a transformer on one device.
///
/// Shapes are checked by the caller: an engine asserts them.
pub(crate) trait Engine: Clone {
    /// Where tensors live.
    type Device: Device<f32>;
    /// A weight as the engine wants it.
    type Weight;

    /// Prepares a weight; `values` is `[n_rows, n_cols]`, row-major.
    fn weight(&self, values: Values, spec: WeightSpec) -> Result<Self::Weight, ModelError>;

    /// Gives a weight new values.
    fn set_weight(&self, weight: &mut Self::Weight, values: &[f32]) -> Result<(), ModelError>;

    /// Adds the gradient of a trainable weight to `into`.
    fn add_gradient(
        &self,
        weight: &Self::Weight,
        gradients: &mut Gradients<f32, Self::Device>,
        into: &mut [f32],
    ) -> Result<(), ModelError>;

    /// Rows of a table `[V, width]`, and of `more` for ids from V on: `[ids, width]`.
    fn embed<T: Tape<f32, Self::Device>>(
        &self,
        table: &Self::Weight,
        more: Option<&Self::Weight>,
        ids: &[u32],
    ) -> Result<Act<Self::Device, T>, ModelError>;

    /// `x / rms(x) * gain`.
    fn rms_norm<T: Tape<f32, Self::Device>>(
        &self,
        x: Act<Self::Device, T>,
        gain: &Self::Weight,
        eps: f32,
    ) -> Result<Act<Self::Device, T>, ModelError>;

    /// `residual + x`; neither has a later consumer.
    fn add<T: Tape<f32, Self::Device>>(
        &self,
        residual: Act<Self::Device, T>,
        x: Act<Self::Device, T>,
    ) -> Result<Act<Self::Device, T>, ModelError>;

    /// `factor * x`; `x` has no other consumer.
    fn scale<T: Tape<f32, Self::Device>>(
        &self,
        x: Act<Self::Device, T>,
        factor: f32,
    ) -> Result<Act<Self::Device, T>, ModelError>;

    /// `residual + x W^T + low_rank(x)`.
    ///
    /// `residual` must have no later consumer than this operation.
    fn linear<T: Tape<f32, Self::Device>>(
        &self,
        x: Act<Self::Device, T>,
        weight: &Self::Weight,
        low_rank: Option<Routed<'_, Self, T>>,
        residual: Option<Act<Self::Device, T>>,
        input_gradient: InputGradient,
    ) -> Result<Act<Self::Device, T>, ModelError>;

    /// `max(x, 0)`; `x` has no other consumer.
    fn relu<T: Tape<f32, Self::Device>>(
        &self,
        x: Act<Self::Device, T>,
    ) -> Result<Act<Self::Device, T>, ModelError>;

    /// `gelu(gate) * up` with the tanh form of gelu; neither has another consumer.
    fn gated_gelu<T: Tape<f32, Self::Device>>(
        &self,
        gate: Act<Self::Device, T>,
        up: Act<Self::Device, T>,
    ) -> Result<Act<Self::Device, T>, ModelError>;

    /// `silu(gate) * up`; neither has another consumer.
    fn gated_silu<T: Tape<f32, Self::Device>>(
        &self,
        gate: Act<Self::Device, T>,
        up: Act<Self::Device, T>,
    ) -> Result<Act<Self::Device, T>, ModelError>;

    /// [`rms_norm`](Self::rms_norm) of every head by itself, for a gain `[1, head_dim]`.
    fn head_norm<T: Tape<f32, Self::Device>>(
        &self,
        x: Act<Self::Device, T>,
        gain: &Self::Weight,
        eps: f32,
    ) -> Result<Act<Self::Device, T>, ModelError>;

    /// `x + bias` in every row, for a bias `[1, width]`; `x` has no other consumer.
    fn add_bias<T: Tape<f32, Self::Device>>(
        &self,
        x: Act<Self::Device, T>,
        bias: &Self::Weight,
    ) -> Result<Act<Self::Device, T>, ModelError>;

    /// Rotary position embedding: every pair `(x[i], x[i + head_dim / 2])` of a head turned by the
    /// angle i of its token; `x` has no other consumer.
    fn rotate<T: Tape<f32, Self::Device>>(
        &self,
        x: Act<Self::Device, T>,
        angles: &Angles,
    ) -> Result<Act<Self::Device, T>, ModelError>;

    /// The given rows of `x`, which has no other consumer; each at most once.
    fn select<T: Tape<f32, Self::Device>>(
        &self,
        x: Act<Self::Device, T>,
        rows: &[usize],
    ) -> Result<Act<Self::Device, T>, ModelError>;

    /// As [`select`](Self::select), each row any number of times.
    fn repeat<T: Tape<f32, Self::Device>>(
        &self,
        x: Act<Self::Device, T>,
        rows: &[usize],
    ) -> Result<Act<Self::Device, T>, ModelError>;

    /// Attention of one new token of each text, `[texts, H * head_dim]`, to keys and values kept on
    /// the host.
    fn attention_step(
        &self,
        q: Act<Self::Device>,
        prompts: HostCache<'_>,
        own: HostCache<'_>,
        shape: &Step<'_>,
    ) -> Result<Act<Self::Device>, ModelError>;

    /// Multi-head attention; q is `[tokens, H * head_dim]`, k and v have the columns of their own
    /// number of heads, and none has another consumer.
    fn attention<T: Tape<f32, Self::Device>>(
        &self,
        q: Act<Self::Device, T>,
        k: Act<Self::Device, T>,
        v: Act<Self::Device, T>,
        shape: &Attention,
        bias: Option<PositionBias<'_, Self::Weight>>,
    ) -> Result<Act<Self::Device, T>, ModelError>;

    /// Attention of new queries to keys and values kept on the host (`[capacity, H * head_dim]`),
    /// without a tape.
    fn attention_cached(
        &self,
        q: Act<Self::Device>,
        k: &[f32],
        v: &[f32],
        shape: &Attention,
        bias: Option<PositionBias<'_, Self::Weight>>,
    ) -> Result<Act<Self::Device>, ModelError>;

    /// `weight * sum(nll)` of `softmax(scale * x head^T)`, and the unweighted nll of every row in
    /// nats.
    fn cross_entropy<T: Tape<f32, Self::Device>>(
        &self,
        x: Act<Self::Device, T>,
        head: &Self::Weight,
        scale: f32,
        targets: &[u32],
        weight: f32,
    ) -> Result<Loss<Self::Device, T>, ModelError>;

    /// `weight * sum(KL(q || p))` of `p = softmax(scale * x head^T)`, and the unweighted divergence
    /// of every row in nats. `log_probs` is `log q`, `[rows, V]`.
    fn divergence<T: Tape<f32, Self::Device>>(
        &self,
        x: Act<Self::Device, T>,
        head: &Self::Weight,
        scale: f32,
        log_probs: &[f32],
        weight: f32,
    ) -> Result<Loss<Self::Device, T>, ModelError>;

    /// `scale * x head^T` on the host, `[rows, V]`.
    fn logits(
        &self,
        x: Act<Self::Device>,
        head: &Self::Weight,
        scale: f32,
    ) -> Result<Vec<f32>, ModelError>;

    /// Copies activations to the host.
    fn to_host(&self, x: &Act<Self::Device>) -> Result<Vec<f32>, ModelError>;

    /// An activation of these values, `[rows, width]`.
    fn upload(
        &self,
        values: Vec<f32>,
        shape: (usize, usize),
    ) -> Result<Act<Self::Device>, ModelError>;
}

/// Errors of dfdx, whose text is all that backward passes keep. A full memory is told apart by it.
pub(crate) fn device_error(error: impl std::fmt::Debug) -> ModelError {
    let text = format!("{error:?}");
    let is_full = ["CUDA_ERROR_OUT_OF_MEMORY", "CUBLAS_STATUS_ALLOC_FAILED"];
    if is_full.iter().any(|name| text.contains(name)) {
        return ModelError::OutOfDeviceMemory;
    }
    ModelError::Device(text)
}

/// Bias by head and distance, `[H, distances]`, from a table `[buckets, H]`.
pub(crate) fn bias_by_distance(table: &[f32], n_heads: usize, buckets: &[usize]) -> Vec<f32> {
    let mut by_distance = Vec::with_capacity(n_heads * buckets.len());
    for head in 0..n_heads {
        by_distance.extend(buckets.iter().map(|bucket| table[bucket * n_heads + head]));
    }
    by_distance
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_memory_is_told_apart_wherever_it_shows() {
        let driver = "Driver(DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\"))";
        for text in [driver, "Blas(CublasError(CUBLAS_STATUS_ALLOC_FAILED))"] {
            assert!(matches!(
                device_error(format_args!("{text}")),
                ModelError::OutOfDeviceMemory
            ));
        }
        assert!(matches!(device_error("another"), ModelError::Device(_)));
    }
}
