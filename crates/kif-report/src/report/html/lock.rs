//! What the run was made of: the program, the hashes of every file, and the protocol.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::folded;
use crate::report::summary::Summary;

pub(super) fn section(summary: &Summary) -> Markup {
    html! {
        @if let Some(lock) = &summary.lock {
            p {
                "kif " (lock.program.version) ", commit " code { (lock.program.git_commit) } ", "
                (format!("{:?}", lock.compute.device)) ", " (format!("{:?}", lock.compute.precision)) ". Trainable parameters: "
                (numbers(&summary.extent.n_params)) "."
            }
            (hashes("Files of the base", &lock.model))
            (hashes("Files of the data", &lock.data))
        } @else {
            p.note { "This run has no lock." }
        }
        (folded(false, "Protocol", "with every default written out", html! { pre { (summary.protocol) } }))
    }
}

fn numbers(values: &[usize]) -> String {
    let texts: Vec<String> = values.iter().map(usize::to_string).collect();
    texts.join(", ")
}

/// blake3 by path.
fn hashes(title: &str, files: &BTreeMap<String, String>) -> Markup {
    let note = format!("({})", files.len());
    folded(
        false,
        title,
        &note,
        html! {
            div.wide {
                table {
                    thead { tr { th scope="col" { "file" } th scope="col" { "blake3" } } }
                    tbody { @for (path, hash) in files { tr { th scope="row" { (path) } td { code { (hash) } } } } }
                }
            }
        },
    )
}
