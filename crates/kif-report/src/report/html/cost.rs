//! What scores cost: OP against tokens and against seconds, and everything that was counted.

use kif_eval::Metric;
use maud::{Markup, html};

use super::chart::{Frame, Scale, line, percent_tick, px, short, spread_out, svg, text};
use super::{percent, table};
use crate::report::summary::{MethodSummary, Summary};
use crate::report::table;

pub(super) fn section(summary: &Summary) -> Markup {
    let tokens = |method: &MethodSummary| method.costs.tokens();
    let seconds = |method: &MethodSummary| method.costs.train_s;
    html! {
        p.note { "Up and to the left is better. Every dot is a method, a mean over its cells; grey are references." }
        div.many {
            figure {
                h3 { "OP against tokens" }
                div.wide { (chart(summary, tokens, "tokens through the model in training, forward and backward")) }
            }
            figure {
                h3 { "OP against time" }
                div.wide { (chart(summary, seconds, "seconds of training")) }
            }
        }
        h3 { "Everything that was counted" }
        (table(&table::costs(summary)))
        p.note { (table::COUNTING) }
    }
}

/// Dots with their names in a column beside the plot, each with a line to its dot.
fn chart(summary: &Summary, cost: fn(&MethodSummary) -> f64, name: &str) -> Markup {
    let mut points: Vec<(&MethodSummary, f64, f64)> = (summary.methods.iter())
        .filter_map(|method| Some((method, cost(method), method.metrics.get(&Metric::Op)?.mean)))
        .collect();
    points.sort_by(|a, b| b.2.total_cmp(&a.2));
    let frame = Frame {
        left: 44.0,
        top: 30.0,
        right: 380.0,
        bottom: (30.0 + 15.0 * points.len() as f64).max(270.0),
    };
    let costs = points.iter().map(|point| point.1);
    let x = Scale::around(costs.chain([0.0]), frame.across());
    let y = Scale::around(points.iter().map(|point| point.2), frame.upwards());
    let dots: Vec<(f64, f64)> = points
        .iter()
        .map(|(_, cost, op)| (x.at(*cost), y.at(*op)))
        .collect();
    let wanted: Vec<f64> = dots.iter().map(|dot| dot.1).collect();
    let labels = spread_out(&wanted, 14.0, (frame.top, frame.bottom));
    let column = frame.right + 26.0;
    let body = html! {
        (frame.y_axis(&y, 5, percent_tick, "OP in percent"))
        (frame.x_axis(&x, 5, short, name))
        @for ((x, y), label) in dots.iter().zip(&labels) {
            (line("leader", (*x, *y), (column - 4.0, *label)))
        }
        @for (((method, cost, op), (x, y)), label) in points.iter().zip(&dots).zip(&labels) {
            g.reference-dot[!method.is_stream()] {
                circle.dot cx=(px(*x)) cy=(px(*y)) r="4.5" {
                    title { (method.name) ": " (percent(*op)) " % at " (short(*cost)) }
                }
            }
            (text("", (column, label + 4.0), &method.name))
        }
    };
    svg(
        (560.0, frame.bottom + 42.0),
        &format!("Overall performance against {name}"),
        body,
    )
}
