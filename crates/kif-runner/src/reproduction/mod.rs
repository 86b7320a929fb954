//! Our results beside published ones, from the records of runs that are kept in one folder.
//!
//! ```text
//! <folder>/<run>/protocol.ron lock.json cells/<cell>/record.json
//! ```

mod mark;
mod published;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};
use kif_eval::Metric;

use self::mark::{Estimate, mark};
use self::published::Published;
use crate::atomic;
use crate::failure::BadInput;
use crate::lock::{Lock, precision_name};
use crate::protocol::{Protocol, StreamSource};
use crate::record::Record;
use crate::report::table::{self, NONE, Table};
use crate::report::{MethodSummary, Spread, Summary, compare, read_run};
use crate::run::cell_name;

/// What the direction of a method is taken against, and for that method itself the other one.
const YARDSTICKS: [&str; 2] = ["seq_lora", "joint"];

/// Copies what a report needs of the finished cells of `run` into `folder`, under the run's own name: protocol, lock and
/// records, the latter without answers. Cells that are there already are replaced.
pub fn keep(run: &Path, folder: &Path) -> Result<()> {
    let (protocol, lock, records) = read_run(run)?;
    let name = run
        .file_name()
        .with_context(|| format!("{} has no name", run.display()))?;
    let kept = folder.join(name);
    for record in records {
        let cell = cell_name(&record.method, record.order, record.seed);
        let folder = kept.join("cells").join(cell);
        std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        let record = Record {
            predictions: BTreeMap::new(),
            ..record
        };
        record.write(&folder.join("record.json"))?;
    }
    if let Some(lock) = lock {
        atomic::write_json(&kept.join("lock.json"), &lock)?;
    }
    atomic::write(&kept.join("protocol.ron"), protocol.to_ron().as_bytes())
}

/// All runs of `folder` beside the published results, as Markdown: a section a run, in the order of their names.
pub fn compare_all(folder: &Path) -> Result<String> {
    let entries = std::fs::read_dir(folder)
        .map_err(|e| BadInput(format!("{} is not a folder of runs: {e}", folder.display())))?;
    let mut runs = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<Vec<_>>>()
        .with_context(|| format!("listing {}", folder.display()))?;
    runs.retain(|run| run.join("protocol.ron").exists());
    runs.sort();
    let mut text = String::new();
    for run in &runs {
        let (protocol, lock, records) = read_run(run)?;
        let name = run.file_name().unwrap_or_default().to_string_lossy();
        let kept = Kept {
            name: &name,
            protocol: &protocol,
            lock: lock.as_ref(),
            records: &records,
        };
        text.push_str(&kept.section());
    }
    Ok(text)
}

/// A run that was kept.
struct Kept<'a> {
    name: &'a str,
    protocol: &'a Protocol,
    lock: Option<&'a Lock>,
    records: &'a [Record],
}

impl Kept<'_> {
    fn section(&self) -> String {
        let lock = self.lock.cloned();
        let summary = Summary::new(self.protocol, lock, self.records.to_vec(), None);
        let mut text = format!("### {}\n\n{}\n\n", self.name, self.setting());
        if self.protocol.evaluation.validation > 0.0 {
            text.push_str(&self.trials(&summary).to_markdown());
            text.push('\n');
            return text;
        }
        text.push_str(&self.beside_published(&summary).to_markdown());
        text.push('\n');
        if let Some(comparisons) = &summary.comparisons {
            text.push_str(&table::comparisons(comparisons).to_markdown());
            text.push('\n');
        }
        text
    }

    /// What was run, in a paragraph.
    fn setting(&self) -> String {
        let Protocol {
            training,
            limits,
            evaluation,
            compute,
            ..
        } = self.protocol;
        let mut text = format!("Base `{}` (", self.base());
        let precision = precision_name(compute.precision);
        let plural = |n: u64| if n == 1 { "" } else { "s" };
        let _ = write!(
            text,
            "{precision}), {} epoch{} of batches of {}, prompts of up to {} tokens",
            training.epochs,
            plural(training.epochs),
            training.batch_size,
            limits.max_input
        );
        if let Some(rows) = limits.train_rows {
            let _ = write!(text, ", at most {rows} training rows a task");
        }
        if let Some(rows) = limits.test_rows {
            let _ = write!(text, ", at most {rows} test rows a task");
        }
        if evaluation.validation > 0.0 {
            let share = 100.0 * evaluation.validation;
            let _ = write!(
                text,
                "; examined on {share:.0} % of the training rows, which were held out"
            );
        }
        let commit = self.lock.map_or("unknown", |lock| &lock.program.git_commit);
        let _ = write!(
            text,
            ". {} cells; commit {commit}. `--out {}`",
            self.records.len(),
            self.name
        );
        text
    }

    /// Name of the base: the last part of its folder.
    fn base(&self) -> String {
        let name = self.protocol.model.as_deref().and_then(Path::file_name);
        name.map_or("embedded".to_owned(), |name| {
            name.to_string_lossy().into_owned()
        })
    }

    /// Every method under the rate that it had.
    fn trials(&self, summary: &Summary) -> Table {
        let row = |method: &MethodSummary| {
            let [op, bwt] = [Metric::Op, Metric::BwtGem].map(|metric| percent(method, metric));
            vec![
                method.name.clone(),
                self.rate(&method.name),
                op,
                bwt,
                method.n_cells.to_string(),
            ]
        };
        Table {
            head: ["method", "rate", "OP", "BWT", "cells"]
                .map(str::to_owned)
                .to_vec(),
            rows: summary.methods.iter().map(row).collect(),
        }
    }

    fn rate(&self, method: &str) -> String {
        format!("{:e}", self.protocol.training_of(method).lr)
    }

    /// Every method, with a row for every source that has a number for it.
    fn beside_published(&self, summary: &Summary) -> Table {
        let tables: Vec<Published> = match &self.protocol.stream {
            StreamSource::Builtin(benchmark) => {
                let of_benchmark = Published::all().into_iter();
                of_benchmark
                    .filter(|table| &table.benchmark == benchmark)
                    .collect()
            }
            StreamSource::Embedded | StreamSource::Own { .. } => Vec::new(),
        };
        let mut rows = Vec::new();
        for method in &summary.methods {
            let mut ours = vec![method.name.clone(), self.rate(&method.name)];
            ours.extend([Metric::Op, Metric::BwtGem].map(|metric| percent(method, metric)));
            ours.push(method.n_cells.to_string());
            let mut is_published = false;
            for table in &tables {
                let Some(row) = table.row(&method.name) else {
                    continue;
                };
                let published =
                    |value: Option<f64>| value.map_or(NONE.to_owned(), |x| format!("{x:.1}"));
                let mut row = [
                    ours.clone(),
                    vec![
                        published(Some(row.op)),
                        published(row.bwt),
                        format!("{}, {}", table.source, table.base),
                    ],
                ]
                .concat();
                row.push(
                    self.mark(method, table)
                        .map_or(NONE.to_owned(), |mark| mark.to_string()),
                );
                rows.push(row);
                is_published = true;
            }
            if !is_published {
                let none = [NONE, NONE, NONE, "no published number"].map(str::to_owned);
                rows.push([ours, none.to_vec()].concat());
            }
        }
        let head = [
            "method",
            "rate",
            "OP",
            "BWT",
            "cells",
            "published OP",
            "BWT",
            "source, base",
            "mark",
        ];
        Table {
            head: head.map(str::to_owned).to_vec(),
            rows,
        }
    }

    fn mark(&self, method: &MethodSummary, table: &Published) -> Option<mark::Mark> {
        let (training, limits) = (&self.protocol.training, &self.protocol.limits);
        let orders: Vec<usize> = table.orders.clone();
        let same_settings = self.base().eq_ignore_ascii_case(&table.base)
            && training.epochs == table.epochs
            && limits.train_rows.is_none()
            && limits.test_rows.is_none()
            && orders
                .iter()
                .all(|order| self.protocol.orders.contains(order));
        let ours = estimate(method.metrics.get(&Metric::Op)?);
        let published = table.row(&method.name)?.op / 100.0;
        let yardstick = YARDSTICKS.into_iter().find(|name| *name != method.name)?;
        let differences = table.row(yardstick).and_then(|row| {
            let ours = compare(&method.name, yardstick, self.records)?;
            Some((estimate(&ours.difference), published - row.op / 100.0))
        });
        Some(mark(same_settings, (ours, published), differences))
    }
}

fn estimate(spread: &Spread) -> Estimate {
    Estimate {
        mean: spread.mean,
        half_width: spread.half_width,
    }
}

/// A mean with its interval, in percent.
fn percent(method: &MethodSummary, metric: Metric) -> String {
    let spread = method.metrics.get(&metric);
    spread.map_or_else(|| NONE.to_owned(), Spread::with_interval)
}
