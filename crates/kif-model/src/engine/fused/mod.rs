//! The CPU engine: `kif-kernels` as operations on dfdx's tape.
//!
//! Frozen weights are prepacked and are no dfdx tensors, so no gradient of theirs is ever made. A
//! gradient is taken out of dfdx's store by the operation that consumes it, which frees it at once.

mod activation;
mod arithmetic;
mod attention;
mod bias;
mod buffers;
mod embedding;
mod gate;
mod linear;
mod loss;
mod norm;
mod rotate;
mod select;
mod view;

use std::sync::Arc;

use dfdx::prelude::*;
use half::bf16;
use kif_kernels::{PackedWeight, Precision};
use view::view;

use super::{
    Act, Angles, Attention, Engine, HostCache, InputGradient, Loss, LowRank, PositionBias, Role,
    Step, WeightSpec, device_error,
};
use crate::ModelError;
use crate::files::Values;

/// The engine; `precision` is that of frozen weights.
#[derive(Clone)]
pub(crate) struct Fused {
    device: Cpu,
    precision: Precision,
}

impl Fused {
    pub(crate) fn new(precision: Precision) -> Self {
        Self {
            device: Cpu::default(),
            precision,
        }
    }

    /// How a weight is kept. Trained ones keep full precision, for their updates would vanish, and
    /// so do those that are small anyway. What the logits are made of is never kept in 8 bits.
    fn precision_of(&self, spec: WeightSpec) -> Precision {
        match (self.precision, spec.role) {
            _ if spec.trainable => Precision::F32,
            (_, Role::Elements) => Precision::F32,
            (Precision::Int8, Role::Head | Role::Table | Role::TableAndHead) => Precision::Bf16,
            (precision, _) => precision,
        }
    }

    fn tensor(
        &self,
        values: Vec<f32>,
        n_rows: usize,
        n_cols: usize,
    ) -> Result<Act<Cpu>, ModelError> {
        self.device
            .try_tensor_from_vec(values, (n_rows, n_cols))
            .map_err(device_error)
    }
}

/// A weight as the kernels want it.
pub(crate) struct FusedWeight {
    spec: WeightSpec,
    kept: Kept,
    /// Names the gradient in dfdx's store; its own values are never read.
    leaf: Option<Act<Cpu>>,
}

/// The values of a weight.
enum Kept {
    /// As they are, where rows or elements are read and nothing else is done.
    Floats(Arc<Vec<f32>>),
    /// The same in half the memory, for embedding tables.
    Halves(Vec<bf16>),
    /// Panels for products, and for look-ups if the weight serves both.
    Packed(Arc<PackedWeight>),
}

impl FusedWeight {
    fn elements(&self) -> &Arc<Vec<f32>> {
        match &self.kept {
            Kept::Floats(values) => values,
            Kept::Halves(_) | Kept::Packed(_) => {
                panic!("a weight of role {:?} has no elements", self.spec.role)
            }
        }
    }

    fn packed(&self) -> &Arc<PackedWeight> {
        match &self.kept {
            Kept::Packed(packed) => packed,
            Kept::Floats(_) | Kept::Halves(_) => {
                panic!("a weight of role {:?} is not packed", self.spec.role)
            }
        }
    }
}

/// A table rounded to BF16.
fn halves(values: &Values, n_rows: usize, n_cols: usize) -> Vec<bf16> {
    let mut scratch = Vec::new();
    let mut halves = Vec::with_capacity(n_rows * n_cols);
    for row in 0..n_rows {
        let row = values.range(row * n_cols..(row + 1) * n_cols, &mut scratch);
        halves.extend(row.iter().map(|&x| bf16::from_f32(x)));
    }
    halves
}

/// Takes the gradient of an operation's output out of the store.
macro_rules! take_gradient {
    ($gradients:expr, $tensor:expr) => {
        std::mem::take::<Vec<f32>>(&mut **$gradients.get_or_alloc_mut(&$tensor)?)
    };
}
use take_gradient;

impl Engine for Fused {
    type Device = Cpu;
    type Weight = FusedWeight;

    fn weight(&self, values: Values, spec: WeightSpec) -> Result<FusedWeight, ModelError> {
        let (n_rows, n_cols) = (spec.n_rows, spec.n_cols);
        assert_eq!(
            values.len(),
            n_rows * n_cols,
            "a weight of {n_rows} x {n_cols}"
        );
        let precision = self.precision_of(spec);
        let kept = match spec.role {
            role if role.is_product() => {
                let rows = values.rows(n_cols);
                Kept::Packed(Arc::new(PackedWeight::pack_rows(
                    &rows, n_rows, n_cols, precision,
                )))
            }
            Role::Table if precision != Precision::F32 => {
                Kept::Halves(halves(&values, n_rows, n_cols))
            }
            _ => Kept::Floats(Arc::new(values.into_vec())),
        };
        let leaf = if spec.trainable {
            Some(
                self.device
                    .try_zeros_like(&(n_rows, n_cols))
                    .map_err(device_error)?,
            )
        } else {
            None
        };
        Ok(FusedWeight { spec, kept, leaf })
    }

    fn set_weight(&self, weight: &mut FusedWeight, values: &[f32]) -> Result<(), ModelError> {
        let WeightSpec { n_rows, n_cols, .. } = weight.spec;
        match &mut weight.kept {
            Kept::Floats(old) => match Arc::get_mut(old) {
                Some(old) => old.copy_from_slice(values),
                None => *old = Arc::new(values.to_vec()),
            },
            Kept::Packed(old) => match Arc::get_mut(old) {
                Some(old) => old.repack(values),
                None => *old = Arc::new(PackedWeight::pack(values, n_rows, n_cols, Precision::F32)),
            },
            Kept::Halves(_) => panic!("a table in BF16 is frozen"),
        }
        Ok(())
    }

    fn add_gradient(
        &self,
        weight: &FusedWeight,
        gradients: &mut Gradients<f32, Cpu>,
        into: &mut [f32],
    ) -> Result<(), ModelError> {
        let leaf = weight
            .leaf
            .as_ref()
            .expect("only trainable weights have a gradient");
        let gradient =
            std::mem::take::<Vec<f32>>(gradients.get_or_alloc_mut(leaf).map_err(device_error)?);
        assert_eq!(gradient.len(), into.len(), "gradient of a weight");
        into.iter_mut()
            .zip(&gradient)
            .for_each(|(into, g)| *into += g);
        Ok(())
    }

    fn embed<T: Tape<f32, Cpu>>(
        &self,
        table: &FusedWeight,
        more: Option<&FusedWeight>,
        ids: &[u32],
    ) -> Result<Act<Cpu, T>, ModelError> {
        embedding::embed(self, table, more, ids)
    }

    fn rms_norm<T: Tape<f32, Cpu>>(
        &self,
        x: Act<Cpu, T>,
        gain: &FusedWeight,
        eps: f32,
    ) -> Result<Act<Cpu, T>, ModelError> {
        norm::rms_norm(self, x, gain, eps)
    }

    fn add<T: Tape<f32, Cpu>>(
        &self,
        residual: Act<Cpu, T>,
        x: Act<Cpu, T>,
    ) -> Result<Act<Cpu, T>, ModelError> {
        arithmetic::add(self, residual, x)
    }

    fn scale<T: Tape<f32, Cpu>>(
        &self,
        x: Act<Cpu, T>,
        factor: f32,
    ) -> Result<Act<Cpu, T>, ModelError> {
        arithmetic::scale(self, x, factor)
    }

    fn linear<T: Tape<f32, Cpu>>(
        &self,
        x: Act<Cpu, T>,
        weight: &FusedWeight,
        low_rank: Option<LowRank<'_, FusedWeight, Act<Cpu, T>>>,
        residual: Option<Act<Cpu, T>>,
        input_gradient: InputGradient,
    ) -> Result<Act<Cpu, T>, ModelError> {
        linear::linear(self, x, weight, low_rank, residual, input_gradient)
    }

    fn relu<T: Tape<f32, Cpu>>(&self, x: Act<Cpu, T>) -> Result<Act<Cpu, T>, ModelError> {
        activation::relu(self, x)
    }

    fn gated_gelu<T: Tape<f32, Cpu>>(
        &self,
        gate: Act<Cpu, T>,
        up: Act<Cpu, T>,
    ) -> Result<Act<Cpu, T>, ModelError> {
        activation::gated_gelu(self, gate, up)
    }

    fn gated_silu<T: Tape<f32, Cpu>>(
        &self,
        gate: Act<Cpu, T>,
        up: Act<Cpu, T>,
    ) -> Result<Act<Cpu, T>, ModelError> {
        activation::gated_silu(self, gate, up)
    }

    fn head_norm<T: Tape<f32, Cpu>>(
        &self,
        x: Act<Cpu, T>,
        gain: &FusedWeight,
        eps: f32,
    ) -> Result<Act<Cpu, T>, ModelError> {
        norm::rms_norm(self, x, gain, eps)
    }

    fn add_bias<T: Tape<f32, Cpu>>(
        &self,
        x: Act<Cpu, T>,
        bias: &FusedWeight,
    ) -> Result<Act<Cpu, T>, ModelError> {
        bias::add_bias(self, x, bias)
    }

    fn rotate<T: Tape<f32, Cpu>>(
        &self,
        x: Act<Cpu, T>,
        angles: &Angles,
    ) -> Result<Act<Cpu, T>, ModelError> {
        rotate::rotate(self, x, angles)
    }

    fn select<T: Tape<f32, Cpu>>(
        &self,
        x: Act<Cpu, T>,
        rows: &[usize],
    ) -> Result<Act<Cpu, T>, ModelError> {
        select::select(self, x, rows)
    }

    fn repeat<T: Tape<f32, Cpu>>(
        &self,
        x: Act<Cpu, T>,
        rows: &[usize],
    ) -> Result<Act<Cpu, T>, ModelError> {
        select::repeat(self, x, rows)
    }

    fn attention_step(
        &self,
        q: Act<Cpu>,
        prompts: HostCache<'_>,
        own: HostCache<'_>,
        shape: &Step<'_>,
    ) -> Result<Act<Cpu>, ModelError> {
        attention::attention_step(self, q, prompts, own, shape)
    }

    fn attention<T: Tape<f32, Cpu>>(
        &self,
        q: Act<Cpu, T>,
        k: Act<Cpu, T>,
        v: Act<Cpu, T>,
        shape: &Attention,
        bias: Option<PositionBias<'_, FusedWeight>>,
    ) -> Result<Act<Cpu, T>, ModelError> {
        attention::attention(self, q, k, v, shape, bias)
    }

    fn attention_cached(
        &self,
        q: Act<Cpu>,
        k: &[f32],
        v: &[f32],
        shape: &Attention,
        bias: Option<PositionBias<'_, FusedWeight>>,
    ) -> Result<Act<Cpu>, ModelError> {
        attention::attention_cached(self, q, k, v, shape, bias)
    }

    fn cross_entropy<T: Tape<f32, Cpu>>(
        &self,
        x: Act<Cpu, T>,
        head: &FusedWeight,
        scale: f32,
        targets: &[u32],
        weight: f32,
    ) -> Result<Loss<Cpu, T>, ModelError> {
        loss::cross_entropy(self, x, head, scale, targets, weight)
    }

    fn divergence<T: Tape<f32, Cpu>>(
        &self,
        x: Act<Cpu, T>,
        head: &FusedWeight,
        scale: f32,
        log_probs: &[f32],
        weight: f32,
    ) -> Result<Loss<Cpu, T>, ModelError> {
        loss::divergence(self, x, head, scale, log_probs, weight)
    }

    fn logits(&self, x: Act<Cpu>, head: &FusedWeight, scale: f32) -> Result<Vec<f32>, ModelError> {
        let n_rows = x.shape().0;
        let x = loss::scaled(view(&x), scale);
        let mut logits = buffers::take(n_rows * head.spec.n_rows);
        head.packed().forward(n_rows, &x, &mut logits, false);
        Ok(logits)
    }

    fn to_host(&self, x: &Act<Cpu>) -> Result<Vec<f32>, ModelError> {
        Ok(view(x).to_vec())
    }

    fn upload(&self, values: Vec<f32>, shape: (usize, usize)) -> Result<Act<Cpu>, ModelError> {
        self.tensor(values, shape.0, shape.1)
    }
}
