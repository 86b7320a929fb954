//! `kif-perf`: one measurement a process, one line of JSON on standard output.
//!
//! A process of its own for each, so that its largest resident memory is the work's; `cargo xtask
//! perf` starts them, beside the peers of `peer/`, and makes the tables. `RAYON_NUM_THREADS` sets
//! the threads.

mod base;
mod generate;
mod kernel;
mod random_files;
mod round;
mod rounding;
mod rows;
mod score;
mod shape;
mod step;
mod work;

use anyhow::Result;
use clap::{Parser, Subcommand};
use kif_io::process;

/// Measure one kind of work and print one line of JSON.
#[derive(Parser)]
#[command(name = "kif-perf")]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Rates of matrix products in GFLOP/s, best and median call
    Kernel(kernel::Arguments),
    /// Seconds of training steps: gradient, clipping, AdamW
    Step(step::Arguments),
    /// Seconds of rounds of Recurrent-KIF beside as many bare steps
    Round(round::Arguments),
    /// Seconds of answering the rows of a file
    Score(score::Arguments),
    /// Seconds of continuing the prompts of a file by a fixed number of tokens
    Generate(generate::Arguments),
    /// How far predictions with `--precision` are from those in f32, on the first batch
    Rounding(rounding::Arguments),
    /// Write the rows of a file as the ids that a model reads
    Rows(rows::Arguments),
    /// Write a base with random weights in Hugging Face layout
    Base(shape::Arguments),
}

fn main() -> Result<()> {
    // As `kif` does.
    process::keep_freed_memory();
    process::start_threads(None)?;
    match Cli::parse().what {
        What::Kernel(arguments) => kernel::run(&arguments),
        What::Step(arguments) => step::run(&arguments),
        What::Round(arguments) => round::run(&arguments),
        What::Score(arguments) => score::run(&arguments),
        What::Generate(arguments) => generate::run(&arguments),
        What::Rounding(arguments) => rounding::run(&arguments),
        What::Rows(arguments) => rows::run(&arguments),
        What::Base(arguments) => shape::run(&arguments),
    }
}
