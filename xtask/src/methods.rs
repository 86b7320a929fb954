//! The README's table of methods: a row for every method that `kif` knows, and for no other.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, bail};

use crate::{process, workspace};

/// The step of continuous integration: fails with every name that is on one side alone.
pub(crate) fn check() -> Result<()> {
    let readme = workspace::root()?.join("README.md");
    let text =
        fs::read_to_string(&readme).with_context(|| format!("reading {}", readme.display()))?;
    let in_table = table(&text);
    let known = known()?;
    let mut problems = Vec::new();
    for name in known.iter().filter(|name| !in_table.contains_key(*name)) {
        problems.push(format!("README.md:1: expected a row for the method {name}"));
    }
    for (name, line) in &in_table {
        if !known.contains(name) && !is_another_name(name)? {
            problems.push(format!("README.md:{line}: kif knows no method {name}"));
        }
    }
    if !problems.is_empty() {
        bail!("{}", problems.join("\n"));
    }
    eprintln!("README.md has a row for each of {} methods", known.len());
    Ok(())
}

/// The names in the first column of the table below `## Methods`, each with its line from 1.
fn table(markdown: &str) -> BTreeMap<String, usize> {
    let lines = markdown.lines().enumerate();
    lines
        .skip_while(|(_, line)| *line != "## Methods")
        .skip(1)
        .take_while(|(_, line)| !line.starts_with("## "))
        .filter_map(|(at, line)| Some((at + 1, line.strip_prefix('|')?.split('|').next()?)))
        // Between two backticks stands every second piece.
        .flat_map(|(line, cell)| {
            cell.split('`')
                .skip(1)
                .step_by(2)
                .map(move |name| (name, line))
        })
        .map(|(name, line)| (name.to_owned(), line))
        .collect()
}

/// A name that no method has.
const NO_METHOD: &str = "no-such-method";

/// The names that `kif` lists.
fn known() -> Result<Vec<String>> {
    let error = refusal(NO_METHOD)?;
    let (_, names) = listed(&error).with_context(|| format!("kif lists no methods: {error}"))?;
    Ok(names)
}

/// Whether `kif` takes a name that it does not list.
fn is_another_name(name: &str) -> Result<bool> {
    let error = refusal(&format!("{name},{NO_METHOD}"))?;
    let (refused, _) = listed(&error).with_context(|| format!("kif refuses nothing: {error}"))?;
    Ok(refused == NO_METHOD)
}

/// What `kif bench` says to methods of which one is unknown; it trains nothing.
fn refusal(methods: &str) -> Result<String> {
    let mut kif = process::kif(&process::build_kif(false)?);
    kif.args(["bench", "quick", "--methods", methods]);
    let output = kif
        .output()
        .with_context(|| format!("starting {}", process::shown(&kif)))?;
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The name that is refused and those that are expected, in the words of the refusal.
fn listed(error: &str) -> Option<(&str, Vec<String>)> {
    let (refused, rest) = error
        .split_once("methods is ")?
        .1
        .split_once(", expected one of ")?;
    let (names, _) = rest.split_once(" or a name in own_methods")?;
    Some((refused, names.split(", ").map(str::to_owned).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_first_column_below_the_heading() {
        let text = "| `x` | other table |\n## Methods\n`--methods all` runs them.\n\n| name | `what` |\n|---|---|\n\
                    | `a` | like `b` |\n| `c-d`, or `e` | |\n## Documents\n| `f` | |\n";
        let expected = [("a", 7), ("c-d", 8), ("e", 8)].map(|(name, at)| (name.to_owned(), at));
        assert_eq!(table(text), BTreeMap::from(expected));
    }

    #[test]
    fn a_refusal_names_the_first_unknown_and_all_known() {
        let error = "error: protocol quick: methods is x, expected one of a, b-c or a name in own_methods\n";
        let names = vec!["a".to_owned(), "b-c".to_owned()];
        assert_eq!(listed(error), Some(("x", names)));
        assert_eq!(
            listed("error: methods is x, expected every method once"),
            None
        );
    }
}
