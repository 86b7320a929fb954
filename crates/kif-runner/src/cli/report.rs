//! `kif report`: the report of a run, from its records.

use std::path::PathBuf;

use anyhow::Result;
use kif_runner::report;

use super::common::print;

/// Arguments of `kif report`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Run directory
    run: PathBuf,
}

/// Rebuilds `report.md` and `report.html`, then prints the table.
pub(crate) fn run(arguments: Arguments) -> Result<()> {
    report::write(&arguments.run)?;
    print(&report::terminal(&arguments.run)?)
}
