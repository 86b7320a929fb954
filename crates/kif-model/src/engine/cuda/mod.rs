//! The engine on an NVIDIA GPU: our own kernels and cuBLAS as operations on dfdx's tape.
//!
//! Activations and weights stay on the device. Frozen weights are no tensors, so no gradient of
//! theirs is ever made; with [`Precision::F16`] they are kept in f16, activations are brought to
//! f16 for the products with them ([`linear::Half`]), sums are f32, and all other products let the
//! tensor cores round their f32 operands to TF32.

mod activation;
mod arithmetic;
mod attention;
mod device;
mod embedding;
mod gate;
mod groups;
mod kernels;
mod linear;
mod loss;
mod norm;
mod rows;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::rc::Rc;

use cudarc::driver::CudaSlice;
use dfdx::prelude::*;

use self::device::{Address, Factor, Format, Gpu, Operand, Result as DeviceResult, Store};
use self::groups::Groups;
use self::loss::Wanted;
use super::{
    Act, Angles, Attention, Engine, HostCache, InputGradient, Loss, LowRank, PositionBias, Step,
    WeightSpec, device_error,
};
use crate::best_rate::{best_rate, operand};
use crate::files::Values;
use crate::{Fact, ModelError, Precision};

/// The engine; clones share the device.
#[derive(Clone)]
pub(crate) struct CudaEngine {
    gpu: Rc<Gpu>,
    /// Whether frozen weights of products are kept in f16.
    in_half: bool,
    last_half: Rc<RefCell<linear::LastHalf>>,
}

impl CudaEngine {
    /// On the first GPU.
    pub(crate) fn new(precision: Precision) -> Result<Self, ModelError> {
        let in_half = precision == Precision::F16;
        Ok(Self {
            gpu: Rc::new(Gpu::new(in_half)?),
            in_half,
            last_half: Rc::default(),
        })
    }

    /// What there is of the GPU and of what its driver needs.
    pub(crate) fn facts() -> Vec<Fact> {
        device::facts()
    }

    /// Operations per second of a product of two `n` x `n` matrices, as products with frozen
    /// weights of this precision are computed.
    pub(crate) fn matrix_rate(precision: Precision, n: usize) -> Result<f64, ModelError> {
        let engine = Self::new(precision)?;
        let gpu = &engine.gpu;
        let out = gpu.scratch::<f32>(n * n).map_err(device_error)?;
        let rate = |format, a, b| {
            let [a, b] = [a, b].map(|at| Operand::new(at, format, (n, n)));
            let (b, one, out) = (b.transposed(), Factor::Host(1.0), Address::of(&out));
            best_rate(n, || {
                let launched = gpu.product((n, n, n), a, b, one, out, Store::Replace);
                launched.and_then(|()| gpu.wait()).map_err(device_error)
            })
        };
        let (a, b) = (operand(n, 1), operand(n, 2));
        if engine.in_half {
            let copied = |values: &[f32]| gpu.copied(half_bits(values)?).map_err(device_error);
            let (a, b) = (copied(&a)?, copied(&b)?);
            rate(Format::F16, Address::of(&a), Address::of(&b))
        } else {
            let copied = |values| gpu.copied(values).map_err(device_error);
            let (a, b) = (copied(a)?, copied(b)?);
            rate(Format::F32, Address::of(&a), Address::of(&b))
        }
    }

    /// Most bytes that tensors have held since the last call.
    pub(crate) fn peak_memory() -> Result<u64, ModelError> {
        device::take_peak_memory().map_err(device_error)
    }

    /// dfdx's own device, for the stock engine.
    pub(crate) fn stock_device() -> Result<Cuda, ModelError> {
        device::open()
    }

    /// Activations that nobody changes as the left side of a product with a weight: what was last
    /// brought to f16 is kept.
    fn activations(&self, x: &Act<Cuda>, weight: &CudaWeight, factor: f32) -> DeviceResult<Side> {
        match weight.kept.format() {
            Format::F32 => {
                Side::of_rows(&self.gpu, Address::of_tensor(x), *x.shape(), weight, factor)
            }
            Format::F16 => {
                let half = self.last_half.borrow_mut().of(&self.gpu, x, factor)?;
                Ok(Side::Half(half))
            }
        }
    }
}

/// A weight on the device; clones share its values.
#[derive(Clone)]
pub(crate) struct CudaWeight {
    spec: WeightSpec,
    kept: Kept,
}

/// The values of a weight, kept alive by whoever has them.
#[derive(Clone)]
enum Kept {
    /// f32, frozen.
    Full(Rc<CudaSlice<f32>>),
    /// f16, frozen.
    Half(Rc<CudaSlice<u16>>),
    /// f32, and the name of the gradient in dfdx's store.
    Trained(Act<Cuda>),
}

impl Kept {
    fn address(&self) -> Address {
        match self {
            Self::Full(values) => Address::of(values),
            Self::Half(values) => Address::of(values),
            Self::Trained(leaf) => Address::of_tensor(leaf),
        }
    }

    fn format(&self) -> Format {
        match self {
            Self::Full(_) | Self::Trained(_) => Format::F32,
            Self::Half(_) => Format::F16,
        }
    }

    fn leaf(&self) -> Option<&Act<Cuda>> {
        match self {
            Self::Trained(leaf) => Some(leaf),
            Self::Full(_) | Self::Half(_) => None,
        }
    }
}

impl CudaWeight {
    /// `[out, in]`
    fn shape(&self) -> (usize, usize) {
        (self.spec.n_rows, self.spec.n_cols)
    }

    fn operand(&self) -> Operand {
        Operand::new(self.kept.address(), self.kept.format(), self.shape())
    }

    /// Where the f32 values lie. Only what products read is kept in f16.
    fn full(&self) -> Address {
        assert_eq!(
            self.kept.format(),
            Format::F32,
            "a weight that is read in f32"
        );
        self.kept.address()
    }

    fn leaf(&self) -> Option<Act<Cuda>> {
        self.kept.leaf().cloned()
    }
}

/// The left side of a product with a weight, in the weight's format.
enum Side {
    Full(Operand, f32),
    Half(Rc<linear::Half>),
}

impl Side {
    /// Of the `shape` f32 values at `x`; the product is to be multiplied by `factor`.
    fn of_rows(
        gpu: &Gpu,
        x: Address,
        shape: (usize, usize),
        weight: &CudaWeight,
        factor: f32,
    ) -> DeviceResult<Self> {
        Ok(match weight.kept.format() {
            Format::F32 => Self::Full(Operand::f32(x, shape), factor),
            Format::F16 => Self::Half(Rc::new(linear::Half::new(gpu, x, shape, factor)?)),
        })
    }

    fn operand(&self) -> Operand {
        match self {
            Self::Full(operand, _) => *operand,
            Self::Half(half) => half.operand(),
        }
    }

    fn factor(&self) -> Factor {
        match self {
            Self::Full(_, factor) => Factor::Host(*factor),
            Self::Half(half) => half.factor(),
        }
    }

    /// `out (+)= factor * x W^T`
    fn times_transposed(
        &self,
        gpu: &Gpu,
        n_rows: usize,
        weight: &CudaWeight,
        out: Address,
        into: Store,
    ) -> DeviceResult<()> {
        let (n_out, n_in) = weight.shape();
        let (shape, w) = ((n_rows, n_out, n_in), weight.operand().transposed());
        gpu.product(shape, self.operand(), w, self.factor(), out, into)
    }

    /// `out (+)= factor * x W`
    fn times(
        &self,
        gpu: &Gpu,
        n_rows: usize,
        weight: &CudaWeight,
        out: Address,
        into: Store,
    ) -> DeviceResult<()> {
        let (n_out, n_in) = weight.shape();
        let shape = (n_rows, n_in, n_out);
        gpu.product(
            shape,
            self.operand(),
            weight.operand(),
            self.factor(),
            out,
            into,
        )
    }
}

/// f16 bits of weights, of which none may be too large for f16.
fn half_bits(values: &[f32]) -> Result<Vec<u16>, ModelError> {
    let halves = values.iter().enumerate().map(|(i, &x)| {
        let half = half::f16::from_f32(x);
        if half.is_finite() {
            return Ok(half.to_bits());
        }
        let what = format!("precision f16 for a weight of {x} (value {i} of its tensor; f16 ends at 65504): use f32;");
        Err(ModelError::Unsupported { what })
    });
    halves.collect()
}

impl Engine for CudaEngine {
    type Device = Cuda;
    type Weight = CudaWeight;

    fn weight(&self, values: Values, spec: WeightSpec) -> Result<CudaWeight, ModelError> {
        let values = values.into_vec();
        let (n_rows, n_cols) = (spec.n_rows, spec.n_cols);
        assert_eq!(
            values.len(),
            n_rows * n_cols,
            "a weight of {n_rows} x {n_cols}"
        );
        // Trainable weights keep full precision: their updates would vanish in f16.
        let kept = if spec.trainable {
            Kept::Trained(
                self.gpu
                    .upload(values, n_rows, n_cols)
                    .map_err(device_error)?,
            )
        } else if self.in_half && spec.role.is_product() {
            Kept::Half(Rc::new(
                self.gpu.copied(half_bits(&values)?).map_err(device_error)?,
            ))
        } else {
            Kept::Full(Rc::new(self.gpu.copied(values).map_err(device_error)?))
        };
        Ok(CudaWeight { spec, kept })
    }

    fn set_weight(&self, weight: &mut CudaWeight, values: &[f32]) -> Result<(), ModelError> {
        let leaf = weight.kept.leaf().expect("only trainable weights change");
        self.gpu.write(leaf, values).map_err(device_error)
    }

    fn add_gradient(
        &self,
        weight: &CudaWeight,
        gradients: &mut Gradients<f32, Cuda>,
        into: &mut [f32],
    ) -> Result<(), ModelError> {
        let leaf = weight
            .kept
            .leaf()
            .expect("only trainable weights have a gradient");
        let gradient = gradients
            .get_or_alloc_mut(leaf)
            .and_then(|gradient| self.gpu.read(Address::of_gradient(gradient), into.len()))
            .map_err(device_error)?;
        into.iter_mut()
            .zip(&gradient)
            .for_each(|(into, g)| *into += g);
        Ok(())
    }

    fn embed<T: Tape<f32, Cuda>>(
        &self,
        table: &CudaWeight,
        more: Option<&CudaWeight>,
        ids: &[u32],
    ) -> Result<Act<Cuda, T>, ModelError> {
        embedding::embed(self, table, more, ids).map_err(device_error)
    }

    fn rms_norm<T: Tape<f32, Cuda>>(
        &self,
        x: Act<Cuda, T>,
        gain: &CudaWeight,
        eps: f32,
    ) -> Result<Act<Cuda, T>, ModelError> {
        norm::rms_norm(self, x, gain, eps).map_err(device_error)
    }

    fn add<T: Tape<f32, Cuda>>(
        &self,
        residual: Act<Cuda, T>,
        x: Act<Cuda, T>,
    ) -> Result<Act<Cuda, T>, ModelError> {
        arithmetic::add(self, residual, x).map_err(device_error)
    }

    fn scale<T: Tape<f32, Cuda>>(
        &self,
        x: Act<Cuda, T>,
        factor: f32,
    ) -> Result<Act<Cuda, T>, ModelError> {
        arithmetic::scale(self, x, factor).map_err(device_error)
    }

    fn linear<T: Tape<f32, Cuda>>(
        &self,
        x: Act<Cuda, T>,
        weight: &CudaWeight,
        low_rank: Option<LowRank<'_, CudaWeight, Act<Cuda, T>>>,
        residual: Option<Act<Cuda, T>>,
        input_gradient: InputGradient,
    ) -> Result<Act<Cuda, T>, ModelError> {
        linear::linear(self, x, weight, low_rank, residual, input_gradient).map_err(device_error)
    }

    fn relu<T: Tape<f32, Cuda>>(&self, x: Act<Cuda, T>) -> Result<Act<Cuda, T>, ModelError> {
        activation::relu(self, x).map_err(device_error)
    }

    fn gated_gelu<T: Tape<f32, Cuda>>(
        &self,
        gate: Act<Cuda, T>,
        up: Act<Cuda, T>,
    ) -> Result<Act<Cuda, T>, ModelError> {
        activation::gated(self, ["gated_gelu", "gated_gelu_backward"], gate, up)
            .map_err(device_error)
    }

    fn gated_silu<T: Tape<f32, Cuda>>(
        &self,
        gate: Act<Cuda, T>,
        up: Act<Cuda, T>,
    ) -> Result<Act<Cuda, T>, ModelError> {
        activation::gated(self, ["gated_silu", "gated_silu_backward"], gate, up)
            .map_err(device_error)
    }

    fn head_norm<T: Tape<f32, Cuda>>(
        &self,
        x: Act<Cuda, T>,
        gain: &CudaWeight,
        eps: f32,
    ) -> Result<Act<Cuda, T>, ModelError> {
        norm::rms_norm(self, x, gain, eps).map_err(device_error)
    }

    fn add_bias<T: Tape<f32, Cuda>>(
        &self,
        x: Act<Cuda, T>,
        bias: &CudaWeight,
    ) -> Result<Act<Cuda, T>, ModelError> {
        rows::add_bias(self, x, bias).map_err(device_error)
    }

    fn rotate<T: Tape<f32, Cuda>>(
        &self,
        x: Act<Cuda, T>,
        angles: &Angles,
    ) -> Result<Act<Cuda, T>, ModelError> {
        rows::rotate(self, x, angles).map_err(device_error)
    }

    fn select<T: Tape<f32, Cuda>>(
        &self,
        x: Act<Cuda, T>,
        rows: &[usize],
    ) -> Result<Act<Cuda, T>, ModelError> {
        rows::select(self, x, rows).map_err(device_error)
    }

    fn repeat<T: Tape<f32, Cuda>>(
        &self,
        x: Act<Cuda, T>,
        rows: &[usize],
    ) -> Result<Act<Cuda, T>, ModelError> {
        rows::repeat(self, x, rows).map_err(device_error)
    }

    fn attention_step(
        &self,
        q: Act<Cuda>,
        prompts: HostCache<'_>,
        own: HostCache<'_>,
        shape: &Step<'_>,
    ) -> Result<Act<Cuda>, ModelError> {
        attention::attention_step(self, &q, prompts, own, shape).map_err(device_error)
    }

    fn attention<T: Tape<f32, Cuda>>(
        &self,
        q: Act<Cuda, T>,
        k: Act<Cuda, T>,
        v: Act<Cuda, T>,
        shape: &Attention,
        bias: Option<PositionBias<'_, CudaWeight>>,
    ) -> Result<Act<Cuda, T>, ModelError> {
        attention::attention(self, q, k, v, shape, bias).map_err(device_error)
    }

    fn attention_cached(
        &self,
        q: Act<Cuda>,
        k: &[f32],
        v: &[f32],
        shape: &Attention,
        bias: Option<PositionBias<'_, CudaWeight>>,
    ) -> Result<Act<Cuda>, ModelError> {
        attention::attention_cached(self, &q, k, v, shape, bias).map_err(device_error)
    }

    fn cross_entropy<T: Tape<f32, Cuda>>(
        &self,
        x: Act<Cuda, T>,
        head: &CudaWeight,
        scale: f32,
        targets: &[u32],
        weight: f32,
    ) -> Result<Loss<Cuda, T>, ModelError> {
        loss::loss(self, x, head, scale, Wanted::Ids(targets), weight).map_err(device_error)
    }

    fn divergence<T: Tape<f32, Cuda>>(
        &self,
        x: Act<Cuda, T>,
        head: &CudaWeight,
        scale: f32,
        log_probs: &[f32],
        weight: f32,
    ) -> Result<Loss<Cuda, T>, ModelError> {
        loss::loss(self, x, head, scale, Wanted::LogProbs(log_probs), weight).map_err(device_error)
    }

    fn logits(&self, x: Act<Cuda>, head: &CudaWeight, scale: f32) -> Result<Vec<f32>, ModelError> {
        let n = x.shape().0 * head.spec.n_rows;
        let of_rows = || {
            let logits = self.gpu.scratch::<f32>(n)?;
            let out = Address::of(&logits);
            let x_side = self.activations(&x, head, scale)?;
            x_side.times_transposed(&self.gpu, x.shape().0, head, out, Store::Replace)?;
            self.gpu.read(out, n)
        };
        of_rows().map_err(device_error)
    }

    fn to_host(&self, x: &Act<Cuda>) -> Result<Vec<f32>, ModelError> {
        let n = x.shape().num_elements();
        self.gpu
            .read(Address::of_tensor(x), n)
            .map_err(device_error)
    }

    fn upload(&self, values: Vec<f32>, shape: (usize, usize)) -> Result<Act<Cuda>, ModelError> {
        self.gpu
            .upload(values, shape.0, shape.1)
            .map_err(device_error)
    }
}
