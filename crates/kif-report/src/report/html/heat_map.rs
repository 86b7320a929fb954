//! Accuracy matrices as heat maps, with the numbers in their cells.

use maud::{Markup, html};

use super::chart::{heat, heat_key};
use super::{folded, percent, tooltip};
use crate::report::summary::{MatrixMean, Summary};

/// Methods whose matrices are open from the start.
const N_OPEN: usize = 3;

pub(super) fn section(summary: &Summary) -> Markup {
    html! {
        p.note {
            "Scores in percent on every task (columns) after each task (rows), means over seeds. Framed: the task that was \
             just learned. Row \u{201c}base\u{201d} is the model before any task. Joint training has only the last row; tasks \
             trained alone are learned from the base each, and their last row repeats the diagonal."
        }
        (heat_key("0 %", "100 %"))
        @for (i, method) in summary.methods.iter().enumerate() {
            (folded(i < N_OPEN, &method.name, "", html! {
                div.many { @for matrix in &method.matrices { (heat_map(matrix)) } }
            }))
        }
    }
}

fn heat_map(matrix: &MatrixMean) -> Markup {
    let after = |row: usize| match row {
        0 => "base",
        _ => matrix.tasks[row - 1].as_str(),
    };
    html! {
        div.wide {
            table.heat {
                caption { "order " (matrix.order) }
                thead {
                    tr {
                        th scope="col" { "after" }
                        @for task in &matrix.tasks { th scope="col" title=[tooltip(task)] { (task) } }
                    }
                }
                tbody {
                    @for (row, scores) in matrix.rows.iter().enumerate() {
                        tr {
                            th scope="row" title=[tooltip(after(row))] { (after(row)) }
                            @for (task, score) in scores.iter().enumerate() { (cell(*score, row == task + 1)) }
                        }
                    }
                }
            }
        }
    }
}

fn cell(score: Option<f64>, own: bool) -> Markup {
    let Some(score) = score else {
        return html! { td {} };
    };
    let mut class = heat(score);
    if own {
        class.push_str(" own");
    }
    html! { td class=(class) { (percent(score)) } }
}
