//! Forgetting curves: the score of each task after it was learned and after every later one.

use maud::{Markup, html};

use super::chart::{Frame, N_SERIES, Scale, curve, key, percent_tick, series, svg};
use super::folded;
use crate::report::summary::{MatrixMean, MethodSummary, Summary};

pub(super) fn section(summary: &Summary) -> Markup {
    let methods = in_front(summary);
    let names = || methods.iter().map(|method| method.name.as_str());
    let orders = &summary.extent.orders;
    html! {
        p.note {
            "One panel a task: its score in percent right after it was learned, and after each later task. Means over seeds; \
             the vertical axis is the same in all panels. Coloured: the methods with the highest OP, the reference of the \
             comparison, and plain fine-tuning."
        }
        (key(names().take(N_SERIES), methods.len() > N_SERIES))
        @for (i, order) in orders.iter().enumerate() {
            (folded(i == 0, &format!("order {order}"), "", panels(&methods, *order)))
        }
    }
}

/// Methods that learn a stream: those with a colour first, the others in their order.
pub(super) fn in_front(summary: &Summary) -> Vec<&MethodSummary> {
    let streams = || summary.methods.iter().filter(|method| method.is_stream());
    let reference = summary.comparisons.as_ref().map(|c| c.reference.as_str());
    let is_known = |method: &&MethodSummary| {
        Some(method.name.as_str()) == reference || method.name == "seq_lora"
    };
    let known: Vec<_> = streams().filter(is_known).collect();
    let n_best = N_SERIES - known.len().min(N_SERIES);
    let best: Vec<_> = streams()
        .filter(|method| !is_known(method))
        .take(n_best)
        .collect();
    let is_front = |method: &MethodSummary| {
        known
            .iter()
            .chain(&best)
            .any(|front| std::ptr::eq(*front, method))
    };
    let front = streams().filter(|method| is_front(method));
    front
        .chain(streams().filter(|method| !is_front(method)))
        .collect()
}

fn panels(methods: &[&MethodSummary], order: usize) -> Markup {
    let matrices: Vec<(usize, &str, &MatrixMean)> = (methods.iter().enumerate())
        .filter_map(|(i, method)| {
            let matrix = method
                .matrices
                .iter()
                .find(|matrix| matrix.order == order)?;
            Some((i, method.name.as_str(), matrix))
        })
        .collect();
    let Some((_, _, first)) = matrices.first() else {
        return html! { p.note { "No method has this order." } };
    };
    let n_tasks = first.tasks.len();
    html! {
        div.many {
            @for (task, name) in first.tasks.iter().enumerate().take(n_tasks.saturating_sub(1)) {
                figure {
                    h4 { (name) }
                    div.wide { (panel(&matrices, task, name)) }
                }
            }
        }
        @if n_tasks < 2 { p.note { "One task: nothing comes after it." } }
    }
}

/// Scores of `task`, a line a method; grey ones lie below.
fn panel(matrices: &[(usize, &str, &MatrixMean)], task: usize, name: &str) -> Markup {
    let n_tasks = matrices[0].2.tasks.len();
    let frame = Frame {
        left: 34.0,
        top: 8.0,
        right: 312.0,
        bottom: 150.0,
    };
    let x = Scale::new((task as f64 + 1.0, n_tasks as f64), frame.across());
    let y = Scale::new((0.0, 1.0), frame.upwards());
    let line_of = |matrix: &MatrixMean| -> Vec<(f64, f64)> {
        (task + 1..=n_tasks)
            .filter_map(|after| {
                let score = matrix.rows[after][task]?;
                Some((x.at(after as f64), y.at(score)))
            })
            .collect()
    };
    let number = |tick: f64| format!("{tick:.0}");
    let ticks = (n_tasks - task - 1).clamp(1, 7);
    let body = html! {
        (frame.y_axis(&y, 4, percent_tick, ""))
        (frame.x_axis(&x, ticks, number, "tasks learned"))
        @for (i, method, matrix) in matrices.iter().rev() {
            (curve(&series(*i), &line_of(matrix), method))
        }
    };
    let label = format!("Score on {name} after it was learned and after each later task");
    svg((324.0, frame.bottom + 38.0), &label, body)
}
