//! Repository tasks: `cargo xtask bench`, `perf`, `test`, `ci`, `format`, `structure`, `methods`,
//! `fixtures`, `reproduction`, `cuda-*`. It starts cargo and `kif`, and holds
//! the source against its limits; it computes nothing that a result depends on.

mod ci;
mod cuda;
mod fixtures;
mod format;
mod methods;
mod perf;
mod process;
mod readme;
mod reproduction;
mod structure;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Repository tasks.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build in release and run `kif bench` with the arguments that follow (none: the protocol
    /// `quick`)
    #[command(disable_help_flag = true)]
    Bench {
        /// Everything after `bench`, handed on as it is; `--help` shows what `kif bench` knows
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run every test of the workspace
    Test {
        /// Handed on to `cargo test --workspace`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Measure time and memory, beside PyTorch where there is one
    Perf(perf::Options),
    /// Everything that continuous integration runs
    Ci,
    /// Format the source, the files that `cargo fmt` does not see among it
    Format {
        /// Fail where something is not formatted, and change nothing
        #[arg(long)]
        check: bool,
    },
    /// Remake the generated fixtures
    Fixtures(fixtures::Options),
    /// Build the programs for a machine with an NVIDIA GPU, without GPU, driver or toolkit here
    CudaPackage(cuda::package::Options),
    /// Build the emulated driver and cuBLAS, which run our CUDA kernels on the CPU
    CudaEmulator(cuda::emulator::Options),
    /// Run the programs of the CUDA package on the emulator
    CudaSmoke,
    /// Hold the source against the drawing of the crates and the limits of files and functions
    Structure(structure::Options),
    /// Hold the README's table of methods against the names that `kif` knows
    Methods,
    /// Remake the part of docs/reproduction.md that follows from docs/records
    Reproduction(reproduction::Options),
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Bench { args } => process::bench(&args),
        Task::Test { args } => process::test(&args),
        Task::Perf(options) => perf::run(&options),
        Task::Ci => ci::run(),
        Task::Format { check } => format::run(check).map(|()| ExitCode::SUCCESS),
        Task::Fixtures(options) => fixtures::run(&options),
        Task::CudaPackage(options) => cuda::package::run(&options),
        Task::CudaEmulator(options) => cuda::emulator::run(&options),
        Task::CudaSmoke => cuda::smoke::run(),
        Task::Structure(options) => structure::run(&options),
        Task::Methods => methods::check().map(|()| ExitCode::SUCCESS),
        Task::Reproduction(options) => reproduction::run(&options),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
