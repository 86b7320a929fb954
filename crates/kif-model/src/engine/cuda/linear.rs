//! Linear layers with a low-rank part on the tape.

use std::rc::Rc;

use cudarc::driver::CudaSlice;
use dfdx::prelude::*;

use super::device::{Address, Factor, Gpu, Grid, Operand, Result, Store, arguments, take_gradient};
use super::gate::DeviceGate;
use super::{CudaEngine, CudaWeight, Side};
use crate::Dropout;
use crate::engine::{Act, Gate, InputGradient, LowRank};

/// The low-rank part of a layer in one pass.
struct DeviceLowRank {
    a: Act<Cuda>,
    b: Act<Cuda>,
    scale: f32,
    dropout: Option<(Dropout, u64)>,
    gate: Option<DeviceGate>,
}

impl DeviceLowRank {
    fn rank(&self) -> usize {
        self.a.shape().0
    }

    /// `x` after dropout, or nothing where there is none. Made again in the backward pass: cheaper
    /// than keeping it.
    fn dropped(&self, gpu: &Gpu, x: &Act<Cuda>) -> Result<Option<CudaSlice<f32>>> {
        if self.dropout.is_none() {
            return Ok(None);
        }
        let (n_rows, width) = *x.shape();
        let y = gpu.scratch::<f32>(n_rows * width)?;
        self.drop_out(
            gpu,
            n_rows * width,
            Address::of_tensor(x),
            Address::of(&y),
            Store::Replace,
        )?;
        Ok(Some(y))
    }

    /// `y = x mask`, or `y += x mask`, for `n` values.
    fn drop_out(&self, gpu: &Gpu, n: usize, x: Address, y: Address, into: Store) -> Result<()> {
        let (Dropout { p, key }, stream) = self.dropout.expect("asked for where there is dropout");
        let mut words = [0; 8];
        for (word, bytes) in words.iter_mut().zip(key.as_chunks::<4>().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        let [k0, k1, k2, k3, k4, k5, k6, k7] = words;
        let (threshold, kept) = ((p * 65536.0).round() as u32, 1.0 / (1.0 - p));
        let add = into == Store::Add;
        gpu.launch(
            "dropout",
            Grid::exactly(n.div_ceil(2048), (64, 1)),
            arguments![
                n, k0, k1, k2, k3, k4, k5, k6, k7, stream, threshold, kept, add, x, y
            ],
        )
    }

    /// Adds the low-rank part to `y[tokens, n_out]` and returns `dropout(x) A^T`, `[tokens, R]`,
    /// before the gate.
    fn forward(&self, gpu: &Gpu, x: &Act<Cuda>, y: Address) -> Result<CudaSlice<f32>> {
        let (n_rows, n_in) = *x.shape();
        let (rank, n_out) = (self.rank(), self.b.shape().0);
        let dropped = self.dropped(gpu, x)?;
        let input = dropped.as_ref().map_or(Address::of_tensor(x), Address::of);
        let hidden = gpu.scratch::<f32>(n_rows * rank)?;
        let a = Operand::f32(Address::of_tensor(&self.a), (rank, n_in)).transposed();
        let shape = (n_rows, rank, n_in);
        let input = Operand::f32(input, (n_rows, n_in));
        gpu.product(
            shape,
            input,
            a,
            Factor::Host(1.0),
            Address::of(&hidden),
            Store::Replace,
        )?;
        let gated = self.gated(gpu, &hidden, n_rows)?;
        let hidden_at = Operand::f32(
            gated.as_ref().map_or(Address::of(&hidden), Address::of),
            (n_rows, rank),
        );
        let b = Operand::f32(Address::of_tensor(&self.b), (n_out, rank)).transposed();
        gpu.product(
            (n_rows, n_out, rank),
            hidden_at,
            b,
            Factor::Host(self.scale),
            y,
            Store::Add,
        )?;
        Ok(hidden)
    }

    /// `hidden` after the gate, if there is one.
    fn gated(
        &self,
        gpu: &Gpu,
        hidden: &CudaSlice<f32>,
        n_rows: usize,
    ) -> Result<Option<CudaSlice<f32>>> {
        let Some(gate) = &self.gate else {
            return Ok(None);
        };
        let gated = gpu.scratch::<f32>(n_rows * self.rank())?;
        gate.apply(gpu, Address::of(hidden), self.rank(), Address::of(&gated))?;
        Ok(Some(gated))
    }

    /// Adds the gradients of A, B and gate, and of `x` if it has one, for the gradient
    /// `gy[tokens, n_out]` of the layer's output.
    fn backward(
        &self,
        gpu: &Gpu,
        x: &Act<Cuda>,
        hidden: &CudaSlice<f32>,
        gy: Address,
        gradients: &mut Gradients<f32, Cuda>,
        with_input: bool,
    ) -> Result<()> {
        let (n_rows, n_in) = *x.shape();
        let (rank, n_out) = (self.rank(), self.b.shape().0);
        let gy = Operand::f32(gy, (n_rows, n_out));
        let gated = self.gated(gpu, hidden, n_rows)?;
        let b_input = gated.as_ref().map_or(Address::of(hidden), Address::of);
        let b_input = Operand::f32(b_input, (n_rows, rank));
        let gb = Address::of_gradient(gradients.get_or_alloc_mut(&self.b)?);
        let scale = Factor::Host(self.scale);
        gpu.product(
            (n_out, rank, n_rows),
            gy.transposed(),
            b_input,
            scale,
            gb,
            Store::Add,
        )?;

        let g_hidden = gpu.scratch::<f32>(n_rows * rank)?;
        let g_hidden_at = Address::of(&g_hidden);
        let b = Operand::f32(Address::of_tensor(&self.b), (n_out, rank));
        gpu.product(
            (n_rows, rank, n_out),
            gy,
            b,
            scale,
            g_hidden_at,
            Store::Replace,
        )?;
        if let Some(gate) = &self.gate {
            let g_weights = Address::of_gradient(gradients.get_or_alloc_mut(&gate.weights)?);
            gate.add_gradient(gpu, Address::of(hidden), g_hidden_at, rank, g_weights)?;
            gate.apply(gpu, g_hidden_at, rank, g_hidden_at)?;
        }

        let dropped = self.dropped(gpu, x)?;
        let input = dropped.as_ref().map_or(Address::of_tensor(x), Address::of);
        let input = Operand::f32(input, (n_rows, n_in));
        let g_hidden_rows = Operand::f32(g_hidden_at, (n_rows, rank));
        let ga = Address::of_gradient(gradients.get_or_alloc_mut(&self.a)?);
        let one = Factor::Host(1.0);
        gpu.product(
            (rank, n_in, n_rows),
            g_hidden_rows.transposed(),
            input,
            one,
            ga,
            Store::Add,
        )?;
        if !with_input {
            return Ok(());
        }
        let gx = Address::of_gradient(gradients.get_or_alloc_mut(x)?);
        let a = Operand::f32(Address::of_tensor(&self.a), (rank, n_in));
        let shape = (n_rows, n_in, rank);
        match dropped {
            None => gpu.product(shape, g_hidden_rows, a, one, gx, Store::Add),
            // What was dropped is not needed any more: its place will do for its gradient.
            Some(dropped) => {
                let g_dropped = Address::of(&dropped);
                gpu.product(shape, g_hidden_rows, a, one, g_dropped, Store::Replace)?;
                self.drop_out(gpu, n_rows * n_in, g_dropped, gx, Store::Add)
            }
        }
    }
}

pub(super) fn linear<T: Tape<f32, Cuda>>(
    engine: &CudaEngine,
    x: Act<Cuda, T>,
    weight: &CudaWeight,
    low_rank: Option<LowRank<'_, CudaWeight, Act<Cuda, T>>>,
    residual: Option<Act<Cuda, T>>,
    input_gradient: InputGradient,
) -> Result<Act<Cuda, T>> {
    let gpu = engine.gpu.clone();
    let (x, mut tape) = x.split_tape();
    let (n_rows, n_in) = *x.shape();
    let n_out = weight.spec.n_rows;
    assert_eq!(n_in, weight.spec.n_cols, "width of a linear layer's input");

    let out = gpu.tensor(n_rows, n_out)?;
    let y = Address::of_tensor(&out);
    let mut residual_ghost = None;
    if let Some(residual) = residual {
        let (residual, residual_tape) = residual.split_tape();
        tape = tape.merge(residual_tape);
        assert_eq!(*residual.shape(), (n_rows, n_out), "shape of a residual");
        residual_ghost = Some(residual.ghost());
        gpu.copy(&residual, &out)?;
    }
    let into = if residual_ghost.is_some() {
        Store::Add
    } else {
        Store::Replace
    };
    let side = engine.activations(&x, weight, 1.0)?;
    side.times_transposed(&gpu, n_rows, weight, y, into)?;
    let mut saved = None;
    if let Some(low_rank) = low_rank {
        let (low_rank, gate_tape) = on_device(&gpu, low_rank, n_rows)?;
        tape = tape.merge(gate_tape);
        let hidden = low_rank.forward(&gpu, &x, y)?;
        saved = Some((low_rank, hidden));
    }

    if T::OWNS_TAPE {
        let (x_ghost, out_ghost, leaf) = (x.ghost(), out.ghost(), weight.leaf());
        let weight = weight.clone();
        // A frozen layer without a low-rank part does not have to keep its input alive.
        let x = (saved.is_some() || leaf.is_some()).then_some(x);
        tape.add_backward_op(move |gradients| {
            let mut taken = take_gradient!(gpu, gradients, out_ghost);
            let gy = taken.address()?;
            if input_gradient != InputGradient::Skip {
                let gx = Address::of_gradient(gradients.get_or_alloc_mut(&x_ghost)?);
                let into = match input_gradient {
                    InputGradient::Write => Store::Replace,
                    _ => Store::Add,
                };
                let side = Side::of_rows(&gpu, gy, (n_rows, n_out), &weight, 1.0)?;
                side.times(&gpu, n_rows, &weight, gx, into)?;
            }
            if let (Some(leaf), Some(x)) = (&leaf, &x) {
                let into = Address::of_gradient(gradients.get_or_alloc_mut(leaf)?);
                add_weight_gradient(&gpu, gy, Address::of_tensor(x), (n_rows, n_out, n_in), into)?;
            }
            if let (Some((low_rank, hidden)), Some(x)) = (&saved, &x) {
                let with_input = input_gradient != InputGradient::Skip;
                low_rank.backward(&gpu, x, hidden, gy, gradients, with_input)?;
            }
            match residual_ghost {
                // The last consumer in the forward pass is the first in the backward pass: nothing
                // is there yet.
                Some(residual) => taken.move_to(gradients.get_or_alloc_mut(&residual)?),
                None => Ok(()),
            }
        });
    }
    Ok(out.put_tape(tape))
}

/// The low-rank part with its gate on the device, and the tape of the gate.
fn on_device<T: Tape<f32, Cuda>>(
    gpu: &Gpu,
    low_rank: LowRank<'_, CudaWeight, Act<Cuda, T>>,
    n_tokens: usize,
) -> Result<(DeviceLowRank, T)> {
    let (gate, tape) = match low_rank.gate {
        None => (None, T::default()),
        Some(Gate { weights, rows }) => {
            let (weights, tape) = weights.split_tape();
            (
                Some(DeviceGate::new(gpu, Gate { weights, rows }, n_tokens)?),
                tape,
            )
        }
    };
    let leaf = |weight: &CudaWeight| weight.leaf().expect("matrices of an adapter are trained");
    let low_rank = DeviceLowRank {
        a: leaf(low_rank.a),
        b: leaf(low_rank.b),
        scale: low_rank.scale,
        dropout: low_rank.dropout,
        gate,
    };
    Ok((low_rank, tape))
}

/// `into[n_out, n_in] += gy[tokens, n_out]^T x[tokens, n_in]`.
pub(super) fn add_weight_gradient(
    gpu: &Gpu,
    gy: Address,
    x: Address,
    (n_rows, n_out, n_in): (usize, usize, usize),
    into: Address,
) -> Result<()> {
    let gy = Operand::f32(gy, (n_rows, n_out)).transposed();
    let x = Operand::f32(x, (n_rows, n_in));
    gpu.product(
        (n_out, n_in, n_rows),
        gy,
        x,
        Factor::Host(1.0),
        into,
        Store::Add,
    )
}

/// A tensor in f16, scaled by a power of two, and what a product with it is to be multiplied by.
pub(super) struct Half {
    values: CudaSlice<u16>,
    factor: CudaSlice<f32>,
    shape: (usize, usize),
}

impl Half {
    /// Of the `shape` values at `x`; products are to be multiplied by `factor`.
    pub(super) fn new(gpu: &Gpu, x: Address, shape: (usize, usize), factor: f32) -> Result<Self> {
        let n = shape.0 * shape.1;
        let most = gpu.zeros::<u32>(1)?;
        gpu.launch(
            "largest",
            Grid::elements(n),
            arguments![n, x, Address::of(&most)],
        )?;
        let half = Self {
            values: gpu.scratch(n)?,
            factor: gpu.scratch(1)?,
            shape,
        };
        let (values, factor_at) = (Address::of(&half.values), Address::of(&half.factor));
        gpu.launch(
            "scaled_half",
            Grid::elements(n),
            arguments![n, x, Address::of(&most), factor, values, factor_at],
        )?;
        Ok(half)
    }

    pub(super) fn operand(&self) -> Operand {
        Operand::new(
            Address::of(&self.values),
            super::device::Format::F16,
            self.shape,
        )
    }

    pub(super) fn factor(&self) -> Factor {
        Factor::Device(Address::of(&self.factor))
    }
}

/// The activation that was last brought to f16: q, k and v read the same one.
#[derive(Default)]
pub(super) struct LastHalf {
    /// Kept alive, so that no other tensor can have its address.
    source: Option<(Act<Cuda>, f32, Rc<Half>)>,
}

impl LastHalf {
    pub(super) fn of(&mut self, gpu: &Gpu, x: &Act<Cuda>, factor: f32) -> Result<Rc<Half>> {
        let at = Address::of_tensor(x);
        if let Some((source, of_factor, half)) = &self.source
            && Address::of_tensor(source) == at
            && *of_factor == factor
            && source.shape() == x.shape()
        {
            return Ok(half.clone());
        }
        // The old one goes first: its memory may be what the new one needs.
        self.source = None;
        let half = Rc::new(Half::new(gpu, at, *x.shape(), factor)?);
        self.source = Some((x.clone(), factor, half.clone()));
        Ok(half)
    }
}
