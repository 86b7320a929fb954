//! The commands of `kif`: one file each, arguments first, then what they do.

mod bench;
mod check;
mod common;
mod doctor;
mod import;
mod inspect;
mod learn;
mod merge;
mod metrics;
mod perf;
mod pretrain;
mod report;
mod reproduction;
mod score;
mod selftest;

use anyhow::Result;
use clap::{Parser, Subcommand};
use kif_io::signal::StopFlag;

/// Continual learning of language models with Recurrent-KIF: learn task after task with one
/// adapter, forget little.
#[derive(Debug, Parser)]
#[command(
    name = "kif",
    version,
    max_term_width = 100,
    arg_required_else_help = true
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
enum Command {
    /// Run methods x orders x seeds on a stream of tasks, and report
    Bench(bench::Arguments),
    /// Say what is wrong with a protocol and its task files, without training
    Check(check::Arguments),
    /// Learn one task, on top of an adapter if one is given
    Learn(learn::Arguments),
    /// Answer the rows of a file and score the answers
    Score(score::Arguments),
    /// Write losses and gradients of a file, for comparison with other tools
    Inspect(inspect::Arguments),
    /// Train a small base on text and on pairs of input and output
    Pretrain(pretrain::Arguments),
    /// Fold an adapter into its base
    Merge(merge::Arguments),
    /// Write a GGUF file as a Hugging Face directory
    Import(import::Arguments),
    /// Say what other projects would have printed for the same score matrix
    Metrics(metrics::Arguments),
    /// Rebuild the report of a run from its records
    Report(report::Arguments),
    /// Hold the records of runs against published results
    Reproduction(reproduction::Arguments),
    /// Say what a device needs, and what of it is missing
    Doctor(doctor::Arguments),
    /// Time training steps on a device and hold them against its rate of products
    Perf(perf::Arguments),
    /// Compare a device with the CPU on small random models
    Selftest(selftest::Arguments),
}

/// Carries out a command.
pub(crate) fn run(arguments: Arguments, stop: &StopFlag) -> Result<()> {
    match arguments.command {
        Command::Bench(arguments) => bench::run(arguments, stop),
        Command::Check(arguments) => check::run(arguments),
        Command::Learn(arguments) => learn::run(arguments, stop),
        Command::Score(arguments) => score::run(arguments, stop),
        Command::Inspect(arguments) => inspect::run(arguments, stop),
        Command::Pretrain(arguments) => pretrain::run(arguments, stop),
        Command::Merge(arguments) => merge::run(arguments, stop),
        Command::Import(arguments) => import::run(arguments, stop),
        Command::Metrics(arguments) => metrics::run(arguments),
        Command::Report(arguments) => report::run(arguments),
        Command::Reproduction(arguments) => reproduction::run(arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Perf(arguments) => perf::run(&arguments),
        Command::Selftest(arguments) => selftest::run(&arguments),
    }
}
