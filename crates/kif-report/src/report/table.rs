//! Tables of text: for the terminal, for Markdown, and as cells for the page.

use kif_eval::Metric;
use kif_methods::methods::MethodConfig;
use kif_protocol::ScoreKind;

use super::COLUMNS;
use super::comparison::Comparisons;
use super::density::Region;
use super::spread::Spread;
use super::summary::{MethodSummary, Summary};

/// Rows of cells under a head; all rows have as many cells as the head.
pub struct Table {
    /// Titles of the columns.
    pub head: Vec<String>,
    /// Cells, row by row.
    pub rows: Vec<Vec<String>>,
}

/// Title of what test rows leave uncertain.
const TEST_ROWS: &str = "± test rows";

/// A cell without a value.
pub const NONE: &str = "–";

/// What the columns of [`costs`] are.
pub(super) const COUNTING: &str = "\
Means over cells. Updates are those of the optimizer, memory steps included. Tokens are inputs and targets of training: \
forward counts passes without a gradient, too. Replayed are rows of memory steps; rows that are shuffled into the batches of a \
task are not among them. Kept is what goes from task to task beside the base and one adapter: rows of earlier tasks (4 bytes a \
token id) and vectors of the method, frozen adapters or prompts, rows that it drew (4 bytes a number). Joint training keeps all \
rows, tasks alone an adapter each.\n";

fn none() -> String {
    NONE.to_owned()
}

/// Methods by metrics.
pub(super) fn methods(summary: &Summary) -> Table {
    let columns: Vec<_> = COLUMNS
        .iter()
        .filter(|(metric, _)| summary.has(*metric))
        .collect();
    let mut head = vec!["method".to_owned()];
    for (metric, title) in &columns {
        head.push((*title).to_owned());
        if *metric == Metric::Op {
            head.push("95 % interval".to_owned());
            head.push(TEST_ROWS.to_owned());
        }
    }
    head.push("cells".to_owned());
    let mut rows = Vec::new();
    for method in &summary.methods {
        let mut row = vec![method.name.clone()];
        for (metric, _) in &columns {
            let spread = method.metrics.get(metric);
            row.push(percent(spread));
            if *metric == Metric::Op {
                row.push(spread.and_then(Spread::interval).unwrap_or_else(none));
                row.push(plus_minus(method.test_rows.get(metric)));
            }
        }
        row.push(method.n_cells.to_string());
        rows.push(row);
    }
    if let Some(majority) = &summary.majority {
        let mut row = vec![
            "majority class".to_owned(),
            format!("{:.1}", 100.0 * majority.mean),
        ];
        row.resize(head.len(), NONE.to_owned());
        rows.push(row);
    }
    Table { head, rows }
}

/// Methods by their difference from the reference.
pub(crate) fn comparisons(comparisons: &Comparisons) -> Table {
    let p = |p: Option<f64>| p.map_or(NONE.to_owned(), |p| format!("{p:.4}"));
    let rows = (comparisons.methods.iter())
        .map(|one| {
            let interval = one.difference.interval();
            let detectable = one.detectable.map(|d| format!("{:.1}", 100.0 * d));
            vec![
                one.method.clone(),
                format!("{:+.1}", 100.0 * one.difference.mean),
                interval.unwrap_or_else(|| NONE.to_owned()),
                plus_minus(one.test_rows.as_ref()),
                p(one.p),
                p(one.p_holm),
                detectable.unwrap_or_else(|| NONE.to_owned()),
                one.difference.n.to_string(),
            ]
        })
        .collect();
    let head = [
        &format!("OP less {}", comparisons.reference),
        "difference",
        "95 % interval",
        TEST_ROWS,
        "p",
        "p (Holm)",
        "detectable",
        "cells",
    ];
    Table {
        head: head.map(str::to_owned).to_vec(),
        rows,
    }
}

/// Methods by all metrics that some of them have, with 95 % intervals.
pub(super) fn intervals(summary: &Summary) -> Table {
    let metrics: Vec<Metric> = (Metric::ALL.iter().copied())
        .filter(|&metric| summary.has(metric))
        .collect();
    let of_rows: Vec<Metric> = (metrics.iter().copied())
        .filter(|metric| {
            summary
                .methods
                .iter()
                .any(|m| m.test_rows.contains_key(metric))
        })
        .collect();
    let columns = (metrics.iter().map(|metric| metric.name().to_owned())).chain(
        of_rows
            .iter()
            .map(|metric| format!("{} {TEST_ROWS}", metric.name())),
    );
    by_method(summary, columns, |method| {
        let cells = metrics.iter().map(|metric| {
            method
                .metrics
                .get(metric)
                .map_or_else(none, Spread::with_interval)
        });
        let of_rows = of_rows
            .iter()
            .map(|metric| plus_minus(method.test_rows.get(metric)));
        cells.chain(of_rows).collect()
    })
}

/// Tasks by what is known about them.
pub(super) fn tasks(summary: &Summary) -> Table {
    let head = [
        "task", "train", "test", "cut", "labels", "score", "majority", "base",
    ];
    let rows = (summary.tasks.iter())
        .map(|task| {
            vec![
                task.name.clone(),
                task.train_rows.to_string(),
                task.test_rows.to_string(),
                task.cut.to_string(),
                task.n_labels.to_string(),
                score(task.score).to_owned(),
                format!("{:.1}", 100.0 * task.majority),
                (task.base).map_or_else(none, |score| format!("{:.1}", 100.0 * score)),
            ]
        })
        .collect();
    Table {
        head: head.map(str::to_owned).to_vec(),
        rows,
    }
}

fn score(kind: ScoreKind) -> &'static str {
    match kind {
        ScoreKind::Exact => "exact match",
        ScoreKind::Labels => "likeliest label",
        ScoreKind::RougeL => "ROUGE-L",
    }
}

/// Methods by their score on each task at the end.
pub(super) fn last_scores(summary: &Summary) -> Table {
    let names = summary.tasks.iter().map(|task| task.name.clone());
    by_method(summary, names, |method| {
        let tasks = summary.tasks.iter();
        tasks
            .map(|task| percent(method.last.get(&task.name)))
            .collect()
    })
}

/// Methods by what a cell of them costs.
pub(super) fn costs(summary: &Summary) -> Table {
    let head = [
        "OP",
        "updates",
        "tokens forward",
        "tokens backward",
        "rows replayed",
        "rows kept",
        "bytes kept",
        "training s",
        "peak MiB",
    ];
    by_method(summary, head.map(str::to_owned), |method| {
        let costs = &method.costs;
        let op = method.metrics.get(&Metric::Op);
        let known = |value: Option<f64>| value.map_or_else(none, whole);
        vec![
            op.map_or_else(none, |op| format!("{:.1}", 100.0 * op.mean)),
            whole(costs.updates),
            whole(costs.tokens_forward),
            whole(costs.tokens_backward),
            whole(costs.replayed_rows),
            known(costs.kept_rows),
            known(costs.kept_bytes),
            format!("{:.1}", costs.train_s),
            (costs.peak_mib).map_or_else(none, |mib| mib.to_string()),
        ]
    })
}

/// Methods by time, memory and threads.
pub(super) fn resources(summary: &Summary) -> Table {
    let head = [
        "cells",
        "training s",
        "evaluation s",
        "ms an update",
        "peak MiB",
        "threads",
        "resumed",
    ];
    by_method(summary, head.map(str::to_owned), |method| {
        let costs = &method.costs;
        let threads: Vec<String> = costs.threads.iter().map(usize::to_string).collect();
        vec![
            method.n_cells.to_string(),
            format!("{:.1}", costs.train_s),
            format!("{:.1}", costs.evaluate_s),
            format!("{:.1}", 1e3 * costs.train_s / costs.updates.max(1.0)),
            (costs.peak_mib).map_or_else(none, |mib| mib.to_string()),
            threads.join(", "),
            costs.resumed.to_string(),
        ]
    })
}

/// Methods with masks by the shares of the regions, means over the tasks of their first order.
pub(super) fn densities(summary: &Summary) -> Table {
    let mut head = vec!["method".to_owned(), "rounds".to_owned()];
    head.extend(Region::ALL.map(|region| region.name().to_owned()));
    let rows = (summary.methods.iter())
        .filter_map(|method| {
            let tasks = &method.density.as_ref()?.tasks;
            let rounds: f64 = tasks.iter().map(|task| task.rounds).sum();
            let mut row = vec![method.name.clone(), whole(rounds)];
            row.extend((0..Region::ALL.len()).map(|region| {
                let sum: f64 = tasks.iter().map(|task| task.overall[region]).sum();
                format!("{:.1}", 100.0 * sum / tasks.len() as f64)
            }));
            Some(row)
        })
        .collect();
    Table { head, rows }
}

/// A method's own settings as RON.
pub(super) fn settings(method: &MethodConfig) -> String {
    ron::to_string(method).unwrap_or_default()
}

/// A row a method; `columns` are those after its name.
fn by_method(
    summary: &Summary,
    columns: impl IntoIterator<Item = String>,
    cells: impl Fn(&MethodSummary) -> Vec<String>,
) -> Table {
    let mut head = vec!["method".to_owned()];
    head.extend(columns);
    let rows = (summary.methods.iter())
        .map(|method| {
            let mut row = vec![method.name.clone()];
            row.extend(cells(method));
            row
        })
        .collect();
    Table { head, rows }
}

fn whole(x: f64) -> String {
    format!("{x:.0}")
}

fn plus_minus(half_width: Option<&f64>) -> String {
    half_width.map_or(NONE.to_owned(), |half| format!("± {:.1}", 100.0 * half))
}

fn percent(spread: Option<&Spread>) -> String {
    spread.map_or(NONE.to_owned(), Spread::percent)
}

impl Table {
    /// Aligned columns under a line: first column left, others right.
    pub fn to_text(&self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| &row[column]);
            cells
                .chain([&self.head[column]])
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        let line = |cells: &[String]| {
            let mut text = String::new();
            for (i, (cell, &width)) in cells.iter().zip(&widths).enumerate() {
                let fill = " ".repeat(width - cell.chars().count());
                text.push_str(&if i == 0 {
                    format!("{cell}{fill}")
                } else {
                    format!("  {fill}{cell}")
                });
            }
            text.truncate(text.trim_end().len());
            text + "\n"
        };
        let rule = "─".repeat(widths.iter().sum::<usize>() + 2 * (widths.len() - 1));
        let rows: String = self.rows.iter().map(|row| line(row)).collect();
        format!("{}{rule}\n{rows}", line(&self.head))
    }

    /// A Markdown table. Bars in names would break it and are escaped.
    pub(crate) fn to_markdown(&self) -> String {
        let line = |cells: &[String]| {
            let cells: Vec<String> = cells.iter().map(|cell| escape(cell)).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        let rule: Vec<String> = (0..self.head.len())
            .map(|i| if i == 0 { "---" } else { "---:" }.to_owned())
            .collect();
        let rows: String = self.rows.iter().map(|row| line(row)).collect();
        format!("{}{}{rows}", line(&self.head), line(&rule))
    }
}

/// Text that Markdown shows as it is.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '|' | '<' | '>' | '*' | '`' | '[' | ']' | '\\' => escaped.extend(['\\', c]),
            '\n' => escaped.push(' '),
            _ => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let text = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        Table {
            head: text(["method", "OP"]),
            rows: vec![text(["a|b", "71.0 ± 1.4"])],
        }
    }

    #[test]
    fn text_columns_are_aligned_by_characters() {
        let lines = table().to_text();
        assert_eq!(
            lines,
            "method          OP\n──────────────────\na|b     71.0 ± 1.4\n"
        );
    }

    #[test]
    fn bars_do_not_break_markdown() {
        assert!(
            table()
                .to_markdown()
                .ends_with("| --- | ---: |\n| a\\|b | 71.0 ± 1.4 |\n")
        );
    }
}
