//! `kif metrics`: what other projects would have printed for the same matrix.

use std::path::PathBuf;

use anyhow::Result;
use kif_eval::References;
use kif_eval::conventions::{Convention, PEERS, Printed, Quantity};
use kif_io::failure::BadInput;
use kif_report::matrices::{self, NamedMatrix};
use kif_report::report::table::Table;

use super::common::print;

/// Arguments of `kif metrics`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Run directory, record.json, or a matrix as JSON or CSV: a row after every task, and perhaps
    /// one before
    matrix: PathBuf,
    /// Scores of a plain matrix and of --single-task are in percent
    #[arg(long)]
    percent: bool,
    /// Scores of models that learned one task each, in the order of the stream [default: those of
    /// per_task in the run]
    #[arg(long, value_name = "SCORES", value_delimiter = ',')]
    single_task: Option<Vec<f64>>,
}

/// Prints a table for every matrix, then the formulas.
pub(crate) fn run(arguments: Arguments) -> Result<()> {
    let mut matrices = matrices::read(&arguments.matrix, arguments.percent)?;
    if let Some(scores) = arguments.single_task {
        let unit = if arguments.percent { 100.0 } else { 1.0 };
        let scores: Vec<f64> = scores.iter().map(|score| score / unit).collect();
        check(&scores, &matrices)?;
        for matrix in &mut matrices {
            matrix.single_task = Some(scores.clone());
        }
    }
    let mut text = String::new();
    for matrix in &matrices {
        let n_tasks = matrix.scores.n_tasks();
        text.push_str(&format!("{}, {n_tasks} tasks, in percent\n", matrix.name));
        text.push_str(&table(matrix).to_text());
        text.push('\n');
    }
    text.push_str(&formulas());
    print(&text)
}

fn check(scores: &[f64], matrices: &[NamedMatrix]) -> Result<()> {
    let n_tasks = |matrix: &NamedMatrix| matrix.scores.n_tasks();
    if let Some(other) = matrices.iter().map(n_tasks).find(|n| *n != scores.len()) {
        let n = scores.len();
        return Err(BadInput(format!("--single-task has {n} scores for {other} tasks")).into());
    }
    if let Some(score) = scores.iter().find(|score| !(0.0..=1.0).contains(*score)) {
        let problem = format!("--single-task: {score} is no score in 0..=1; see --percent");
        return Err(BadInput(problem).into());
    }
    Ok(())
}

fn table(matrix: &NamedMatrix) -> Table {
    let references = References {
        per_task: matrix.single_task.as_deref(),
        joint: None,
    };
    let mut head = vec!["peer".to_owned()];
    head.extend(Quantity::ALL.map(|quantity| quantity.name().to_owned()));
    let rows = (PEERS.iter())
        .map(|peer| {
            let cell = |quantity| text(peer.print(quantity, &matrix.scores, &references));
            let cells = Quantity::ALL.map(cell);
            std::iter::once(peer.name.to_owned()).chain(cells).collect()
        })
        .collect();
    Table { head, rows }
}

fn text(printed: Printed) -> String {
    match printed {
        Printed::Value(value) => format!("{:.2}", 100.0 * value),
        Printed::NotEvaluated => "needs cells that were not evaluated".to_owned(),
        Printed::NeedsSingleTask => "needs --single-task".to_owned(),
        Printed::OneTask => "none of one task".to_owned(),
        Printed::NotPrinted => "not printed".to_owned(),
        Printed::NotKnown => "not known to us".to_owned(),
    }
}

/// K tasks, `a[i,j]` the score on task j after task i, each formula with its divisor.
fn formulas() -> String {
    let mut text =
        "K tasks, a[i,j] is the score on task j after task i, a[0,j] that of the base:\n"
            .to_owned();
    for peer in PEERS {
        text.push_str(&format!("{}: {}\n", peer.name, peer.note));
        for quantity in Quantity::ALL {
            if let Convention::Prints(formula) = peer.convention(quantity) {
                text.push_str(&format!("  {:<11}{}\n", quantity.name(), formula.text()));
            }
        }
    }
    text
}
