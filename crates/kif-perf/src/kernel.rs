//! Rates of the packed products beside the `gemm` crate's.

use std::time::Instant;

use anyhow::Result;
use kif_kernels::{
    InstructionSet, MatMut, MatRef, PackedWeight, Precision, gemm, instruction_set,
    with_instruction_set,
};
use serde_json::{Value, json};

/// Arguments of `kif-perf kernel`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Extents of products: rows,inner,columns
    #[arg(value_name = "M,K,N", value_parser = extents)]
    products: Vec<[usize; 3]>,
    /// Seconds for each kind of product
    #[arg(long, value_name = "S", default_value_t = 0.5)]
    seconds: f64,
}

/// Products of a small T5: rows, inner extent, columns.
const PRODUCTS: [[usize; 3]; 7] = [
    [1024, 512, 512],
    [1024, 2048, 512],
    [1024, 512, 2048],
    [64, 512, 32128],
    [64, 32128, 512],
    [64, 512, 512],
    [8, 512, 512],
];

fn extents(text: &str) -> Result<[usize; 3], String> {
    let numbers: Result<Vec<usize>, _> = text.split(',').map(str::parse).collect();
    match numbers.as_deref() {
        Ok(&[m, k, n]) if m > 0 && k > 0 && n > 0 => Ok([m, k, n]),
        _ => Err("expected rows,inner,columns, such as 1024,512,512".into()),
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let products = if arguments.products.is_empty() {
        &PRODUCTS
    } else {
        &arguments.products[..]
    };
    let rates: Vec<Value> = products
        .iter()
        .map(|&product| rates_of(product, arguments.seconds))
        .collect();
    let line = json!({
        "threads": rayon::current_num_threads(),
        "instruction_set": format!("{:?}", instruction_set()),
        "gflops_best_and_median": rates,
    });
    println!("{line}");
    Ok(())
}

fn rates_of([n_rows, n_in, n_out]: [usize; 3], seconds: f64) -> Value {
    let x: Vec<f32> = (0..n_rows * n_in).map(|i| (i % 17) as f32 - 8.0).collect();
    let w: Vec<f32> = (0..n_out * n_in).map(|i| (i % 13) as f32 - 6.0).collect();
    let mut y = vec![0.0; n_rows * n_out];
    let operations = 2.0 * (n_rows * n_in * n_out) as f64;
    let mut packed = |set, precision| {
        let weight = PackedWeight::pack(&w, n_out, n_in, precision);
        with_instruction_set(set, || {
            rates(operations, seconds, || {
                weight.forward(n_rows, &x, &mut y, false)
            })
        })
    };
    let best = instruction_set();
    let (f32, bf16) = (packed(best, Precision::F32), packed(best, Precision::Bf16));
    let int8 = packed(best, Precision::Int8);
    let avx2 = packed(best.min(InstructionSet::Avx2), Precision::F32);
    let gemm_crate = rates(operations, seconds, || {
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
    json!({
        "rows": n_rows, "inner": n_in, "columns": n_out,
        "f32": f32, "bf16": bf16, "int8": int8, "avx2": avx2, "gemm_crate": gemm_crate,
    })
}

/// Billions of operations (two per multiplication) per second: of the best call and of the median
/// one.
fn rates(operations: f64, seconds: f64, mut f: impl FnMut()) -> [f64; 2] {
    let (start, mut calls) = (Instant::now(), Vec::new());
    while start.elapsed().as_secs_f64() < seconds {
        let call = Instant::now();
        f();
        calls.push(call.elapsed().as_secs_f64());
    }
    calls.sort_by(f64::total_cmp);
    [calls[0], calls[calls.len() / 2]].map(|call| (operations / call / 1e8).round() / 10.0)
}
