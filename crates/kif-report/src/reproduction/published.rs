//! Published results that ours are held against.

use serde::Deserialize;

/// Results that a source gives for one benchmark and one base.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Published {
    /// Where they are from.
    pub(super) source: String,
    /// Name of the built-in protocol.
    pub(super) benchmark: String,
    /// Orders that they are the mean of, from 1.
    pub(super) orders: Vec<usize>,
    /// Base model.
    pub(super) base: String,
    /// Passes over a task's rows.
    pub(super) epochs: u64,
    /// A row for every method.
    pub(super) rows: Vec<PublishedRow>,
}

/// What was published of a method, in percent.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PublishedRow {
    /// The methods here that follow it.
    pub(super) methods: Vec<String>,
    /// Mean score after the last task.
    pub(super) op: f64,
    /// Backward transfer, where it was given.
    #[serde(default)]
    pub(super) bwt: Option<f64>,
}

impl Published {
    /// All that is known to us.
    pub(super) fn all() -> Vec<Self> {
        kif_io::ron::ron_options()
            .from_str(include_str!("published.ron"))
            .expect("the table of published results is part of the program")
    }

    /// The row of a method.
    pub(super) fn row(&self, method: &str) -> Option<&PublishedRow> {
        self.rows
            .iter()
            .find(|row| row.methods.iter().any(|name| name == method))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kif_protocol::Protocol;

    #[test]
    fn published_results_are_percent_of_built_in_benchmarks() {
        for table in Published::all() {
            let stream = Protocol::load(&table.benchmark).unwrap().stream().unwrap();
            assert!(
                table
                    .orders
                    .iter()
                    .all(|&o| (1..=stream.orders.len()).contains(&o))
            );
            for row in &table.rows {
                assert!((0.0..=100.0).contains(&row.op) && !row.methods.is_empty());
                assert!(row.bwt.is_none_or(|bwt| (-100.0..=0.0).contains(&bwt)));
            }
        }
    }
}
