//! The formula of every metric that the report shows.

use kif_eval::Metric;
use maud::{Markup, html};

use crate::report::COLUMNS;
use crate::report::summary::Summary;

pub(super) fn section(summary: &Summary) -> Markup {
    let title = |metric: &Metric| {
        let column = COLUMNS.iter().find(|(shown, _)| shown == metric);
        column.map(|(_, title)| *title)
    };
    html! {
        p.note {
            "a[i,j] is the score on task j after task i of K, a[0,j] that of the base; single_task[j] the score of training on \
             task j alone, joint[j] that of training on all tasks together."
        }
        dl {
            @for metric in Metric::ALL.iter().filter(|metric| summary.has(**metric)) {
                dt { code { (metric.name()) } @if let Some(title) = title(metric) { " (" (title) ")" } }
                dd { code { (metric.formula()) } }
            }
        }
    }
}
