//! `kif pretrain`: a base from text.

use std::path::PathBuf;

use anyhow::Result;
use kif_io::progress::Progress;
use kif_io::signal::StopFlag;
use kif_model::Trainable;
use kif_pretrain::{self, Inputs, PretrainConfig};
use kif_protocol::Compute;
use kif_runner::run::model_options;

use super::common::{ComputeArguments, check_out_folder, print};

/// Arguments of `kif pretrain`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Text to learn from: .jsonl rows {input, output} or {text}, .txt lines, with .zst behind it
    /// if compressed; or token ids in .safetensors
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    corpus: Vec<PathBuf>,
    /// Sizes, mixture, optimizer and seed, in RON
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The model directory to be; a stopped run goes on from the checkpoint in it
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    compute: ComputeArguments,
}

/// Trains a base and prints what it reached.
pub(crate) fn run(arguments: Arguments, stop: &StopFlag) -> Result<()> {
    let config = PretrainConfig::load(&arguments.config)?;
    check_out_folder(&arguments.out)?;
    let compute = arguments.compute.apply(Compute::default())?;
    let options = model_options(&compute, Trainable::All, config.seed);
    let inputs = Inputs {
        corpus: arguments.corpus,
        out: arguments.out,
    };
    let mut progress = Progress::new(config.steps);
    let record = kif_pretrain::run(&inputs, &config, &options, stop, &mut progress)?;
    let exact = record
        .exact_share
        .map_or("no pairs".into(), |share| format!("{:.1} %", 100.0 * share));
    print(&format!(
        "{} weights, {} tokens; held-out pairs answered exactly: {exact}; base in {}\n",
        record.n_weights,
        record.vocab_size,
        inputs.out.display()
    ))
}
