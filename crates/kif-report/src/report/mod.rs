//! The report of a run: everything follows from the records in its directory.

mod comparison;
mod costs;
mod curves;
mod density;
mod head;
mod html;
mod markdown;
mod spread;
mod summary;
pub mod table;
mod test_rows;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use kif_eval::{Metric, References, ScoreMatrix};
use kif_io::atomic;
use kif_io::failure::BadInput;
use kif_protocol::Protocol;
use kif_protocol::lock::Lock;

use crate::record::Record;

pub(crate) use comparison::compare;
pub(crate) use spread::Spread;
pub(crate) use summary::{MethodSummary, Summary};

/// Metrics with a column in the tables, and its title.
const COLUMNS: [(Metric, &str); 4] = [
    (Metric::Op, "OP"),
    (Metric::BwtGem, "BWT"),
    (Metric::ForgettingChaudhry, "forgetting"),
    (Metric::FwtAim, "FWT"),
];

/// Writes `report.md` and `report.html` of the run in `out`. Methods are compared with `reference`;
/// without one, with `replay_matched` or the first.
pub fn write(out: &Path, reference: Option<&str>) -> Result<()> {
    let summary = load(out, reference)?;
    atomic::write(
        &out.join("report.md"),
        markdown::render(&summary).as_bytes(),
    )?;
    atomic::write(&out.join("report.html"), html::render(&summary).as_bytes())
}

/// The table of the run in `out` for a terminal, and where its files are.
pub fn terminal(out: &Path, reference: Option<&str>) -> Result<String> {
    let summary = load(out, reference)?;
    let mut text = table::methods(&summary).to_text();
    text.push('\n');
    if let Some(comparisons) = &summary.comparisons {
        text.push_str(&table::comparisons(comparisons).to_text());
        text.push('\n');
    }
    for (metric, title) in COLUMNS.iter().filter(|(metric, _)| summary.has(*metric)) {
        text.push_str(&format!(
            "{title:<11}{} = {}\n",
            metric.name(),
            metric.formula()
        ));
    }
    text.push_str(&summary.reading);
    text.push('\n');
    for (what, path) in [
        ("report", "report.md"),
        ("", "report.html"),
        ("records", "cells"),
    ] {
        text.push_str(&format!("{what:<11}{}\n", out.join(path).display()));
    }
    Ok(text)
}

/// Metrics that follow from a matrix alone, by name.
pub fn metrics_of(scores: &ScoreMatrix) -> BTreeMap<String, f64> {
    let value = |metric: &Metric| {
        Some((
            metric.name().to_owned(),
            metric.compute(scores, &References::default())?,
        ))
    };
    Metric::ALL.iter().filter_map(value).collect()
}

/// All finished cells of a run, and what they say together.
fn load(out: &Path, reference: Option<&str>) -> Result<Summary> {
    let (protocol, lock, records) = read_run(out)?;
    if let Some(name) = reference
        && !records.iter().any(|record| record.method == name)
    {
        let problem = format!("{} has no finished cell of {name}", out.display());
        return Err(BadInput(problem).into());
    }
    Ok(Summary::new(&protocol, lock, records, reference))
}

/// The protocol, the lock and all finished cells of a run, at least one.
pub(crate) fn read_run(out: &Path) -> Result<(Protocol, Option<Lock>, Vec<Record>)> {
    let path = out.join("protocol.ron");
    let text = std::fs::read_to_string(&path).map_err(|e| {
        BadInput(format!(
            "{} is not a run: {}: {e}",
            out.display(),
            path.display()
        ))
    })?;
    let protocol = Protocol::parse(&path.display().to_string(), &text)?;
    let lock = Lock::read(&out.join("lock.json"))?;
    Ok((protocol, lock, records(out)?))
}

/// The records of all finished cells of a run; none at all is bad input.
pub(crate) fn records(out: &Path) -> Result<Vec<Record>> {
    let cells = out.join("cells");
    let mut paths: Vec<_> = match std::fs::read_dir(&cells) {
        Ok(entries) => entries
            .map(|entry| Ok(entry?.path().join("record.json")))
            .collect::<std::io::Result<_>>()
            .with_context(|| format!("listing {}", cells.display()))?,
        Err(_) => Vec::new(),
    };
    paths.retain(|path| path.exists());
    paths.sort();
    let records: Vec<Record> = paths
        .iter()
        .map(|path| Record::read(path))
        .collect::<Result<_>>()?;
    if records.is_empty() {
        return Err(BadInput(format!("{} has no finished cell", out.display())).into());
    }
    Ok(records)
}
