//! Every kernel on the extents of a small T5: 8 rows of 128 tokens, width 512, 8 heads of
//! 64, feed-forward 2048.
//!
//!     cargo bench -p kif-kernels

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use kif_kernels::*;

const N_ROWS: usize = 1024;
const WIDTH: usize = 512;
const N_HEADS: usize = 8;
const FF: usize = 2048;
const VOCAB: usize = 32128;

/// Arbitrary values in [-0.5, 0.5).
fn values(n: usize) -> Vec<f32> {
    (0..n)
        .map(|i| (i * 7919 % 1000) as f32 / 1000.0 - 0.5)
        .collect()
}

fn packed(c: &mut Criterion) {
    for (n_rows, n_in, n_out) in [
        (N_ROWS, WIDTH, WIDTH),
        (N_ROWS, WIDTH, FF),
        (N_ROWS, FF, WIDTH),
        (64, WIDTH, WIDTH),
    ] {
        let mut group = c.benchmark_group(format!("packed {n_rows} x {n_in} x {n_out}"));
        // Two operations for each multiplication.
        group.throughput(Throughput::Elements(2 * (n_rows * n_in * n_out) as u64));
        let (x, w, gy) = (
            values(n_rows * n_in),
            values(n_out * n_in),
            values(n_rows * n_out),
        );
        let (mut y, mut gx) = (vec![0.0; gy.len()], vec![0.0; x.len()]);
        for precision in [Precision::F32, Precision::Bf16] {
            let weight = PackedWeight::pack(&w, n_out, n_in, precision);
            group.bench_function(format!("forward {precision:?}"), |b| {
                b.iter(|| weight.forward(n_rows, black_box(&x), &mut y, false));
            });
            group.bench_function(format!("backward {precision:?}"), |b| {
                b.iter(|| weight.backward(n_rows, black_box(&gy), &mut gx, false));
            });
        }
        group.bench_function("gemm crate", |b| {
            let (x, w) = (
                MatRef::row_major(&x, n_rows, n_in),
                MatRef::row_major(&w, n_out, n_in),
            );
            b.iter(|| {
                gemm(
                    1.0,
                    black_box(x),
                    w.transposed(),
                    0.0,
                    MatMut::row_major(&mut y, n_rows, n_out),
                    true,
                )
            });
        });
        group.finish();
    }
    let mut weight = PackedWeight::pack(&values(WIDTH * 8), 8, WIDTH, Precision::F32);
    let adapter = values(WIDTH * 8);
    c.bench_function("repack 8 x 512", |b| {
        b.iter(|| weight.repack(black_box(&adapter)))
    });
}

fn attention_of_a_batch(c: &mut Criterion) {
    let spans: Vec<Span> = (0..8)
        .map(|i| Span {
            start: i * 128,
            len: 128,
        })
        .collect();
    let by_distance = values(N_HEADS * 255);
    let shape = AttentionShape {
        queries: &spans,
        keys: &spans,
        n_heads: N_HEADS,
        n_kv_heads: N_HEADS,
        head_dim: WIDTH / N_HEADS,
        scale: 1.0,
        causal: false,
        window: None,
        bias: Some(RelativeBias {
            by_distance: &by_distance,
            min_distance: -127,
        }),
        saved_keys: 128,
    };
    let n = N_ROWS * WIDTH;
    let (q, k, v, gy) = (values(n), values(n), values(n), values(n));
    let (mut y, mut probs) = (vec![0.0; n], Vec::new());
    c.bench_function("attention forward", |b| {
        b.iter(|| attention(black_box(&q), &k, &v, shape, &mut y, Some(&mut probs)));
    });
    let (mut gq, mut gk, mut gv) = (vec![0.0; n], vec![0.0; n], vec![0.0; n]);
    c.bench_function("attention backward", |b| {
        b.iter(|| {
            attention_backward(
                black_box(&q),
                &k,
                &v,
                shape,
                &probs,
                &gy,
                &mut gq,
                &mut gk,
                &mut gv,
                None,
            );
        });
    });
}

fn elementwise(c: &mut Criterion) {
    let (x, gain) = (values(N_ROWS * WIDTH), values(WIDTH));
    let (mut y, mut inv_rms) = (vec![0.0; x.len()], vec![0.0; N_ROWS]);
    c.bench_function("rms_norm forward", |b| {
        b.iter(|| rms_norm(black_box(&x), &gain, 1e-6, &mut y, &mut inv_rms));
    });
    c.bench_function("rms_norm backward", |b| {
        b.iter(|| rms_norm_backward(black_box(&x), &gain, &inv_rms, &x, &mut y, None));
    });
    c.bench_function("dropout", |b| {
        b.iter(|| dropout(black_box(&x), WIDTH, 0.05, [1; 32], 0, &mut y));
    });
    let (gate, up) = (values(N_ROWS * FF), values(N_ROWS * FF));
    let (mut y, mut g_up) = (vec![0.0; gate.len()], vec![0.0; gate.len()]);
    c.bench_function("relu forward", |b| {
        b.iter(|| relu(black_box(&gate), &mut y))
    });
    c.bench_function("relu backward", |b| {
        b.iter(|| relu_backward(black_box(&gate), &up, &mut y));
    });
    c.bench_function("gated_gelu forward", |b| {
        b.iter(|| gated_gelu(black_box(&gate), &up, &mut y));
    });
    c.bench_function("gated_gelu backward", |b| {
        b.iter(|| gated_gelu_backward(black_box(&gate), &up, &gate, &mut y, &mut g_up));
    });
}

fn output(c: &mut Criterion) {
    let head = PackedWeight::pack(&values(VOCAB * WIDTH), VOCAB, WIDTH, Precision::F32);
    let x = values(64 * WIDTH);
    let targets: Vec<u32> = (0..64).collect();
    let mut gx = vec![0.0; x.len()];
    c.bench_function("linear_cross_entropy", |b| {
        b.iter(|| linear_cross_entropy(black_box(&x), &head, &targets, Some(&mut gx)));
    });
    let logits = values(VOCAB);
    c.bench_function("argmax", |b| b.iter(|| argmax(black_box(&logits))));
}

/// In place of criterion's macros, whose public function has no documentation.
fn main() {
    let mut c = Criterion::default().configure_from_args();
    packed(&mut c);
    attention_of_a_batch(&mut c);
    elementwise(&mut c);
    output(&mut c);
    c.final_summary();
}
