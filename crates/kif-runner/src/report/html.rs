//! `report.html`: the same as a page of its own, with matrices as heat maps; it loads nothing from anywhere.

use kif_eval::Metric;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::comparison::COMPARING;
use super::summary::READING;
use super::table::{self, Table};
use super::{MatrixMean, Summary};

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1d2430; --dim: #667085; --line: #d8dde6; --paper: #ffffff; --heat: 37, 99, 235; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ef; --dim: #98a2b3; --line: #344054; --paper: #12161d; --heat: 96, 145, 255; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 72rem; padding: 0 1rem; }
h1, h2, h3 { line-height: 1.2; } h2 { margin-top: 2.2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.heat td { border: 1px solid var(--paper); }
.maps { display: flex; flex-wrap: wrap; gap: 2rem; } .maps h3 { font-size: 1rem; margin: .5rem 0; }
.note, dd { color: var(--dim); } code, pre { font: 13px/1.45 ui-monospace, monospace; } dd { margin: 0 0 .4rem 1rem; }
pre { overflow-x: auto; border: 1px solid var(--line); padding: .8rem; }
";

/// The report as a page.
pub(super) fn render(summary: &Summary) -> String {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (summary.name) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { (summary.name) }
                h2 { "Methods" }
                (plain(&table::methods(summary)))
                p.note { (READING) }
                dl {
                    @for metric in Metric::ALL.iter().filter(|metric| summary.has(**metric)) {
                        dt { code { (metric.name()) } }
                        dd { code { (metric.formula()) } }
                    }
                }
                @if let Some(comparisons) = &summary.comparisons {
                    h2 { "Comparison" }
                    (plain(&table::comparisons(comparisons)))
                    p.note { (COMPARING) }
                }
                h2 { "Tasks" }
                (plain(&table::tasks(summary)))
                p.note {
                    "Scores after the last task, in percent. The majority column always answers the most frequent training \
                     label, base is the model before any task, cut counts prompts that lost tokens."
                }
                h2 { "All metrics" }
                (plain(&table::intervals(summary)))
                p.note { "In percent, with 95 % intervals of the mean where there are two or more cells." }
                h2 { "Matrices" }
                p.note { "Scores in percent on every task (columns) after each task (rows), means over seeds." }
                div.maps {
                    @for method in &summary.methods {
                        @for matrix in &method.matrices { (heat_map(&method.name, matrix)) }
                    }
                }
                h2 { "Run" }
                @if let Some(lock) = &summary.lock {
                    p { "kif " (lock.program.version) ", commit " code { (lock.program.git_commit) } }
                }
                pre { (summary.protocol) }
            }
        }
    }
    .into_string()
}

fn plain(table: &Table) -> Markup {
    html! {
        div.wide {
            table {
                thead { tr { @for cell in &table.head { th { (cell) } } } }
                tbody { @for row in &table.rows { tr { @for cell in row { td { (cell) } } } } }
            }
        }
    }
}

fn heat_map(method: &str, matrix: &MatrixMean) -> Markup {
    html! {
        section {
            h3 { (method) ", order " (matrix.order) }
            div.wide {
                table.heat {
                    thead { tr { th { "after" } @for task in &matrix.tasks { th { (task) } } } }
                    tbody {
                        @for (after, row) in matrix.rows.iter().enumerate() {
                            tr {
                                td { @if after == 0 { "base" } @else { (matrix.tasks[after - 1]) } }
                                @for cell in row { (heat(*cell)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A cell that is the darker the better; at most 60 % ink, so that the number stays readable in both schemes.
fn heat(score: Option<f64>) -> Markup {
    match score {
        Some(score) => {
            let style = format!("background: rgba(var(--heat), {:.2})", 0.6 * score);
            html! { td style=(style) { (format!("{:.1}", 100.0 * score)) } }
        }
        None => html! { td {} },
    }
}
