//! Training: losses over the stream, times and memory, and what each method was set to.

use maud::{Markup, html};

use super::chart::{Frame, Scale, curve, cut, line, short, svg, text};
use super::{folded, table};
use crate::report::curves::Curve;
use crate::report::summary::{MethodSummary, Summary};
use crate::report::table;

/// Methods whose curves are open from the start.
const N_OPEN: usize = 6;

pub(super) fn section(summary: &Summary) -> Markup {
    let highest = (summary.methods.iter())
        .flat_map(|method| &method.curves)
        .flat_map(|curve| curve.points.iter().map(|point| point.1))
        .filter(|loss| loss.is_finite())
        .fold(0.0, f64::max);
    let (open, rest) = summary.methods.split_at(N_OPEN.min(summary.methods.len()));
    html! {
        h3 { "Loss" }
        p.note {
            "Mean loss in nats per target token on the batches of each task, before their updates, over the stream; means \
             over the seeds of the first order. The vertical axis is the same for all methods."
        }
        (charts(open, highest))
        @if !rest.is_empty() {
            (folded(false, "All other methods", "", charts(rest, highest)))
        }
        h3 { "Times and memory" }
        (table(&table::resources(summary)))
        p.note {
            "Seconds of a cell, means over cells; the peak is that of the process since its cell began, the largest of all \
             cells, and has in it what earlier cells of the process left in its allocator."
        }
        h3 { "Settings" }
        p.note { "What differs between the methods; all else is the same for all of them (below, in the protocol)." }
        (folded(summary.methods.len() <= 8, "Settings of every method", "", settings(&summary.methods)))
    }
}

fn charts(methods: &[MethodSummary], highest: f64) -> Markup {
    html! {
        div.many {
            @for method in methods.iter().filter(|method| !method.curves.is_empty()) {
                figure {
                    h4 { (method.name) }
                    div.wide { (chart(method, highest)) }
                }
            }
        }
    }
}

/// Curves one after the other, with a line between tasks.
fn chart(method: &MethodSummary, highest: f64) -> Markup {
    let frame = Frame {
        left: 34.0,
        top: 20.0,
        right: 540.0,
        bottom: 130.0,
    };
    let n_steps: usize = method.curves.iter().map(|curve| curve.steps).sum();
    let x = Scale::new((0.0, n_steps as f64), frame.across());
    let y = Scale::around([0.0, highest].into_iter(), frame.upwards());
    let mut start = 0;
    let mut placed: Vec<(f64, f64, &Curve)> = Vec::new();
    for one in &method.curves {
        placed.push((start as f64, (start + one.steps) as f64, one));
        start += one.steps;
    }
    let points = |start: f64, one: &Curve| -> Vec<(f64, f64)> {
        let point = |(step, loss): &(f64, f64)| (x.at(start + step), y.at(*loss));
        one.points.iter().map(point).collect()
    };
    let body = html! {
        (frame.y_axis(&y, 3, short, ""))
        (frame.x_axis(&x, 5, short, "steps on batches of the tasks"))
        @for (i, (start, end, one)) in placed.iter().enumerate() {
            @if i > 0 { (line("mark", (x.at(*start), frame.top), (x.at(*start), frame.bottom))) }
            @let room = x.at(*end) - x.at(*start);
            @if room >= 30.0 {
                (text("dim small", (x.at(*start) + 3.0, frame.top - 5.0), &cut(&one.task, room)))
            }
            (curve("curve s0", &points(*start, one), &one.task))
        }
    };
    let label = format!("Training loss of {} over the stream", method.name);
    svg((552.0, frame.bottom + 38.0), &label, body)
}

fn settings(methods: &[MethodSummary]) -> Markup {
    html! {
        div.wide {
            table {
                thead { tr { th scope="col" { "method" } th scope="col" { "what it is" } th scope="col" { "settings" } } }
                tbody {
                    @for method in methods {
                        tr {
                            th scope="row" { (method.name) }
                            td.text { (method.settings.summary()) }
                            td.text { code { (table::settings(&method.settings)) } }
                        }
                    }
                }
            }
        }
    }
}
