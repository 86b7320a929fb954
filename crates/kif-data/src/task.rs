//! Rows and tasks, in one form whatever layout they came from.

use std::collections::HashSet;

use crate::template::Prompt;

/// One example of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Unique within its file.
    pub id: String,
    /// What is read and what is to be written.
    pub content: Content,
}

/// The two kinds of rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A prompt and its references.
    Text {
        /// What the model reads; never empty.
        prompt: Prompt,
        /// At least one; the first is trained on, any of them counts as right. A reference may
        /// be the empty string.
        references: Vec<String>,
    },
    /// Token ids that are taken as given.
    Ids {
        /// What the model reads; never empty.
        input_ids: Vec<u32>,
        /// What it is to write; never empty.
        target_ids: Vec<u32>,
    },
}

impl Row {
    /// The references of a text row; none for rows of ids.
    pub fn references(&self) -> &[String] {
        match &self.content {
            Content::Text { references, .. } => references,
            Content::Ids { .. } => &[],
        }
    }

    /// What decides the row's class: its first reference, or its target ids.
    pub(crate) fn class(&self) -> Class<'_> {
        match &self.content {
            Content::Text { references, .. } => {
                Class::Text(references.first().map_or("", String::as_str))
            }
            Content::Ids { target_ids, .. } => Class::Ids(target_ids),
        }
    }
}

/// The class of a row; rows of one class have the same target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Class<'a> {
    Text(&'a str),
    Ids(&'a [u32]),
}

/// Rows to learn from and rows to be tested on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// As in the stream.
    pub name: String,
    /// In file order.
    pub train: Vec<Row>,
    /// In file order.
    pub test: Vec<Row>,
}

/// Distinct first references, in order of first appearance; rows of ids have none.
pub fn labels(rows: &[Row]) -> Vec<String> {
    let mut seen = HashSet::new();
    let firsts = rows.iter().filter_map(|row| row.references().first());
    firsts
        .filter(|label| seen.insert(label.as_str()))
        .cloned()
        .collect()
}

/// Positions of the rows of every class; classes in order of first appearance, positions ascending.
pub(crate) fn by_class(rows: &[Row]) -> Vec<Vec<usize>> {
    let mut slots = std::collections::HashMap::new();
    let mut classes: Vec<Vec<usize>> = Vec::new();
    for (i, row) in rows.iter().enumerate() {
        let slot = *slots.entry(row.class()).or_insert(classes.len());
        if slot == classes.len() {
            classes.push(Vec::new());
        }
        classes[slot].push(i);
    }
    classes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str, references: &[&str]) -> Row {
        let references = references.iter().map(ToString::to_string).collect();
        Row {
            id: id.into(),
            content: Content::Text {
                prompt: "p".into(),
                references,
            },
        }
    }

    #[test]
    fn labels_are_first_references_in_order_of_appearance() {
        let rows = [row("1", &["b", "x"]), row("2", &["a"]), row("3", &["b"])];
        assert_eq!(labels(&rows), ["b", "a"]);
    }

    #[test]
    fn rows_of_ids_have_classes_but_no_labels() {
        let ids = |target: u32| Row {
            id: target.to_string(),
            content: Content::Ids {
                input_ids: vec![1],
                target_ids: vec![target],
            },
        };
        let rows = [ids(5), ids(6), ids(5)];
        assert!(labels(&rows).is_empty());
        assert_eq!(by_class(&rows), [vec![0, 2], vec![1]]);
    }
}
