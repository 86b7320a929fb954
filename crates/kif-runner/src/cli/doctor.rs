//! `kif doctor`: what a device needs, and what of it is missing.

use anyhow::Result;
use kif_io::failure::BadInput;
use kif_model::{Fact, device_facts};
use kif_protocol::Device;

use super::common::print;

/// Arguments of `kif doctor`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The device that is looked at
    #[arg(long, value_enum, default_value = "cpu")]
    device: Device,
}

/// Prints a line for everything that was looked for; fails where something is missing.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let facts = device_facts(arguments.device.into());
    print(&table(&facts))?;
    let missing: Vec<&str> = (facts.iter().filter(|fact| fact.found.is_err()))
        .map(|fact| fact.what)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(BadInput(format!("missing or failing: {}", missing.join(", "))).into())
}

fn table(facts: &[Fact]) -> String {
    let line = |fact: &Fact| match &fact.found {
        Ok(found) => format!("{:20} {found}\n", fact.what),
        Err(missing) => format!("{:20} MISSING: {missing}\n", fact.what),
    };
    facts.iter().map(line).collect()
}
