//! Score matrices from wherever they are: a run, a record, a file of plain numbers.

use std::path::Path;

use anyhow::{Result, bail};
use kif_eval::ScoreMatrix;
use kif_io::failure::{BadInput, OrBadInput};
use kif_methods::Regime;

use crate::record::Record;

/// A matrix with what some metrics compare it with.
pub struct NamedMatrix {
    /// Where it comes from.
    pub name: String,
    /// The scores.
    pub scores: ScoreMatrix,
    /// Scores of models that learned one task each, in the order of the stream.
    pub single_task: Option<Vec<f64>>,
}

/// The matrices of a run directory (one of every finished cell), of a `record.json`, or of a file
/// of plain numbers.
///
/// Plain numbers are a JSON array of rows (`null` is unknown) or CSV (an empty cell is unknown): a
/// row after every task, a column for every task, and above them a row 0 for the base or none. They
/// lie in 0..=1, or in 0..=100 with `percent`.
pub fn read(path: &Path, percent: bool) -> Result<Vec<NamedMatrix>> {
    if path.is_dir() {
        return of_run(path);
    }
    let text =
        std::fs::read_to_string(path).or_bad_input(|| format!("reading {}", path.display()))?;
    let is_csv = path.extension().is_some_and(|extension| extension == "csv");
    if !is_csv && text.trim_start().starts_with('{') {
        let record = Record::read(path)?;
        return Ok(vec![of_record(&record, None)]);
    }
    let rows = if is_csv {
        from_csv(&text)
    } else {
        serde_json::from_str(&text).map_err(|e| format!("not an array of rows of numbers: {e}"))
    };
    let scores = rows.and_then(|rows| from_rows(rows, percent));
    let scores = scores.map_err(|problem| BadInput(format!("{}: {problem}", path.display())))?;
    Ok(vec![NamedMatrix {
        name: path.display().to_string(),
        scores,
        single_task: None,
    }])
}

/// Tasks that are learned alone are no stream, and have no matrix to speak of.
fn of_run(path: &Path) -> Result<Vec<NamedMatrix>> {
    let records = crate::report::records(path)?;
    let is_alone = |record: &Record| record.settings.method.regime() == Regime::PerTask;
    let (alone, streams): (Vec<&Record>, Vec<&Record>) =
        records.iter().partition(|record| is_alone(record));
    if streams.is_empty() {
        bail!(BadInput(format!(
            "{} has no finished cell of a stream",
            path.display()
        )));
    }
    let single_task = |record: &Record| {
        let same = |other: &&&Record| (other.order, other.seed) == (record.order, record.seed);
        alone.iter().find(same).copied()
    };
    Ok((streams.iter())
        .map(|record| of_record(record, single_task(record)))
        .collect())
}

fn of_record(record: &Record, alone: Option<&Record>) -> NamedMatrix {
    NamedMatrix {
        name: format!(
            "{}, order {}, seed {}",
            record.method, record.order, record.seed
        ),
        scores: record.scores.clone(),
        single_task: alone.and_then(|alone| alone.scores.last_row()),
    }
}

fn from_csv(text: &str) -> Result<Vec<Vec<Option<f64>>>, String> {
    let cell = |line: usize, column: usize, text: &str| match text.trim() {
        "" => Ok(None),
        number => number.parse().map(Some).map_err(|_| {
            format!("line {line}, column {column}: `{number}`, expected a number or an empty cell")
        }),
    };
    let lines = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(i, line)| {
            let cells = line.split(',').enumerate();
            cells.map(|(j, text)| cell(i + 1, j + 1, text)).collect()
        })
        .collect()
}

/// A matrix of rows with or without row 0.
fn from_rows(mut rows: Vec<Vec<Option<f64>>>, percent: bool) -> Result<ScoreMatrix, String> {
    let n_tasks = rows.first().map_or(0, Vec::len);
    if n_tasks > 0 && rows.len() == n_tasks {
        rows.insert(0, vec![None; n_tasks]);
    }
    if n_tasks == 0 || rows.len() != n_tasks + 1 {
        return Err(format!(
            "{} rows, the first of {n_tasks} cells; expected a row after every task, and perhaps one before",
            rows.len()
        ));
    }
    if percent {
        rows.iter_mut()
            .flatten()
            .flatten()
            .for_each(|score| *score /= 100.0);
    }
    ScoreMatrix::try_from(rows).map_err(|problem| match percent {
        false => format!("{problem}; --percent reads scores in percent"),
        true => problem.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_zero_may_be_left_out() {
        let with = from_csv("10,20\n90,30\n\n70,80\n")
            .and_then(|rows| from_rows(rows, true))
            .unwrap();
        let without = from_csv("0.9,\n0.7,0.8")
            .and_then(|rows| from_rows(rows, false))
            .unwrap();
        assert_eq!(
            (with.get(0, 1), with.get(1, 1), with.last(0)),
            (Some(0.2), Some(0.3), Some(0.7))
        );
        assert_eq!((without.get(0, 1), without.get(1, 1)), (None, None));
        assert_eq!(without.last(1), Some(0.8));
    }

    #[test]
    fn what_is_no_matrix_is_refused_by_place() {
        let refused = |text: &str| {
            from_csv(text)
                .and_then(|rows| from_rows(rows, false))
                .unwrap_err()
        };
        assert!(refused("0.9,x").contains("line 1, column 2: `x`"));
        assert!(refused("0.9,0.1,0.2").contains("1 rows, the first of 3 cells"));
        assert!(refused("0.9,0.1\n0.2").contains("row 2 of a score matrix of 3 rows has 1 cells"));
        assert!(refused("90,1\n70,80").contains("--percent"));
        assert!(refused("").contains("0 rows"));
    }
}
