//! `kif report`: the report of a run, from its records.

use std::path::PathBuf;

use anyhow::Result;
use kif_report::report;

use super::common::print;

/// Arguments of `kif report`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Run directory
    run: PathBuf,
    /// Method that the others are compared with [default: replay_matched, else the first]
    #[arg(long, value_name = "METHOD")]
    reference: Option<String>,
}

/// Rebuilds `report.md` and `report.html`, then prints the table.
pub(crate) fn run(arguments: Arguments) -> Result<()> {
    let reference = arguments.reference.as_deref();
    report::write(&arguments.run, reference)?;
    print(&report::terminal(&arguments.run, reference)?)
}
