//! `report.html`: one page that loads nothing from anywhere and runs nothing; a file for each
//! section.

mod chart;
mod cost;
mod forgetting;
mod formulas;
mod fusion;
mod heat_map;
mod lock;
mod ranking;
mod tasks;
mod training;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::head;
use super::summary::Summary;
use super::table::Table;

const STYLE: &str = include_str!("style.css");

/// A part of the page that can be gone to.
struct Section {
    id: &'static str,
    title: &'static str,
    body: Markup,
}

/// The report as a page.
pub(super) fn render(summary: &Summary) -> String {
    let sections: Vec<Section> = [
        ("ranking", "Ranking", Some(ranking::section(summary))),
        (
            "matrices",
            "Accuracy matrices",
            Some(heat_map::section(summary)),
        ),
        (
            "forgetting",
            "Forgetting",
            Some(forgetting::section(summary)),
        ),
        ("cost", "Score against cost", Some(cost::section(summary))),
        (
            "fusion",
            "What was identified and fused",
            fusion::section(summary),
        ),
        ("training", "Training", Some(training::section(summary))),
        ("tasks", "Tasks", Some(tasks::section(summary))),
        (
            "lock",
            "What the run is made of",
            Some(lock::section(summary)),
        ),
        ("formulas", "Formulas", Some(formulas::section(summary))),
    ]
    .into_iter()
    .filter_map(|(id, title, body)| {
        Some(Section {
            id,
            title,
            body: body?,
        })
    })
    .collect();
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                // Nothing may be loaded and nothing run, even if something slipped through
                // unescaped.
                meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (summary.name) ": report" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { (summary.name) }
                    @for sentence in head::sentences(summary) { p.lead { (sentence) } }
                    nav aria-label="Sections" {
                        ul { @for one in &sections { li { a href=(format!("#{}", one.id)) { (one.title) } } } }
                    }
                }
                main {
                    @for one in &sections {
                        section id=(one.id) {
                            h2 { (one.title) }
                            (one.body)
                        }
                    }
                }
            }
        }
    }
    .into_string()
}

/// A table in a box of its own, in which it scrolls where the page is narrow.
fn table(table: &Table) -> Markup {
    html! {
        div.wide {
            table {
                thead { tr { @for cell in &table.head { th scope="col" { (cell) } } } }
                tbody {
                    @for row in &table.rows {
                        tr {
                            @for (i, cell) in row.iter().enumerate() {
                                @if i == 0 { th scope="row" { (cell) } } @else { td { (cell) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A part that is folded, unless `open`.
fn folded(open: bool, title: &str, note: &str, body: Markup) -> Markup {
    html! {
        details open[open] {
            summary { (title) @if !note.is_empty() { span.note { " " (note) } } }
            (body)
        }
    }
}

/// A score in percent with one decimal.
fn percent(score: f64) -> String {
    format!("{:.1}", 100.0 * score)
}

/// The whole of a name that the page may break into lines.
fn tooltip(name: &str) -> Option<&str> {
    (name.chars().count() > 8).then_some(name)
}
