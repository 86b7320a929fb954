//! Rates of the packed products beside the `gemm` crate's, for the extents of a small T5.
//!
//! `cargo run --release -p kif-kernels --example gemm_rate`, with `RAYON_NUM_THREADS` and `KIF_CPU` as wanted. Prints
//! billions of operations (two per multiplication) per second, the best of many calls and their median, which differ by
//! what else the processor has to do; extents of one's own may follow as arguments: `rows,inner,columns ...`.

use kif_kernels::{MatMut, MatRef, PackedWeight, Precision, gemm, instruction_set};
use std::time::Instant;

/// Rows, inner extent, columns.
const PRODUCTS: [(usize, usize, usize); 8] = [
    (1024, 512, 512),
    (1024, 2048, 512),
    (1024, 512, 2048),
    (64, 512, 32128),
    (64, 32128, 512),
    (8, 512, 512),
    (1024, 512, 8),
    (1024, 8, 512),
];

fn main() {
    println!(
        "{:?}, {} threads, GFLOP/s",
        instruction_set(),
        rayon::current_num_threads()
    );
    println!(
        "{:>20} {:>13} {:>13} {:>13}",
        "rows x inner x cols", "f32", "bf16", "gemm"
    );
    let wanted: Vec<_> = std::env::args().skip(1).map(|arg| extents(&arg)).collect();
    for (n_rows, n_in, n_out) in if wanted.is_empty() {
        PRODUCTS.to_vec()
    } else {
        wanted
    } {
        let x: Vec<f32> = (0..n_rows * n_in).map(|i| (i % 17) as f32 - 8.0).collect();
        let w: Vec<f32> = (0..n_out * n_in).map(|i| (i % 13) as f32 - 6.0).collect();
        let mut y = vec![0.0; n_rows * n_out];
        let operations = 2.0 * (n_rows * n_in * n_out) as f64;
        let packed = [Precision::F32, Precision::Bf16].map(|precision| {
            let weight = PackedWeight::pack(&w, n_out, n_in, precision);
            rates(operations, || weight.forward(n_rows, &x, &mut y, false))
        });
        let plain = rates(operations, || {
            let (x, w) = (
                MatRef::row_major(&x, n_rows, n_in),
                MatRef::row_major(&w, n_out, n_in),
            );
            gemm(
                1.0,
                x,
                w.transposed(),
                0.0,
                MatMut::row_major(&mut y, n_rows, n_out),
                true,
            );
        });
        let extents = format!("{n_rows} x {n_in} x {n_out}");
        println!("{extents:>20} {} {} {plain}", packed[0], packed[1]);
    }
}

fn extents(arg: &str) -> (usize, usize, usize) {
    let numbers: Vec<usize> = arg
        .split(',')
        .map(|n| n.parse().expect("a number"))
        .collect();
    let [rows, inner, columns] = numbers[..] else {
        panic!("{arg} is not rows,inner,columns")
    };
    (rows, inner, columns)
}

/// Billions of operations per second, best and median of the calls within about a second.
fn rates(operations: f64, mut f: impl FnMut()) -> String {
    let (start, mut calls) = (Instant::now(), Vec::new());
    while start.elapsed().as_secs_f64() < 1.0 {
        let call = Instant::now();
        f();
        calls.push(call.elapsed().as_secs_f64());
    }
    calls.sort_by(f64::total_cmp);
    let rate = |seconds: f64| operations / seconds / 1e9;
    format!(
        "{:6.1} {:6.1}",
        rate(calls[0]),
        rate(calls[calls.len() / 2])
    )
}
