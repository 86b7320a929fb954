//! What a learning step costs beside its gradient, over as many parameters as LoRA r 8 on q and v
//! of a small T5 has.
//!
//!     cargo bench -p kif-runner

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use kif_fusion::{FusionWeights, Update, delta, fuse_masked};
use kif_importance::{Scope, Sensitivity, SensitivityConfig, mask_above_quantile};
use kif_methods::{AdamW, OptimizerConfig};

const N_PARAMS: usize = 294_912;

/// Arbitrary values in [-0.5, 0.5).
fn values(offset: usize) -> Vec<f32> {
    (0..N_PARAMS)
        .map(|i| ((i + offset) * 7919 % 100_003) as f32 / 100_003.0 - 0.5)
        .collect()
}

fn method(c: &mut Criterion) {
    let mut group = c.benchmark_group("294,912 parameters");
    group.throughput(Throughput::Elements(N_PARAMS as u64));
    let (mut params, grads, others) = (values(0), values(1), values(4));
    let mut adamw = AdamW::new(&OptimizerConfig::default(), N_PARAMS);
    group.bench_function("adamw", |b| {
        b.iter(|| adamw.step(&mut params, black_box(&grads), 1e-4));
    });
    for (name, uncertainty_beta) in [("paper", None), ("released", Some(0.85))] {
        let config = SensitivityConfig {
            sensitivity_beta: 0.55,
            uncertainty_beta,
        };
        let mut average = Sensitivity::new(config, N_PARAMS);
        // Gradients in turns: with equal ones the uncertainty would fade into numbers that are slow
        // to multiply.
        let mut gradients = [&grads, &others].into_iter().cycle();
        group.bench_function(format!("sensitivity, {name}"), |b| {
            b.iter(|| average.update(&params, black_box(gradients.next().expect("no end"))));
        });
    }
    let scores: Vec<f32> = values(2).iter().map(|x| x.abs()).collect();
    group.bench_function("mask above the 0.8 quantile", |b| {
        b.iter(|| {
            mask_above_quantile(black_box(&scores), 0.8, &Scope::Global).expect("finite scores")
        });
    });
    let mask = mask_above_quantile(&scores, 0.8, &Scope::Global).expect("finite scores");
    let (end, mut update) = (values(3), vec![0.0; N_PARAMS]);
    group.bench_function("delta", |b| {
        b.iter(|| delta(black_box(&end), &params, &mut update))
    });
    let mut theta = params.clone();
    group.bench_function("masked fusion", |b| {
        let part = Update {
            delta: &update,
            mask: mask.as_slice(),
        };
        b.iter(|| fuse_masked(&mut theta, black_box(part), part, &FusionWeights::PAPER));
    });
    group.finish();
}

/// In place of criterion's macros, whose public function has no documentation.
fn main() {
    let mut c = Criterion::default().configure_from_args();
    method(&mut c);
    c.final_summary();
}
