//! Task streams: which tasks a benchmark has, and the orders in which they are learned.

use std::collections::BTreeSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::layouts::Layout;

/// A benchmark's tasks in its published orders.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stream {
    /// `standard`, `long`, `superni`, or the name of one's own.
    pub name: String,
    /// How the tasks lie on disk.
    pub layout: Layout,
    /// The number of each order in the authors' code; empty for a stream of one's own.
    #[serde(default)]
    pub published_ids: Vec<u32>,
    /// Task names, order by order; every order has the same tasks.
    pub orders: Vec<Vec<String>>,
}

/// Names of the built-in streams.
pub const BUILTIN: [&str; 3] = ["standard", "long", "superni"];

impl Stream {
    /// A built-in stream.
    pub fn builtin(name: &str) -> Option<Self> {
        let text = match name {
            "standard" => include_str!("../streams/standard.ron"),
            "long" => include_str!("../streams/long.ron"),
            "superni" => include_str!("../streams/superni.ron"),
            _ => return None,
        };
        let path = format!("streams/{name}.ron");
        Some(
            Self::from_ron(text, Path::new(&path))
                .unwrap_or_else(|error| panic!("built-in stream: {error}")),
        )
    }

    /// Reads a stream from RON text; `path` is where the text came from, for errors.
    ///
    /// An order that is empty, repeats a task or has other tasks than the first order is an error.
    pub fn from_ron(text: &str, path: &Path) -> Result<Self, DataError> {
        let error = |line, column, problem| DataError::Stream {
            path: path.into(),
            line,
            column,
            problem,
        };
        let options =
            ron::Options::default().with_default_extension(ron::extensions::Extensions::empty());
        let stream: Self = options
            .from_str(text)
            .map_err(|e| error(e.span.start.line, e.span.start.col, e.code.to_string()))?;
        stream.check().map_err(|problem| error(1, 1, problem))?;
        Ok(stream)
    }

    /// Order `number`, counted from 1 as in reports and on the command line.
    pub fn order(&self, number: usize) -> Option<&[String]> {
        self.orders.get(number.checked_sub(1)?).map(Vec::as_slice)
    }

    fn check(&self) -> Result<(), String> {
        let Some(first) = self.orders.first() else {
            return Err("`orders` is empty, expected at least one order".into());
        };
        if !self.published_ids.is_empty() && self.published_ids.len() != self.orders.len() {
            let (n_ids, n_orders) = (self.published_ids.len(), self.orders.len());
            return Err(format!(
                "`published_ids` has {n_ids} entries for {n_orders} orders"
            ));
        }
        let tasks: BTreeSet<&String> = first.iter().collect();
        for (i, order) in self.orders.iter().enumerate() {
            if order.is_empty() {
                return Err(format!(
                    "order {} is empty, expected at least one task",
                    i + 1
                ));
            }
            let of_order: BTreeSet<&String> = order.iter().collect();
            if of_order.len() != order.len() {
                return Err(format!("order {} names a task twice", i + 1));
            }
            if of_order != tasks {
                return Err(format!(
                    "order {} does not have the tasks of order 1",
                    i + 1
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_streams_have_the_published_orders() {
        for (name, n_orders, n_tasks) in [("standard", 3, 4), ("long", 3, 15), ("superni", 2, 15)] {
            let stream = Stream::builtin(name).unwrap();
            assert_eq!(stream.name, name);
            assert_eq!(
                (stream.orders.len(), stream.orders[0].len()),
                (n_orders, n_tasks)
            );
            assert_eq!(stream.published_ids.len(), n_orders);
        }
        let standard = Stream::builtin("standard").unwrap();
        assert_eq!(
            standard.order(3).unwrap(),
            ["yahoo", "amazon", "agnews", "dbpedia"]
        );
        assert_eq!((standard.order(0), standard.order(4)), (None, None));
        assert_eq!(Stream::builtin("nonesuch"), None);
    }

    #[test]
    fn faulty_streams_say_what_is_wrong() {
        let read = |orders: &str| {
            let text = format!("(name: \"mine\", layout: jsonl, orders: {orders})");
            Stream::from_ron(&text, Path::new("mine.ron")).map_err(|e| e.to_string())
        };
        assert!(read("[[\"a\", \"b\"], [\"b\", \"a\"]]").is_ok());
        for (orders, said) in [
            ("[]", "at least one order"),
            ("[[]]", "order 1 is empty"),
            ("[[\"a\", \"a\"]]", "names a task twice"),
            ("[[\"a\"], [\"b\"]]", "order 2 does not have the tasks"),
            ("[[\"a\"]], colour: 3", "mine.ron:1:"),
        ] {
            let error = read(orders).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }
}
