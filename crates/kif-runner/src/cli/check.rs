//! `kif check`: whether a benchmark can be run, before hours go into it.

use std::path::PathBuf;

use anyhow::Result;
use kif_io::failure::BadInput;
use kif_protocol::Protocol;
use kif_runner::check::Check;

use super::common::print;

/// Arguments of `kif check`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// quick, standard, long, superni, standard-llama, long-llama, or a RON file
    protocol: String,
    /// Folder of the task files
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Base model: its tokenizer counts tokens
    #[arg(long, value_name = "MODEL")]
    model: Option<PathBuf>,
    /// Fail on warnings as well
    #[arg(long)]
    strict: bool,
}

/// Prints what was found; fails if there is an error.
pub(crate) fn run(arguments: Arguments) -> Result<()> {
    let mut protocol = Protocol::load(&arguments.protocol)?;
    protocol.data = arguments.data.or(protocol.data);
    protocol.model = arguments.model.or(protocol.model);
    let check = Check::new(&protocol)?;
    print(&check.to_text())?;
    let (n_errors, n_warnings) = check.counts();
    if n_errors > 0 || arguments.strict && n_warnings > 0 {
        let problem = format!(
            "{}: {n_errors} errors, {n_warnings} warnings",
            arguments.protocol
        );
        return Err(BadInput(problem).into());
    }
    Ok(())
}
