//! `kif selftest`: whether a device computes what the CPU computes.

use anyhow::{Result, bail};
use kif_model::{DeviceKind, Precision};
use kif_protocol::Device;
use kif_runner::selftest::{Check, compare};

use super::common::print;

/// Arguments of `kif selftest`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The device that is compared with the CPU in f32; the CPU with itself shows that the
    /// comparison works
    #[arg(long, value_enum, default_value = "cpu")]
    device: Device,
}

/// Prints a line for every comparison; fails where one is out of bounds.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let checks = match arguments.device {
        Device::Cpu => compare(DeviceKind::Cpu, &[Precision::F32])?,
        Device::Cuda => compare(DeviceKind::Cuda, &[Precision::F32, Precision::F16])?,
    };
    print(&table(&checks))?;
    let n_failed = checks.iter().filter(|check| !check.passed()).count();
    if n_failed > 0 {
        bail!(
            "{n_failed} of {} comparisons are out of bounds",
            checks.len()
        );
    }
    Ok(())
}

fn table(checks: &[Check]) -> String {
    let mut table = format!(
        "{:22} {:9} {:66} {:>10} {:>9}\n",
        "model", "precision", "compared", "difference", "at most"
    );
    for check in checks {
        let precision = format!("{:?}", check.precision).to_lowercase();
        let verdict = if check.passed() { "" } else { "  FAILED" };
        table += &format!(
            "{:22} {precision:9} {:66} {:10.1e} {:9.0e}{verdict}\n",
            check.case, check.what, check.difference, check.tolerance
        );
    }
    table
}
