//! Which crate of the workspace may need which, as `docs/architecture.md` draws it.

use std::collections::{BTreeMap, BTreeSet};

use super::Finding;
use super::cycles::{self, Graph};

/// A crate of the workspace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Crate {
    pub(crate) name: String,
    /// The crates of the workspace that it is built with.
    pub(crate) needs: BTreeSet<String>,
    /// Those that its tests, benches and examples are built with.
    pub(crate) tests_need: BTreeSet<String>,
    /// Those that no file of its own names.
    pub(crate) unused: BTreeSet<String>,
}

/// The crates in the answer of `cargo metadata --no-deps`.
pub(crate) fn of_metadata(metadata: &serde_json::Value) -> Vec<Crate> {
    let packages = || metadata["packages"].as_array().into_iter().flatten();
    let names: BTreeSet<&str> = packages().filter_map(|p| p["name"].as_str()).collect();
    packages()
        .map(|package| {
            let mut found = Crate {
                name: package["name"].as_str().unwrap_or_default().to_owned(),
                ..Crate::default()
            };
            for edge in package["dependencies"].as_array().into_iter().flatten() {
                let Some(name) = edge["name"].as_str().filter(|name| names.contains(name)) else {
                    continue;
                };
                match edge["kind"].as_str() {
                    Some("dev") => found.tests_need.insert(name.to_owned()),
                    _ => found.needs.insert(name.to_owned()),
                };
            }
            found
        })
        .collect()
}

/// Notes what no source names of what a crate is built with; `sources` are texts by package.
pub(crate) fn note_unused<'a>(
    crates: &mut [Crate],
    sources: impl Iterator<Item = (&'a str, &'a str)> + Clone,
) {
    for found in crates {
        let own = |text: &(&str, &str)| text.0 == found.name;
        let is_named = |other: &str| {
            let module = other.replace('-', "_");
            let mut texts = sources.clone().filter(own);
            texts.any(|(_, text)| text.contains(&module))
        };
        let all = found.needs.union(&found.tests_need);
        found.unused = all.filter(|other| !is_named(other)).cloned().collect();
    }
}

/// A line of the drawing: where it stands, and what it says.
type Drawing = BTreeMap<String, (usize, BTreeSet<String>)>;

/// The block that is fenced as `crates`: a crate a line, `name -> others`.
fn drawing(text: &str, file: &str) -> Result<Drawing, Finding> {
    let finding = |line: usize, text: String| Finding {
        file: file.to_owned(),
        line,
        text,
    };
    let mut lines = text
        .lines()
        .enumerate()
        .map(|(at, line)| (at + 1, line.trim()));
    if !lines.by_ref().any(|(_, line)| line == "```crates") {
        return Err(finding(1, "expected a block fenced as ```crates".into()));
    }
    let mut drawn = Drawing::new();
    for (at, line) in lines.take_while(|(_, line)| *line != "```") {
        let (name, needs) = line.split_once("->").unwrap_or((line, ""));
        let name = name.trim();
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(finding(
                at,
                format!("expected `crate -> its crates`, got `{line}`"),
            ));
        }
        let needs = needs.split_whitespace().map(str::to_owned).collect();
        if drawn.insert(name.to_owned(), (at, needs)).is_some() {
            return Err(finding(
                at,
                format!("expected one line for {name}, got a second"),
            ));
        }
    }
    Ok(drawn)
}

/// Every difference between the workspace and the drawing in `text`, and circles in the drawing.
pub(crate) fn check(crates: &[Crate], text: &str, file: &str) -> Vec<Finding> {
    let drawn = match drawing(text, file) {
        Ok(drawn) => drawn,
        Err(finding) => return vec![finding],
    };
    let mut findings = Vec::new();
    let mut say = |line: usize, text: String| {
        findings.push(Finding {
            file: file.to_owned(),
            line,
            text,
        });
    };
    for found in crates {
        let name = &found.name;
        let Some((line, allowed)) = drawn.get(name) else {
            say(
                1,
                format!("expected a line for {name} in the block `crates`"),
            );
            continue;
        };
        for other in found.needs.difference(allowed) {
            say(
                *line,
                format!("{name} needs {other}, which the drawing does not have"),
            );
        }
        for other in allowed.difference(&found.needs) {
            say(
                *line,
                format!("{name} does not need {other}: take it out of the drawing"),
            );
        }
        for other in found.tests_need.difference(allowed) {
            say(
                *line,
                format!("tests of {name} need {other}, which the drawing does not have"),
            );
        }
        for other in &found.unused {
            say(
                *line,
                format!("{name} is built with {other} and never names it"),
            );
        }
    }
    let known = |name: &str| crates.iter().any(|found| found.name == name);
    for (name, (line, _)) in drawn.iter().filter(|(name, _)| !known(name)) {
        say(*line, format!("{name} is no crate of the workspace"));
    }
    let graph: Graph = drawn
        .iter()
        .map(|(name, (_, needs))| (name.clone(), needs.clone()))
        .collect();
    for group in cycles::cycles(&graph) {
        let names: Vec<&str> = group.iter().map(String::as_str).collect();
        say(
            drawn[names[0]].0,
            format!("a circle of crates: {}", names.join(", ")),
        );
    }
    findings
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn named(name: &str, needs: &[&str], tests_need: &[&str]) -> Crate {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Crate {
            name: name.to_owned(),
            needs: owned(needs),
            tests_need: owned(tests_need),
            ..Crate::default()
        }
    }

    /// Findings as `line: text` for a drawing of these lines, of which the first is line 2.
    fn found(crates: &[Crate], lines: &str) -> Vec<String> {
        check(
            crates,
            &format!("```crates\n{lines}\n```\nx -> y\n"),
            "a.md",
        )
        .into_iter()
        .map(|finding| format!("{}: {}", finding.line, finding.text))
        .collect()
    }

    #[test]
    fn metadata_says_which_edges_are_of_tests() {
        let metadata = json!({ "packages": [
            { "name": "a", "dependencies": [
                { "name": "b", "kind": null },
                { "name": "c", "kind": "dev" },
                { "name": "serde", "kind": null },
            ] },
            { "name": "b", "dependencies": [{ "name": "c", "kind": "build" }] },
            { "name": "c", "dependencies": [] },
        ] });
        let expected = [
            named("a", &["b"], &["c"]),
            named("b", &["c"], &[]),
            named("c", &[], &[]),
        ];
        assert_eq!(of_metadata(&metadata), expected);
    }

    #[test]
    fn the_drawing_is_neither_too_small_nor_too_large() {
        let crates = [named("a", &["b"], &[]), named("b", &[], &[])];
        assert!(found(&crates, "a -> b\nb").is_empty());
        assert_eq!(
            found(&crates, "a\nb -> a"),
            [
                "2: a needs b, which the drawing does not have",
                "3: b does not need a: take it out of the drawing",
            ]
        );
        assert_eq!(
            found(&crates, "a -> b\nc ->"),
            [
                "1: expected a line for b in the block `crates`",
                "3: c is no crate of the workspace",
            ]
        );
    }

    #[test]
    fn tests_may_need_what_is_drawn() {
        let crates = [
            named("a", &["b"], &["b", "c"]),
            named("b", &[], &[]),
            named("c", &[], &[]),
        ];
        assert_eq!(
            found(&crates, "a -> b\nb\nc"),
            ["2: tests of a need c, which the drawing does not have"]
        );
    }

    #[test]
    fn a_crate_that_no_file_names_is_found() {
        let mut crates = [named("k-a", &["k-b", "k-c"], &[]), named("k-b", &[], &[])];
        note_unused(
            &mut crates,
            [("k-a", "use k_b::B;"), ("k-b", "use k_c::C;")].into_iter(),
        );
        assert_eq!(crates[0].unused, BTreeSet::from(["k-c".to_owned()]));
        let expected = "2: k-a is built with k-c and never names it";
        assert!(found(&crates, "k-a -> k-b k-c\nk-b").contains(&expected.to_owned()));
    }

    #[test]
    fn circles_and_broken_drawings_are_named() {
        let crates = [named("a", &["b"], &[]), named("b", &["a"], &[])];
        assert_eq!(
            found(&crates, "a -> b\nb -> a"),
            ["2: a circle of crates: a, b"]
        );
        assert_eq!(
            found(&crates, "a b"),
            ["2: expected `crate -> its crates`, got `a b`"]
        );
        assert_eq!(
            found(&crates, "a -> b\na"),
            ["3: expected one line for a, got a second"]
        );
        let none = check(&crates, "a -> b\n", "a.md");
        assert_eq!(none[0].text, "expected a block fenced as ```crates");
    }
}
