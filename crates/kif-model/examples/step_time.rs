//! Time of one LoRA training step (loss and gradient) of a T5-small-shaped model with random weights.
//!
//!     cargo run --release -p kif-model --example step_time -- [--steps 15] [--precision f32|bf16] [--dropout 0.05]
//!
//! Width 512, 6 + 6 layers, 8 heads of 64, feed-forward 2048, vocabulary 32128; 8 rows of 128 input and 8 target
//! tokens; r 8 on q and v. `RAYON_NUM_THREADS` sets the threads. `torch_step.py` beside this file does the same in
//! PyTorch. Prints one JSON line: milliseconds (minimum and median of the steps after two to warm up), loss, peak
//! memory in MiB.

use std::time::Instant;

use kif_data::{Batch, Encoded};
use kif_model::{Dropout, LoraConfig, ModelConfig, ModelOptions, Precision, T5Config, Trainable};

fn option(name: &str) -> Option<String> {
    let mut args = std::env::args().skip_while(|arg| arg != name);
    args.next().and_then(|_| args.next())
}

fn main() {
    let steps: usize = option("--steps").map_or(15, |n| n.parse().expect("--steps is a number"));
    let precision = match option("--precision").as_deref() {
        None | Some("f32") => Precision::F32,
        Some("bf16") => Precision::Bf16,
        Some(other) => panic!("--precision {other} is neither f32 nor bf16"),
    };
    let dropout = option("--dropout").map(|p| Dropout {
        p: p.parse().expect("--dropout is a number"),
        key: [1; 32],
    });

    let config = ModelConfig::T5(T5Config::default());
    let weights = kif_model::random_weights(&config, 1);
    let options = ModelOptions {
        precision,
        ..ModelOptions::cpu(Trainable::Adapter(LoraConfig::default()))
    };
    let mut model =
        kif_model::from_parts(&config, weights, &options).expect("a model of random weights");
    // B of a fresh adapter is zero; a trained one is not.
    let params: Vec<f32> = model
        .params()
        .iter()
        .enumerate()
        .map(|(i, p)| p + 1e-3 * (i % 7) as f32)
        .collect();
    model.set_params(&params).expect("as many parameters");

    let row = |r: u32| Encoded {
        input_ids: (0..128)
            .map(|i| (r * 7919 + i * 104_729) % 32_000 + 10)
            .collect(),
        target_ids: (0..8).map(|i| (r * 31 + i * 1009) % 32_000 + 10).collect(),
        cut: false,
    };
    let rows: Vec<Encoded> = (0..8).map(row).collect();
    let batch = Batch::from_rows(&rows);
    let mut grad = vec![0.0; params.len()];
    let mut times = Vec::new();
    let mut loss = 0.0;
    for _ in 0..steps + 2 {
        grad.fill(0.0);
        let start = Instant::now();
        let pass = model
            .loss_and_grad(&batch, 1.0 / 64.0, dropout, &mut grad)
            .expect("a loss");
        times.push(start.elapsed().as_secs_f64() * 1e3);
        loss = pass.nll / pass.n_tokens as f64;
    }
    let mut times = times.split_off(2);
    times.sort_by(f64::total_cmp);
    println!(
        "{{\"threads\": {}, \"min_ms\": {:.1}, \"median_ms\": {:.1}, \"loss\": {loss:.5}, \"peak_mib\": {}}}",
        rayon::current_num_threads(),
        times[0],
        times[times.len() / 2],
        peak_mib()
    );
}

/// `VmHWM` of this process in MiB; 0 where the system does not tell.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .unwrap_or(0)
        / 1024
}
