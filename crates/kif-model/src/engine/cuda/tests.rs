//! Every operation against the CPU's: losses and the gradient of everything trained, on random
//! ragged shapes.
//!
//! Inputs are rows of trained tables, so that their gradients can be read through the border of the
//! engine, too.

use dfdx::prelude::{Backward, HasShape, Merge, OwnedTape, PutTape, SplitTape, WithEmptyTape};
use kif_data::chance::{Purpose, below, key, stream, uniform};
use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;

use super::CudaEngine;
use crate::engine::fused::Fused;
use crate::engine::{
    Act, Angles, Attention, Engine, Gate, InputGradient, LowRank, PositionBias, Role, Span,
    WeightSpec,
};
use crate::files::Values;
use crate::{Dropout, ModelError, Precision};

type Taped<E> = Act<<E as Engine>::Device, OwnedTape<f32, <E as Engine>::Device>>;

const VOCAB: usize = 37;

#[derive(Clone, Copy, Debug)]
enum Operation {
    Norm,
    Relu,
    GatedGelu,
    Linear,
    LowRank,
    GatedLowRank,
    SelfAttention,
    CrossAttention,
    TrainedHead,
    Divergence,
    MoreRows,
    GatedSilu,
    HeadNorm,
    Bias,
    Rotation,
    Selection,
    GroupedAttention,
    WindowedAttention,
    Sum,
    Multiple,
    Repetition,
}

const OPERATIONS: [Operation; 21] = [
    Operation::Norm,
    Operation::Relu,
    Operation::GatedGelu,
    Operation::Linear,
    Operation::LowRank,
    Operation::GatedLowRank,
    Operation::SelfAttention,
    Operation::CrossAttention,
    Operation::TrainedHead,
    Operation::Divergence,
    Operation::MoreRows,
    Operation::GatedSilu,
    Operation::HeadNorm,
    Operation::Bias,
    Operation::Rotation,
    Operation::Selection,
    Operation::GroupedAttention,
    Operation::WindowedAttention,
    Operation::Sum,
    Operation::Multiple,
    Operation::Repetition,
];

/// An engine, its trained weights in the order in which they were made, and the chance that they
/// come from.
struct Bench<'a, E: Engine> {
    engine: &'a E,
    rng: ChaCha8Rng,
    trained: Vec<(E::Weight, usize)>,
}

impl<'a, E: Engine> Bench<'a, E> {
    fn new(engine: &'a E, seed: u64) -> Self {
        Self {
            engine,
            rng: stream(seed, Purpose::Fixture, 0, 0),
            trained: Vec::new(),
        }
    }

    fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| uniform(&mut self.rng) - 0.5).collect()
    }

    fn frozen(
        &mut self,
        n_rows: usize,
        n_cols: usize,
        role: Role,
    ) -> Result<E::Weight, ModelError> {
        let spec = WeightSpec {
            n_rows,
            n_cols,
            role,
            trainable: false,
        };
        let values = self.values(n_rows * n_cols);
        self.engine.weight(Values::Memory(values), spec)
    }

    /// The place of a new trained weight.
    fn trained(&mut self, n_rows: usize, n_cols: usize, role: Role) -> Result<usize, ModelError> {
        let spec = WeightSpec {
            n_rows,
            n_cols,
            role,
            trainable: true,
        };
        let values = self.values(n_rows * n_cols);
        let weight = self.engine.weight(Values::Memory(values), spec)?;
        self.trained.push((weight, n_rows * n_cols));
        Ok(self.trained.len() - 1)
    }

    fn weight(&self, place: usize) -> &E::Weight {
        &self.trained[place].0
    }

    /// A new input `[n_rows, width]` on a tape.
    fn input(&mut self, n_rows: usize, width: usize) -> Result<Taped<E>, ModelError> {
        let table = self.trained(n_rows, width, Role::Table)?;
        let ids: Vec<u32> = (0..n_rows as u32).collect();
        self.engine.embed(self.weight(table), None, &ids)
    }

    fn ids(&mut self, n: usize, below_id: usize) -> Vec<u32> {
        (0..n)
            .map(|_| below(&mut self.rng, below_id) as u32)
            .collect()
    }
}

/// Losses and gradients of an operation whose output is compared with random tokens.
fn outcome<E: Engine>(
    engine: &E,
    operation: Operation,
    seed: u64,
) -> Result<Vec<Vec<f32>>, ModelError> {
    let mut bench = Bench::new(engine, seed);
    let lens: Vec<usize> = (0..1 + below(&mut bench.rng, 3))
        .map(|_| 1 + below(&mut bench.rng, 9))
        .collect();
    let (n_heads, head_dim) = (
        1 + below(&mut bench.rng, 3),
        2 + 2 * below(&mut bench.rng, 3),
    );
    let (n, width) = (lens.iter().sum::<usize>(), n_heads * head_dim);
    let (write, add) = (InputGradient::Write, InputGradient::Add);
    let spans = |lens: &[usize]| -> Vec<Span> {
        let mut start = 0;
        let span = |&len: &usize| {
            start += len;
            Span {
                start: start - len,
                len,
            }
        };
        lens.iter().map(span).collect()
    };
    let x = bench.input(n, width)?;
    let y: Taped<E> = match operation {
        Operation::TrainedHead | Operation::Divergence => x,
        Operation::Norm => {
            let gain = bench.trained(1, width, Role::Elements)?;
            engine.rms_norm(x, bench.weight(gain), 1e-6)?
        }
        Operation::Relu => engine.relu(x)?,
        Operation::GatedGelu => {
            let up = bench.input(n, width)?;
            engine.gated_gelu(x, up)?
        }
        Operation::Linear => {
            let (trained, frozen) = (
                bench.trained(width, width, Role::Product)?,
                bench.frozen(width, width, Role::Product)?,
            );
            let one = engine.linear(x.with_empty_tape(), bench.weight(trained), None, None, add)?;
            let residual = engine.linear(x, &frozen, None, None, write)?;
            let last = bench.frozen(width, width, Role::Product)?;
            engine.linear(one, &last, None, Some(residual), write)?
        }
        Operation::LowRank | Operation::GatedLowRank => {
            let w = bench.frozen(width, width, Role::Product)?;
            let (a, b) = (
                bench.trained(4, width, Role::Product)?,
                bench.trained(width, 4, Role::Product)?,
            );
            let gate = if matches!(operation, Operation::GatedLowRank) {
                let weights = bench.input(3, 2)?;
                let rows: Vec<usize> = bench.ids(n, 3).iter().map(|&row| row as usize).collect();
                Some(Gate {
                    weights,
                    rows: Some(rows.into()),
                })
            } else {
                None
            };
            let dropout = Dropout {
                p: 0.3,
                key: key(seed, Purpose::Dropout, 0, 0),
            };
            let low_rank = LowRank {
                a: bench.weight(a),
                b: bench.weight(b),
                scale: 1.7,
                dropout: Some((dropout, 3)),
                gate,
            };
            engine.linear(x, &w, Some(low_rank), None, write)?
        }
        Operation::SelfAttention => {
            let (k, v) = (bench.input(n, width)?, bench.input(n, width)?);
            let shape = attention(spans(&lens), spans(&lens), (n_heads, head_dim), true);
            let table = bench.trained(4, n_heads, Role::Elements)?;
            let far = lens.iter().max().copied().unwrap_or(1) as isize - 1;
            let buckets: Vec<usize> = (-far..=far).map(|d| d.unsigned_abs() % 4).collect();
            let bias = PositionBias {
                table: bench.weight(table),
                buckets: &buckets,
                min_distance: -far,
            };
            engine.attention(x, k, v, &shape, Some(bias))?
        }
        Operation::CrossAttention => {
            let key_lens: Vec<usize> = lens.iter().map(|len| 2 * len + 1).collect();
            let n_keys = key_lens.iter().sum();
            let (k, v) = (bench.input(n_keys, width)?, bench.input(n_keys, width)?);
            let shape = attention(spans(&lens), spans(&key_lens), (n_heads, head_dim), false);
            engine.attention(x, k, v, &shape, None)?
        }
        Operation::GatedSilu => {
            let up = bench.input(n, width)?;
            engine.gated_silu(x, up)?
        }
        Operation::HeadNorm => {
            let gain = bench.trained(1, head_dim, Role::Elements)?;
            engine.head_norm(x, bench.weight(gain), 1e-6)?
        }
        Operation::Bias => {
            let bias = bench.trained(1, width, Role::Elements)?;
            engine.add_bias(x, bench.weight(bias))?
        }
        Operation::Rotation => {
            let angles: Vec<f32> = bench.values(n * head_dim / 2);
            let angles = Angles {
                cos: angles.iter().map(|angle| angle.cos()).collect(),
                sin: angles.iter().map(|angle| angle.sin()).collect(),
                half: head_dim / 2,
            };
            engine.rotate(x, &angles)?
        }
        Operation::Selection => {
            let rows: Vec<usize> = (0..n).rev().step_by(2).collect();
            engine.select(x, &rows)?
        }
        Operation::Repetition => {
            let rows: Vec<usize> = bench
                .ids(2 * n, n)
                .iter()
                .map(|&row| row as usize)
                .collect();
            engine.repeat(x, &rows)?
        }
        Operation::GroupedAttention => {
            let (k, v) = (bench.input(n, head_dim)?, bench.input(n, head_dim)?);
            let shape = Attention {
                n_kv_heads: 1,
                ..attention(spans(&lens), spans(&lens), (n_heads, head_dim), true)
            };
            engine.attention(x, k, v, &shape, None)?
        }
        Operation::WindowedAttention => {
            let (k, v) = (bench.input(n, width)?, bench.input(n, width)?);
            let shape = Attention {
                window: Some(1 + below(&mut bench.rng, 4)),
                ..attention(spans(&lens), spans(&lens), (n_heads, head_dim), true)
            };
            engine.attention(x, k, v, &shape, None)?
        }
        Operation::Sum => {
            let frozen = bench.frozen(width, width, Role::Product)?;
            let other = engine.linear(x.with_empty_tape(), &frozen, None, None, add)?;
            engine.add(x, other)?
        }
        Operation::Multiple => engine.scale(x, 1.7)?,
        Operation::MoreRows => {
            let (table, more) = (
                bench.trained(5, width, Role::Table)?,
                bench.trained(3, width, Role::Table)?,
            );
            let ids = bench.ids(n, 8);
            engine.embed(bench.weight(table), Some(bench.weight(more)), &ids)?
        }
    };
    let n = y.shape().0;
    let head = match operation {
        Operation::TrainedHead => bench.trained(VOCAB, width, Role::Head)?,
        // The last one in the list is none of a gradient.
        _ => {
            let head = bench.frozen(VOCAB, width, Role::TableAndHead)?;
            bench.trained.push((head, 0));
            bench.trained.len() - 1
        }
    };
    let (loss, losses) = match operation {
        Operation::Divergence => {
            // Far enough from what the model says: a small divergence is all rounding.
            let mut log_q: Vec<f32> = bench.values(n * VOCAB).iter().map(|x| 6.0 * x).collect();
            for row in log_q.chunks_exact_mut(VOCAB) {
                let log_sum = row.iter().map(|x| x.exp()).sum::<f32>().ln();
                row.iter_mut().for_each(|x| *x -= log_sum);
            }
            engine.divergence(y, bench.weight(head), 0.9, &log_q, 0.7)?
        }
        _ => {
            let targets = bench.ids(n, VOCAB);
            engine.cross_entropy(y, bench.weight(head), 0.9, &targets, 0.7)?
        }
    };
    let (loss, tape) = loss.split_tape();
    let loss = loss.put_tape(tape.merge(OwnedTape::default()));
    let mut gradients = loss.try_backward().map_err(crate::engine::device_error)?;
    let mut outcome = vec![losses];
    for (weight, n) in bench.trained.iter().filter(|(_, n)| *n > 0) {
        let mut gradient = vec![0.0; *n];
        engine.add_gradient(weight, &mut gradients, &mut gradient)?;
        outcome.push(gradient);
    }
    Ok(outcome)
}

fn attention(
    queries: Vec<Span>,
    keys: Vec<Span>,
    (n_heads, head_dim): (usize, usize),
    causal: bool,
) -> Attention {
    Attention {
        queries,
        keys,
        n_heads,
        n_kv_heads: n_heads,
        head_dim,
        scale: 0.8,
        causal,
        window: None,
    }
}

/// `|a - b|` over the larger of `|b|` and a thousandth.
fn difference(a: &[f32], b: &[f32]) -> f32 {
    let norm = |values: Vec<f32>| values.iter().map(|x| x * x).sum::<f32>().sqrt();
    let gap = norm(a.iter().zip(b).map(|(a, b)| a - b).collect());
    gap / norm(b.to_vec()).max(1e-3)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn operations_are_those_of_the_cpu(seed in any::<u64>()) {
        thread_local! {
            static CUDA: CudaEngine = CudaEngine::new(Precision::F32).unwrap();
        }
        let cpu = Fused::new(kif_kernels::Precision::F32);
        for operation in OPERATIONS {
            let here = outcome(&cpu, operation, seed).unwrap();
            let there = CUDA.with(|cuda| outcome(cuda, operation, seed)).unwrap();
            for (i, (there, here)) in there.iter().zip(&here).enumerate() {
                let difference = difference(there, here);
                prop_assert!(difference < 2e-5, "{:?}, {}: {:e}\n{:?}\n{:?}", operation, i, difference, there, here);
            }
        }
    }

    /// Weights and inputs are rounded to f16, and products of f32 to TF32.
    #[test]
    fn operations_in_half_are_close(seed in any::<u64>()) {
        thread_local! {
            static CUDA: CudaEngine = CudaEngine::new(Precision::F16).unwrap();
        }
        let cpu = Fused::new(kif_kernels::Precision::F32);
        for operation in OPERATIONS {
            let here = outcome(&cpu, operation, seed).unwrap();
            let there = CUDA.with(|cuda| outcome(cuda, operation, seed)).unwrap();
            for (there, here) in there.iter().zip(&here) {
                let difference = difference(there, here);
                prop_assert!(difference < 1e-2, "{:?}: {:e}", operation, difference);
            }
        }
    }
}

#[test]
fn weights_too_large_for_half_are_refused() {
    let engine = CudaEngine::new(Precision::F16).unwrap();
    let spec = WeightSpec {
        n_rows: 1,
        n_cols: 2,
        role: Role::Product,
        trainable: false,
    };
    let error = engine
        .weight(Values::Memory(vec![1.0, 7e4]), spec)
        .map(|_| ())
        .unwrap_err();
    assert!(error.to_string().contains("value 1"), "{error}");
}

/// Hidden states of T5 leave f16's range, and gradients of long batches fall below it.
#[test]
fn huge_and_tiny_operands_keep_their_digits_in_half() {
    let engine = CudaEngine::new(Precision::F16).unwrap();
    for size in [1e-12f32, 1e-6, 1.0, 1e6, 1e12] {
        let values: Vec<f32> = (1..=64).map(|i| size * i as f32).collect();
        let spec = WeightSpec {
            n_rows: 1,
            n_cols: 64,
            role: Role::Product,
            trainable: false,
        };
        let weight = engine.weight(Values::Memory(vec![1.0; 64]), spec).unwrap();
        let x = engine.upload(values, (1, 64)).unwrap();
        let sum = engine.logits(x, &weight, 0.5).unwrap()[0];
        let expected = 0.5 * size * 2080.0;
        assert!(
            (sum / expected - 1.0).abs() < 1e-3,
            "{sum} instead of {expected}"
        );
    }
}
