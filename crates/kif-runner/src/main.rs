//! `kif`: the command line.

mod cli;

use std::process::ExitCode;

use clap::Parser;
use kif_io::failure::Exit;
use kif_io::signal::StopFlag;
use kif_runner::exit::exit_of;

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    kif_io::process::keep_freed_memory();
    let result = StopFlag::on_signals()
        .map_err(anyhow::Error::from)
        .and_then(|stop| {
            // For tests, which stop a run at an exact place.
            if let Some(polls) = std::env::var("KIF_STOP_AFTER_POLLS")
                .ok()
                .and_then(|n| n.parse().ok())
            {
                stop.raise_after_polls(polls);
            }
            cli::run(arguments, &stop)
        });
    let exit = match result {
        Ok(()) => Exit::Done,
        Err(error) => {
            // Nobody may be listening; the exit code says it all the same.
            let _ = std::io::Write::write_fmt(
                &mut std::io::stderr(),
                format_args!("error: {error:#}\n"),
            );
            exit_of(&error)
        }
    };
    ExitCode::from(exit as u8)
}
