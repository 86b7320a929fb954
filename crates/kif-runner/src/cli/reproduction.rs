//! `kif reproduction`: kept runs beside published results.

use std::path::PathBuf;

use anyhow::Result;
use kif_report::reproduction;

use super::common::print;

/// Arguments of `kif reproduction`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Folder of kept runs
    folder: PathBuf,
    /// Copy the records of this run into the folder first, without answers and adapters
    #[arg(long, value_name = "RUN")]
    keep: Vec<PathBuf>,
}

/// Keeps what is asked for, then prints the comparison as Markdown.
pub(crate) fn run(arguments: Arguments) -> Result<()> {
    for run in &arguments.keep {
        reproduction::keep(run, &arguments.folder)?;
    }
    print(&reproduction::compare_all(&arguments.folder)?)
}
