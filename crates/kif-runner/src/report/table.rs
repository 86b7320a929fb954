//! Tables of text: for the terminal, for Markdown, and as cells for the page.

use kif_eval::Metric;

use super::{COLUMNS, Comparisons, MethodSummary, Spread, Summary};

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
pub(crate) const NONE: &str = "–";

/// Methods by metrics.
pub(super) fn methods(summary: &Summary) -> Table {
    let columns: Vec<_> = COLUMNS
        .iter()
        .filter(|(metric, _)| summary.has(*metric))
        .collect();
    let mut head = vec!["method".to_owned()];
    head.extend(columns.iter().map(|(_, title)| (*title).to_owned()));
    head.push(format!("OP {TEST_ROWS}"));
    head.push("cells".to_owned());
    let mut rows = Vec::new();
    for method in &summary.methods {
        let mut row = vec![method.name.clone()];
        row.extend(
            columns
                .iter()
                .map(|(metric, _)| percent(method.metrics.get(metric))),
        );
        row.push(plus_minus(method.test_rows.get(&Metric::Op)));
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
    let metrics: Vec<_> = Metric::ALL
        .iter()
        .copied()
        .filter(|&metric| summary.has(metric))
        .collect();
    let mut head = vec!["metric".to_owned()];
    head.extend(summary.methods.iter().map(|method| method.name.clone()));
    let line = |name: String, cell: &dyn Fn(&MethodSummary) -> String| {
        let cells = summary.methods.iter().map(cell);
        std::iter::once(name).chain(cells).collect()
    };
    let mut rows = Vec::new();
    for metric in metrics {
        rows.push(line(
            metric.name().to_owned(),
            &|method| match method.metrics.get(&metric) {
                Some(spread) => match spread.interval() {
                    Some(interval) => format!("{:.1} {interval}", 100.0 * spread.mean),
                    None => spread.percent(),
                },
                None => NONE.to_owned(),
            },
        ));
        if summary
            .methods
            .iter()
            .any(|m| m.test_rows.contains_key(&metric))
        {
            rows.push(line(format!("{} {TEST_ROWS}", metric.name()), &|method| {
                plus_minus(method.test_rows.get(&metric))
            }));
        }
    }
    Table { head, rows }
}

/// Tasks, with the score of every method at the end.
pub(super) fn tasks(summary: &Summary) -> Table {
    let mut head: Vec<String> = ["task", "train", "test", "cut", "majority", "base"]
        .map(str::to_owned)
        .to_vec();
    head.extend(summary.methods.iter().map(|method| method.name.clone()));
    let rows = (summary.tasks.iter())
        .map(|task| {
            let base = task
                .base
                .map_or(NONE.to_owned(), |score| format!("{:.1}", 100.0 * score));
            let mut row = vec![
                task.name.clone(),
                task.train_rows.to_string(),
                task.test_rows.to_string(),
                task.cut.to_string(),
                format!("{:.1}", 100.0 * task.majority),
                base,
            ];
            row.extend(
                summary
                    .methods
                    .iter()
                    .map(|method| percent(method.last.get(&task.name))),
            );
            row
        })
        .collect();
    Table { head, rows }
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
