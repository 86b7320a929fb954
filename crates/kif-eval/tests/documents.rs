//! `docs/metrics.md` says what the code computes.

use std::fmt::Write;

use kif_eval::Metric;
use kif_eval::conventions::{Convention, PEERS, Quantity};

fn code(text: &str) -> String {
    // Bars would end a cell.
    format!("`{}`", text.replace('|', "\\|"))
}

/// Every metric with its formula.
fn metrics() -> String {
    let mut table = "| metric | formula |\n|---|---|\n".to_owned();
    for metric in Metric::ALL {
        let _ = writeln!(
            table,
            "| {} | {} |",
            code(metric.name()),
            code(metric.formula())
        );
    }
    table
}

/// Every peer with what it prints; our own metrics by name.
fn peers() -> String {
    let mut table =
        "| peer | average | BWT | FWT | forgetting | note |\n|---|---|---|---|---|---|\n"
            .to_owned();
    for peer in PEERS {
        let cells = Quantity::ALL.map(|quantity| match peer.convention(quantity) {
            Convention::Prints(formula) => {
                code(formula.metric().map_or(formula.text(), Metric::name))
            }
            Convention::NotPrinted => "not printed".to_owned(),
            Convention::NotKnown => "not known to us".to_owned(),
        });
        let _ = writeln!(
            table,
            "| {} | {} | {} |",
            peer.name,
            cells.join(" | "),
            peer.note
        );
    }
    table
}

#[test]
fn the_document_has_the_tables_of_the_code() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
    let document = std::fs::read_to_string(path).unwrap();
    for table in [metrics(), peers()] {
        assert!(
            document.contains(&table),
            "docs/metrics.md lacks this table:\n{table}"
        );
    }
}
