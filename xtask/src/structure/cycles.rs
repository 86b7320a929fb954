//! Which nodes of a graph reach each other.

use std::collections::{BTreeMap, BTreeSet};

/// Edges from each node.
pub(crate) type Graph = BTreeMap<String, BTreeSet<String>>;

/// The largest groups of two or more nodes in which each reaches each other, sorted; and nodes with
/// an edge to themselves.
pub(crate) fn cycles(graph: &Graph) -> Vec<BTreeSet<String>> {
    let reached: BTreeMap<&str, BTreeSet<&str>> = graph
        .keys()
        .map(|node| (node.as_str(), reached_from(graph, node)))
        .collect();
    let reaches = |from: &str, to: &str| reached.get(from).is_some_and(|all| all.contains(to));
    let mut groups: Vec<BTreeSet<String>> = Vec::new();
    for node in graph.keys() {
        if reaches(node, node) && !groups.iter().any(|group| group.contains(node)) {
            groups.push(
                graph
                    .keys()
                    .filter(|other| reaches(node, other) && reaches(other, node))
                    .cloned()
                    .collect(),
            );
        }
    }
    groups
}

/// All nodes at the end of one edge or more.
fn reached_from<'a>(graph: &'a Graph, node: &str) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut open: Vec<&str> = Vec::new();
    open.extend(graph.get(node).into_iter().flatten().map(String::as_str));
    while let Some(next) = open.pop() {
        if reached.insert(next) {
            open.extend(graph.get(next).into_iter().flatten().map(String::as_str));
        }
    }
    reached
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(edges: &[(&str, &str)]) -> Vec<Vec<String>> {
        let mut graph = Graph::new();
        for (from, to) in edges {
            graph
                .entry((*from).into())
                .or_default()
                .insert((*to).into());
        }
        cycles(&graph)
            .into_iter()
            .map(|group| group.into_iter().collect())
            .collect()
    }

    #[test]
    fn a_way_with_two_ends_is_no_cycle() {
        assert!(found(&[("a", "b"), ("b", "c"), ("a", "c")]).is_empty());
    }

    #[test]
    fn cycles_that_touch_are_one_and_what_only_leads_there_is_none_of_it() {
        let edges = [
            ("a", "b"),
            ("b", "c"),
            ("c", "b"),
            ("c", "d"),
            ("d", "b"),
            ("d", "e"),
            ("f", "f"),
        ];
        assert_eq!(found(&edges), [vec!["b", "c", "d"], vec!["f"]]);
    }
}
