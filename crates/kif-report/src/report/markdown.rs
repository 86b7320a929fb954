//! `report.md`: the tables, the formulas, and what the run was made of, for terminals and pull
//! requests.

use std::fmt::Write;

use kif_eval::Metric;

use super::comparison::COMPARING;
use super::summary::{MatrixMean, Summary};
use super::table::{self, COUNTING, escape};

/// The report as Markdown.
pub(super) fn render(summary: &Summary) -> String {
    let mut text = format!("# {}\n\n", escape(&summary.name));
    for sentence in super::head::sentences(summary) {
        let _ = write!(text, "{}\n\n", escape(&sentence));
    }
    let ranking = table::methods(summary).to_markdown();
    section(
        &mut text,
        "Ranking",
        &format!("{ranking}\n{}", summary.reading),
    );
    if let Some(comparisons) = &summary.comparisons {
        let table = table::comparisons(comparisons).to_markdown();
        section(&mut text, "Comparison", &format!("{table}\n{COMPARING}"));
    }
    section(&mut text, "Tasks", &tasks(summary));
    section(&mut text, "Metrics", &metrics(summary));
    section(&mut text, "Matrices", &matrices(summary));
    if summary
        .methods
        .iter()
        .any(|method| method.density.is_some())
    {
        section(&mut text, "Masks", &masks(summary));
    }
    section(&mut text, "Costs", &costs(summary));
    section(&mut text, "Run", &run(summary));
    text
}

fn section(text: &mut String, title: &str, body: &str) {
    let _ = write!(text, "## {title}\n\n{body}\n");
}

fn tasks(summary: &Summary) -> String {
    format!(
        "{}\n`majority` always answers the most frequent training label, `base` is the model before any task, `cut` counts \
        prompts that lost tokens. Scores in percent, below after the last task.\n\n{}",
        table::tasks(summary).to_markdown(),
        table::last_scores(summary).to_markdown()
    )
}

fn metrics(summary: &Summary) -> String {
    let mut text = table::intervals(summary).to_markdown();
    text.push_str("\nIn percent, with 95 % intervals of the mean (Student's t) where there are two or more cells: orders are fixed, \
        seeds vary; with one seed for each order, over the orders.\n\n");
    for metric in Metric::ALL.iter().filter(|metric| summary.has(**metric)) {
        let _ = writeln!(text, "- `{}` = `{}`", metric.name(), metric.formula());
    }
    text
}

fn matrices(summary: &Summary) -> String {
    let mut text = "Scores in percent after each task (rows), means over seeds. Row `base` is the model before any task; joint \
                    training has only the last row. Tasks trained alone are learned from the base each: their last row \
                    repeats the diagonal.\n\n"
        .to_owned();
    for method in &summary.methods {
        for matrix in &method.matrices {
            let _ = write!(
                text,
                "### {}, order {}\n\n{}\n",
                escape(&method.name),
                matrix.order,
                table_of(matrix).to_markdown()
            );
        }
    }
    text
}

fn table_of(matrix: &MatrixMean) -> table::Table {
    let mut head = vec!["after".to_owned()];
    head.extend(matrix.tasks.iter().cloned());
    let rows = (matrix.rows.iter().enumerate())
        .map(|(after, row)| {
            let name = if after == 0 {
                "base".to_owned()
            } else {
                matrix.tasks[after - 1].clone()
            };
            let cells = row
                .iter()
                .map(|cell| cell.map_or(String::new(), |score| format!("{:.1}", 100.0 * score)));
            std::iter::once(name).chain(cells).collect()
        })
        .collect();
    table::Table { head, rows }
}

fn masks(summary: &Summary) -> String {
    format!(
        "{}\nShares in percent of all parameters that the importance masks chose, means over the tasks of the first order.\n",
        table::densities(summary).to_markdown()
    )
}

fn costs(summary: &Summary) -> String {
    format!(
        "{}\n{COUNTING}\n{}",
        table::costs(summary).to_markdown(),
        table::resources(summary).to_markdown()
    )
}

fn run(summary: &Summary) -> String {
    let mut text = String::new();
    if let Some(lock) = &summary.lock {
        let program = &lock.program;
        let _ = writeln!(
            text,
            "- kif {}, commit {}",
            program.version,
            escape(&program.git_commit)
        );
        let _ = writeln!(
            text,
            "- {:?}, {:?}",
            lock.compute.device, lock.compute.precision
        );
        let _ = writeln!(
            text,
            "- {} data files, {} model files (hashes in `lock.json`)",
            lock.data.len(),
            lock.model.len()
        );
    }
    let _ = write!(text, "\n```ron\n{}```\n", summary.protocol);
    text
}
