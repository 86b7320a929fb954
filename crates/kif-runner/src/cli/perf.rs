//! `kif perf`: how fast a device trains.

use anyhow::{Error, Result};
use kif_io::process;
use kif_model::{DeviceKind, ModelError, ModelOptions, Precision, Trainable, matrix_rate};
use kif_protocol::Device;
use kif_runner::perf::{BatchShape, N_TARGETS, Peer, PeerStep, Shape, Step, Subject};

use super::common::{at_least_one, print};

/// Arguments of `kif perf`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Where
    #[arg(long, value_enum, default_value = "cpu")]
    device: Device,
    /// Sizes of T5, with random weights [default: small on the CPU; small, base and large on CUDA]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "SIZE,...")]
    shapes: Vec<Shape>,
    /// Rows of a batch x input tokens of each [default: 8x128 on the CPU; 8x128 and 16x512 on CUDA]
    #[arg(long, value_delimiter = ',', value_name = "ROWSxTOKENS,...")]
    batches: Vec<BatchShape>,
    /// Number formats of the frozen base [default: f32 and bf16 on the CPU; f32 and f16 on CUDA]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "FORMAT,...")]
    precisions: Vec<kif_protocol::Precision>,
    /// Steps that are measured, after two to warm up
    #[arg(long, value_name = "N", default_value = "5", value_parser = at_least_one)]
    steps: usize,
    /// Rows and columns of the product that rates are held against [default: 2048 on the CPU; 8192
    /// on CUDA]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=32_768))]
    matrix: Option<u16>,
    /// A Python with torch and transformers, which does the same steps (bf16 beside our f16 and
    /// int8) before us
    #[arg(long, value_name = "PYTHON")]
    peer: Option<String>,
}

/// What is measured.
struct Plan {
    device: DeviceKind,
    shapes: Vec<Shape>,
    batches: Vec<BatchShape>,
    precisions: Vec<Precision>,
    matrix: usize,
}

impl Plan {
    /// Whether this program can do it, before anything takes its time.
    fn check(&self) -> Result<(), ModelError> {
        self.precisions.iter().try_for_each(|&precision| {
            let options = ModelOptions {
                device: self.device,
                precision,
                ..ModelOptions::cpu(Trainable::All)
            };
            options.check()
        })
    }
}

impl Arguments {
    /// With defaults for what was not given.
    fn plan(&self) -> Plan {
        let (small, large) = ("8x128".parse(), "16x512".parse());
        let (small, large) = (small.expect("a batch"), large.expect("a batch"));
        let defaults = match self.device {
            Device::Cpu => Plan {
                device: DeviceKind::Cpu,
                shapes: vec![Shape::Small],
                batches: vec![small],
                precisions: vec![Precision::F32, Precision::Bf16],
                matrix: 2048,
            },
            Device::Cuda => Plan {
                device: DeviceKind::Cuda,
                shapes: vec![Shape::Small, Shape::Base, Shape::Large],
                batches: vec![small, large],
                precisions: vec![Precision::F32, Precision::F16],
                matrix: 8192,
            },
        };
        let given = self.precisions.iter().map(|&precision| precision.into());
        Plan {
            device: defaults.device,
            shapes: or_default(self.shapes.clone(), defaults.shapes),
            batches: or_default(self.batches.clone(), defaults.batches),
            precisions: or_default(given.collect(), defaults.precisions),
            matrix: self.matrix.map_or(defaults.matrix, usize::from),
        }
    }
}

fn or_default<T>(given: Vec<T>, default: Vec<T>) -> Vec<T> {
    if given.is_empty() { default } else { given }
}

/// Prints the rate of one product for each precision, and a line for each size, precision and batch
/// as it is measured.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    process::start_threads(None)?;
    let plan = arguments.plan();
    plan.check()?;
    // Before us: what we free stays with the process.
    let peer = arguments.peer.as_ref().map(|python| {
        let (shapes, batches) = (&plan.shapes, &plan.batches);
        Peer::measure(
            python,
            plan.device,
            shapes,
            batches,
            &plan.precisions,
            arguments.steps,
        )
    });
    let peer = peer.transpose()?;
    let matrix_rates: Vec<f64> = (plan.precisions.iter())
        .map(|&precision| matrix_rate(plan.device, precision, plan.matrix))
        .collect::<Result<_, _>>()?;
    for (&precision, rate) in plan.precisions.iter().zip(&matrix_rates) {
        let (n, name) = (plan.matrix, name(precision));
        print(&format!(
            "{name}: {n} x {n} x {n} at {:.2} TFLOP/s\n",
            rate / 1e12
        ))?;
    }
    print(&header(peer.is_some()))?;
    for &shape in &plan.shapes {
        for (&precision, &rate) in plan.precisions.iter().zip(&matrix_rates) {
            let mut subject = unless_full(Subject::new(shape.config(), plan.device, precision))?;
            for &batch in &plan.batches {
                let step = match &mut subject {
                    Some(subject) => unless_full(subject.step(batch, arguments.steps))?,
                    None => None,
                };
                let of_peer = peer.as_ref().and_then(|p| p.step(shape, batch, precision));
                let mut line = format!("{:6} {:8} {batch:>8}", shape.name(), name(precision));
                line += &match (&subject, step) {
                    (Some(subject), Some(step)) => {
                        columns(step, batch, subject.operations(batch), rate)
                    }
                    _ => format!(" {:>9}{:48}", "no memory", ""),
                };
                line += &peer_columns(of_peer, step);
                print(&format!("{}\n", line.trim_end()))?;
            }
        }
    }
    Ok(())
}

/// Nothing where the device's memory is full.
fn unless_full<T>(result: Result<T>) -> Result<Option<T>> {
    let full = |error: &Error| {
        matches!(
            error.downcast_ref::<ModelError>(),
            Some(ModelError::OutOfDeviceMemory)
        )
    };
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if full(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn name(precision: Precision) -> String {
    format!("{precision:?}").to_lowercase()
}

fn header(with_peer: bool) -> String {
    let ours = format!(
        "{:6} {:8} {:>8} {:>9} {:>9} {:>9} {:>9} {:>8} {:>8}",
        "size",
        "format",
        "batch",
        "step ms",
        "inputs/s",
        "targets/s",
        "peak MiB",
        "TFLOP/s",
        "of rate"
    );
    let theirs = if with_peer {
        format!(" {:>9} {:>9} {:>9}", "torch ms", "torch MiB", "our speed")
    } else {
        String::new()
    };
    format!("{ours}{theirs}\n")
}

fn columns(step: Step, batch: BatchShape, operations: f64, rate: f64) -> String {
    let per_second = |n_tokens: usize| (batch.n_rows * n_tokens) as f64 / step.seconds;
    let peak = step.peak_mib.map_or("-".to_owned(), |mib| mib.to_string());
    let speed = operations / step.seconds;
    format!(
        " {:9.2} {:9.0} {:9.0} {peak:>9} {:8.3} {:8.3}",
        1e3 * step.seconds,
        per_second(batch.n_inputs),
        per_second(N_TARGETS),
        speed / 1e12,
        speed / rate,
    )
}

/// The peer's time and memory, and our tokens per second over its.
fn peer_columns(peer: Option<&PeerStep>, ours: Option<Step>) -> String {
    let Some(peer) = peer else {
        return String::new();
    };
    let Some(seconds) = peer.seconds() else {
        return format!(" torch: {}", peer.error.as_deref().unwrap_or("no time"));
    };
    let peak = peer
        .peak_mib
        .map_or("-".to_owned(), |mib| format!("{mib:.0}"));
    let ratio = ours.map_or(String::new(), |ours| {
        format!("{:.2}", seconds / ours.seconds)
    });
    format!(" {:9.2} {peak:>9} {ratio:>9}", 1e3 * seconds)
}
