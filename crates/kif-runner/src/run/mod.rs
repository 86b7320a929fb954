//! A run: every cell of methods x orders x seeds, on disk in one directory, stopped and continued
//! at any time.
//!
//! ```text
//! <out>/protocol.ron lock.json report.md report.html
//!       base.json          answers of the base, shared by all cells: row 0 of every matrix
//!       cells/<method>-o<order>-s<seed>/record.json adapter/ checkpoint/
//! ```

mod base_scores;
mod cell;
mod inputs;
mod observer;
mod partial;
mod phases;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};
use kif_io::atomic;
use kif_io::failure::{BadInput, OrBadInput};
use kif_io::progress::Progress;
use kif_io::signal::StopFlag;
use kif_io::writer::Writer;
use kif_methods::methods::{MethodConfig, Parts};
use kif_model::{DropoutOf, LanguageModel, ModelOptions, Trainable};
use kif_protocol::lock::{Lock, LockChanged};
use kif_protocol::{Compute, Protocol};
use kif_report::report;

use base_scores::BaseScores;

pub use inputs::{Inputs, PreparedTask};

/// One method on one order with one seed.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    /// Name of the method in the protocol.
    pub method: String,
    /// Its settings.
    pub config: MethodConfig,
    /// Order of the stream, from 1.
    pub order: usize,
    /// Seed.
    pub seed: u64,
}

impl Cell {
    /// The name of its folder.
    pub fn name(&self) -> String {
        kif_report::record::cell_name(&self.method, self.order, self.seed)
    }
}

/// What a run did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Cells that this call finished.
    pub finished: usize,
    /// Cells that were finished before.
    pub found: usize,
}

/// Runs all cells of `protocol` that `out` does not have yet, and writes the report.
///
/// A raised `stop` saves everything and ends with [`Stopped`](kif_io::signal::Stopped); the same
/// call goes on from there with the same bits.
pub fn run(protocol: &Protocol, out: &Path, stop: &StopFlag) -> Result<Outcome> {
    // Before anything is written: the lock of a run that cannot be would refuse the one that can.
    base_options(protocol, 0, &Parts::default())
        .check()
        .map_err(|e| BadInput(e.to_string()))?;
    let mut writer = Writer::of_folder(out)?;
    let _guard = writer.hold()?;
    let inputs = Inputs::load(protocol, out)?;
    let protocol = &protocol
        .clone()
        .with_own_targets(&inputs.model)
        .or_bad_input(|| format!("reading model {}", inputs.model.display()))?;
    let cells = cells(protocol);
    for cell in &cells {
        check_parts(protocol, cell, inputs.order(cell.order).len())?;
    }
    let lock = check_lock(protocol, &inputs, out)?;
    let folder = |cell: &Cell| out.join("cells").join(cell.name());
    let (found, open): (Vec<_>, Vec<_>) = cells
        .into_iter()
        .partition(|cell| folder(cell).join("record.json").exists());
    let mut base = BaseScores::open(out)?;
    let base_answers = base_answers(protocol, &inputs, &lock);
    let taken = match open[..] {
        [] => BTreeMap::new(),
        _ => base.take_over(&base_answers)?,
    };
    let mut progress = Progress::new(total_units(protocol, &inputs, &base, &open));
    for (run, n) in taken {
        progress.line(&format!(
            "{}: the base's answers to {n} tasks are those of {}",
            out.display(),
            run.display()
        ));
    }
    progress.line(&format!(
        "{}: {} cells to run, {} finished before",
        out.display(),
        open.len(),
        found.len()
    ));
    let n_open = open.len();
    for (i, cell) in open.iter().enumerate() {
        let title = format!("cell {}/{n_open} {}", i + 1, cell.name());
        let context = cell::CellContext {
            protocol,
            inputs: &inputs,
            base_answers: &base_answers,
            folder: folder(cell),
            stop,
        };
        cell::run(&context, cell, &title, &mut base, &mut progress)
            .with_context(|| format!("running {}", cell.name()))?;
    }
    progress.finish();
    report::write(out, None)?;
    Ok(Outcome {
        finished: n_open,
        found: found.len(),
    })
}

/// All cells, so that every method has been seen once before the next order, and every order before
/// the next seed.
fn cells(protocol: &Protocol) -> Vec<Cell> {
    let mut cells = Vec::new();
    for &seed in &protocol.seeds {
        for &order in &protocol.orders {
            for method in &protocol.methods {
                let config = protocol
                    .method(method)
                    .expect("a checked protocol knows its methods");
                cells.push(Cell {
                    method: method.clone(),
                    config,
                    order,
                    seed,
                });
            }
        }
    }
    cells
}

/// What the base's answers to every task would be made of.
fn base_answers(protocol: &Protocol, inputs: &Inputs, lock: &Lock) -> BTreeMap<String, String> {
    let of_task = |(name, task): (&String, &PreparedTask)| {
        let options = cell::evaluation_options(protocol, task);
        (
            name.clone(),
            base_scores::made_of(lock, &task.test, &options),
        )
    };
    inputs.tasks.iter().map(of_task).collect()
}

/// Compares the run with what is on disk, and writes down what it is made of.
fn check_lock(protocol: &Protocol, inputs: &Inputs, out: &Path) -> Result<Lock> {
    let path = out.join("lock.json");
    let mut lock = Lock::new(protocol, &inputs.data_files, &inputs.model_files)?;
    let mut written = protocol.clone();
    if let Some(earlier) = Lock::read(&path)? {
        let differences = earlier.differences(&lock);
        if !differences.is_empty() {
            return Err(LockChanged {
                run: out.to_owned(),
                differences,
            }
            .into());
        }
        lock = lock.merged_with(earlier);
        if let Ok(text) = std::fs::read_to_string(out.join("protocol.ron")) {
            written = protocol.grown_from(&Protocol::parse("protocol.ron", &text)?);
        }
    }
    atomic::write(&out.join("protocol.ron"), written.to_ron().as_bytes())?;
    atomic::write_json(&path, &lock)?;
    Ok(lock)
}

/// The work of all cells, for the time left.
fn total_units(protocol: &Protocol, inputs: &Inputs, base: &BaseScores, cells: &[Cell]) -> u64 {
    let mut total = 0;
    let mut evaluated = BTreeSet::new();
    for cell in cells {
        let order = inputs.order(cell.order);
        for name in order.iter().filter(|name| base.get(name).is_none()) {
            if evaluated.insert(name) {
                total += inputs.task(name).test.n_rows() as u64;
            }
        }
        let regime = cell.config.regime();
        for phase in phases::phases(regime, order.len(), protocol.evaluation.cells) {
            total += phases::training_units(protocol, inputs, cell, &phase, regime);
            total += phases::evaluation_units(inputs, cell, &phase);
        }
    }
    total
}

/// Whether a method's adapters fit side by side into one, and its prompts in front of a text.
fn check_parts(protocol: &Protocol, cell: &Cell, n_tasks: usize) -> Result<()> {
    let parts = cell.config.parts(n_tasks);
    parts.check(protocol.lora_config()).map_err(|error| {
        let (method, rank, n_slots) = (&cell.method, protocol.adapter.rank, parts.n_slots);
        let problem = match parts.prompts {
            Some(_) => format!("{method}: {error}"),
            None => format!(
                "{method} keeps {n_slots} adapters of rank {rank} side by side: {error}; lower adapter.rank"
            ),
        };
        BadInput(problem).into()
    })
}

/// The base with the fresh `parts` of a method.
pub fn load_base(
    protocol: &Protocol,
    model: &Path,
    seed: u64,
    parts: &Parts,
) -> Result<Box<dyn LanguageModel>> {
    kif_model::load(model, &base_options(protocol, seed, parts))
        .or_bad_input(|| format!("loading model {}", model.display()))
}

fn base_options(protocol: &Protocol, seed: u64, parts: &Parts) -> ModelOptions {
    let trainable = parts.trainable(protocol.lora_config());
    ModelOptions {
        dropout_of: protocol.training.dropout_of,
        ..model_options(&protocol.compute, trainable, seed)
    }
}

/// The model's own words for what it runs on.
pub fn model_options(compute: &Compute, trainable: Trainable, seed: u64) -> ModelOptions {
    ModelOptions {
        device: compute.device.into(),
        engine: kif_model::EngineKind::Fused,
        precision: compute.precision.into(),
        trainable,
        seed,
        recompute: compute.recompute,
        dropout_of: DropoutOf::default(),
    }
}
