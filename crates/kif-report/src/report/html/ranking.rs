//! The ranking: OP with its interval, what transfer metrics say, and the comparison with a
//! reference.

use kif_eval::Metric;
use maud::{Markup, html};

use super::chart::{Frame, Scale, cut, dot_with_interval, line, percent_tick, svg, text};
use super::{percent, table};
use crate::report::comparison::COMPARING;
use crate::report::spread::Spread;
use crate::report::summary::{MethodSummary, Summary};
use crate::report::table;

/// Height of a row of the chart.
const ROW: f64 = 22.0;

pub(super) fn section(summary: &Summary) -> Markup {
    html! {
        p.note {
            "Overall performance (OP) after the last task: dots are means, bars 95 % intervals over seeds. Grey are \
             references that learn no stream."
        }
        div.wide.fluid { (chart(summary)) }
        (table(&table::methods(summary)))
        p.note { (summary.reading) }
        @if let Some(comparisons) = &summary.comparisons {
            h3 { "Against " (comparisons.reference) }
            (table(&table::comparisons(comparisons)))
            p.note { (COMPARING) }
        }
        (super::folded(false, "All metrics", "under every convention, with 95 % intervals", html! {
            (table(&table::intervals(summary)))
            p.note {
                "In percent, with 95 % intervals of the mean (Student's t) where there are two or more cells: orders are \
                 fixed, seeds vary; with one seed for each order, over the orders."
            }
        }))
    }
}

/// A row a method: its name, dot and interval, and the number.
fn chart(summary: &Summary) -> Markup {
    let rows: Vec<(&MethodSummary, &Spread)> = (summary.methods.iter())
        .filter_map(|method| Some((method, method.metrics.get(&Metric::Op)?)))
        .collect();
    let joint = rows.iter().find(|(method, _)| method.is_joint());
    let marks: Vec<(&str, f64)> = (summary
        .majority
        .iter()
        .map(|spread| ("majority class", spread.mean)))
    .chain(joint.map(|(method, op)| (method.name.as_str(), op.mean)))
    .collect();
    let frame = Frame {
        left: 142.0,
        top: 40.0,
        right: 410.0,
        bottom: 40.0 + ROW * rows.len() as f64,
    };
    let ends = |op: &Spread| op.half_width.map(|half| (op.mean - half, op.mean + half));
    let values = rows.iter().flat_map(|(_, op)| {
        let (low, high) = ends(op).unwrap_or((op.mean, op.mean));
        [low.max(0.0), high.min(1.0)]
    });
    let scale = Scale::around(
        values.chain(marks.iter().map(|mark| mark.1)),
        frame.across(),
    );
    let body = html! {
        (frame.x_axis(&scale, 5, percent_tick, "OP in percent"))
        @for (i, (name, value)) in marks.iter().enumerate() {
            // Names on two lines: their values may be near each other.
            @let (x, y) = (scale.at(*value), frame.top - 8.0 - 15.0 * i as f64);
            (line("mark", (x, y + 4.0), (x, frame.bottom)))
            (text("dim middle", (x, y), &format!("{name} {}", percent(*value))))
        }
        @for (i, (method, op)) in rows.iter().enumerate() {
            @let y = frame.top + ROW * (i as f64 + 0.5);
            (text("end", (frame.left - 10.0, y + 4.0), &cut(&method.name, frame.left)))
            g.reference-dot[!method.is_stream()] { (dot_with_interval(&scale, y, op.mean, ends(op))) }
            (text("", (frame.right + 14.0, y + 4.0), &percent(op.mean)))
        }
    };
    let label = "Overall performance of every method with 95 % intervals";
    svg((470.0, frame.bottom + 42.0), label, body)
}
