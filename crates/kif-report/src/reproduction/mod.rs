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
use kif_io::atomic;
use kif_io::failure::BadInput;
use kif_methods::methods::MethodConfig;
use kif_protocol::lock::Lock;
use kif_protocol::{Protocol, StreamSource};

use self::mark::{Estimate, Mark, mark};
use self::published::{Published, PublishedRow};
use crate::record::{Record, Settings, cell_name};
use crate::report::table::{self, NONE, Table};
use crate::report::{MethodSummary, Spread, Summary, compare, read_run};

/// What the direction of a method is taken against, and for that method itself the other one.
const YARDSTICKS: [&str; 2] = ["seq_lora", "joint"];

/// Copies what a report needs of the finished cells of `run` into `folder`, under the run's own
/// name: protocol, lock and records, the latter without answers. Cells that are there already are
/// replaced.
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

/// All runs of `folder` beside the published results, as Markdown: a section a run, in the order of
/// their names.
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
        let kept = KeptRun {
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
struct KeptRun<'a> {
    name: &'a str,
    protocol: &'a Protocol,
    lock: Option<&'a Lock>,
    records: &'a [Record],
}

impl KeptRun<'_> {
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
        let precision = compute.precision.name();
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
                "; evaluated on {share:.0} % of the training rows, which were held out"
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
        match self.protocol.model.as_deref().and_then(Path::file_name) {
            Some(name) => name.to_string_lossy().into_owned(),
            None => {
                let arch = self.protocol.arch.unwrap_or_default();
                arch.base_name().to_owned()
            }
        }
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

    /// Every method, with a row for every source that has a number for it: ours in the orders that
    /// the source has.
    fn beside_published(&self, summary: &Summary) -> Table {
        let StreamSource::Builtin(benchmark) = &self.protocol.stream else {
            return self.table(summary, &[]);
        };
        let tables = Published::all().into_iter();
        let of_benchmark = tables.filter(|table| &table.benchmark == benchmark);
        let sources: Vec<Counterpart> = of_benchmark
            .map(|table| {
                let in_orders = |record: &&Record| table.orders.contains(&record.order);
                let records: Vec<Record> = self.records.iter().filter(in_orders).cloned().collect();
                let summary = Summary::new(self.protocol, None, records.clone(), None);
                Counterpart {
                    table,
                    records,
                    summary,
                }
            })
            .collect();
        self.table(summary, &sources)
    }

    fn table(&self, summary: &Summary, sources: &[Counterpart]) -> Table {
        let ours = |method: &MethodSummary| {
            let mut row = vec![method.name.clone(), self.rate(&method.name)];
            row.extend([Metric::Op, Metric::BwtGem].map(|metric| percent(method, metric)));
            row.push(method.n_cells.to_string());
            row
        };
        let mut rows = Vec::new();
        for method in &summary.methods {
            let n_before = rows.len();
            for source in sources {
                let (Some(published), Some(method)) = source.find(&method.name) else {
                    continue;
                };
                let number = |x: f64| format!("{x:.1}");
                let mark = source.mark(method, &self.base());
                let beside = vec![
                    number(published.op),
                    published.bwt.map_or(NONE.to_owned(), number),
                    format!("{}, {}", source.table.source, source.table.base),
                    mark.map_or(NONE.to_owned(), |mark| mark.to_string()),
                ];
                rows.push([ours(method), beside].concat());
            }
            if rows.len() == n_before {
                let none = [NONE, NONE, NONE, "no published number"].map(str::to_owned);
                rows.push([ours(method), none.to_vec()].concat());
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
}

/// Published results, and our cells in the orders that they are the mean of.
struct Counterpart {
    table: Published,
    records: Vec<Record>,
    summary: Summary,
}

impl Counterpart {
    /// What was published of a method, and what is ours.
    fn find(&self, name: &str) -> (Option<&PublishedRow>, Option<&MethodSummary>) {
        let mut methods = self.summary.methods.iter();
        (
            self.table.row(name),
            methods.find(|method| method.name == name),
        )
    }

    fn mark(&self, method: &MethodSummary, base: &str) -> Option<Mark> {
        let ours = estimate(method.metrics.get(&Metric::Op)?);
        let published = self.table.row(&method.name)?.op / 100.0;
        let yardstick = YARDSTICKS.into_iter().find(|name| *name != method.name)?;
        let differences = self.table.row(yardstick).and_then(|row| {
            let ours = compare(&method.name, yardstick, &self.records)?;
            Some((estimate(&ours.difference), published - row.op / 100.0))
        });
        let same_settings =
            base.eq_ignore_ascii_case(&self.table.base) && self.is_as_published(&method.name);
        Some(mark(same_settings, (ours, published), differences))
    }

    /// Whether a method has a cell in every order of the source, and ran as the built-in protocol
    /// says, which has the published settings.
    fn is_as_published(&self, name: &str) -> bool {
        let own = || self.records.iter().filter(|record| record.method == name);
        let has = |order: &usize| own().any(|record| record.order == *order);
        let (Ok(protocol), Some(method)) = (
            Protocol::load(&self.table.benchmark),
            MethodConfig::by_name(name),
        ) else {
            return false;
        };
        let published = Settings::new(&protocol, name, method);
        let is_same = |record: &Record| {
            let mut settings = record.settings.clone();
            // These change no result, or by rounding only.
            settings.compute = published.compute;
            settings.evaluation.batch_tokens = published.evaluation.batch_tokens;
            settings == published
        };
        published.training.epochs == self.table.epochs
            && self.table.orders.iter().all(has)
            && own().all(is_same)
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
