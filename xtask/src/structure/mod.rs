//! `cargo xtask structure`: the source held against the drawing of the crates and against limits.

mod comments;
mod crates;
mod cycles;
mod functions;
mod limits;
mod modules;
mod paths;
mod tokens;
mod tree;

use std::cmp::Reverse;
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use limits::{CRATE, Exception, FILE, FUNCTION};
use modules::Modules;
use tree::Tree;

/// Columns of a comment, its indent among them.
const COLUMNS: usize = 100;

/// The document with the drawing.
const DRAWING: &str = "docs/architecture.md";

/// What `cargo xtask structure` shall do.
#[derive(Args)]
pub(crate) struct Options {
    /// What to look at [default: everything]
    checks: Vec<Check>,
    /// Print what there is, the largest first, and judge nothing
    #[arg(long)]
    list: bool,
}

/// One question to the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Check {
    /// Does each crate need the crates that docs/architecture.md says, and no other?
    Crates,
    /// Do modules of a crate need each other in a circle?
    Modules,
    /// How long are files below src?
    Files,
    /// How long are files of tests, benches and examples?
    TestFiles,
    /// How long are functions below src?
    Functions,
    /// How long are functions of tests, benches and examples?
    TestFunctions,
    /// How much source has a crate?
    Sizes,
    /// How wide are comments?
    Comments,
}

/// Something that is not as expected.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    /// From the root of the workspace.
    file: String,
    /// From 1.
    line: usize,
    /// What there is, and what is expected.
    text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.text)
    }
}

/// `cargo xtask structure`.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let checks = match options.checks.as_slice() {
        [] => Check::value_variants(),
        named => named,
    };
    let tree = Tree::read()?;
    if options.list {
        let mut text = String::new();
        for check in checks {
            text += &facts(*check, &tree)?.join("\n");
            text += "\n";
        }
        // Whoever reads the first lines alone closes the pipe.
        let _ = io::stdout().write_all(text.as_bytes());
        return Ok(ExitCode::SUCCESS);
    }
    hold(checks, &tree)?;
    Ok(ExitCode::SUCCESS)
}

/// The step of continuous integration: fails with everything that is not as expected.
pub(crate) fn check() -> Result<()> {
    hold(Check::value_variants(), &Tree::read()?)
}

fn hold(checks: &[Check], tree: &Tree) -> Result<()> {
    let mut n_findings = 0;
    for check in checks {
        let findings = findings(*check, tree)?;
        for finding in &findings {
            eprintln!("{finding}");
        }
        eprintln!("{}: {} found", name(*check), findings.len());
        n_findings += findings.len();
    }
    if n_findings > 0 {
        bail!("the source is not as docs/architecture.md and CONTRIBUTING.md say");
    }
    Ok(())
}

fn name(check: Check) -> String {
    check
        .to_possible_value()
        .map_or_else(String::new, |value| value.get_name().to_owned())
}

fn findings(check: Check, tree: &Tree) -> Result<Vec<Finding>> {
    let files_of = |in_src: bool| {
        tree.sources
            .iter()
            .filter(move |source| source.in_src == in_src)
            .filter_map(|source| FILE.check(&source.path, source.n_lines()))
            .collect()
    };
    Ok(match check {
        Check::Crates => {
            let path = tree.root.join(DRAWING);
            let text = fs::read_to_string(&path).with_context(|| format!("reading {DRAWING}"))?;
            crates::check(&tree.crates, &text, DRAWING)
        }
        Check::Modules => {
            let modules = modules_of(tree)?;
            modules
                .iter()
                .flat_map(|(_, found)| found.check())
                .collect()
        }
        Check::Files => files_of(true),
        Check::TestFiles => files_of(false),
        Check::Functions => {
            let mut findings = long_functions(tree, true);
            findings.extend(FUNCTION.check_exceptions(|file, name| is_long(tree, file, name)));
            findings
        }
        Check::TestFunctions => long_functions(tree, false),
        Check::Sizes => sizes(tree)
            .into_iter()
            .filter_map(|(count, name)| CRATE.check(&name, count))
            .collect(),
        Check::Comments => wide_comments(tree),
    })
}

fn long_functions(tree: &Tree, in_src: bool) -> Vec<Finding> {
    tree.sources
        .iter()
        .filter(|source| source.in_src == in_src)
        .flat_map(|source| {
            FUNCTION.check_functions(&source.path, &functions::functions(&source.tokens))
        })
        .collect()
}

/// Whether a file has a function of this name above the limit.
fn is_long(tree: &Tree, file: &str, name: &str) -> bool {
    let sources = tree.sources.iter().filter(|source| source.path == file);
    sources
        .flat_map(|source| functions::functions(&source.tokens))
        .any(|function| function.name == name && function.code_lines > FUNCTION.most)
}

/// What a check looks at, the largest first.
fn facts(check: Check, tree: &Tree) -> Result<Vec<String>> {
    let lines = match check {
        Check::Crates => tree.crates.iter().map(drawn).collect(),
        Check::Modules => modules_of(tree)?
            .iter()
            .map(|(file, modules)| {
                let (n_modules, n_edges) = modules.size();
                format!(
                    "{file}: {n_modules} modules, {n_edges} edges, {} circles",
                    modules.check().len()
                )
            })
            .collect(),
        Check::Files | Check::TestFiles => {
            let wanted = tree
                .sources
                .iter()
                .filter(|source| source.in_src == (check == Check::Files));
            let counts = wanted.map(|source| (source.n_lines(), source.path.clone()));
            sorted(counts.collect(), FILE.exceptions)
        }
        Check::Functions | Check::TestFunctions => {
            let wanted = tree
                .sources
                .iter()
                .filter(|source| source.in_src == (check == Check::Functions));
            let all = wanted.flat_map(|source| {
                functions::functions(&source.tokens)
                    .into_iter()
                    .map(|function| {
                        let place = format!("{}:{}", source.path, function.line);
                        (function.code_lines, format!("{place} {}", function.name))
                    })
            });
            sorted(all.collect(), FUNCTION.exceptions)
        }
        Check::Sizes => sorted(sizes(tree), CRATE.exceptions),
        Check::Comments => wide_comments(tree).iter().map(Finding::to_string).collect(),
    };
    Ok(lines)
}

/// A crate as the drawing has it.
fn drawn(found: &crates::Crate) -> String {
    let mut line = found.name.clone();
    if !found.needs.is_empty() {
        line += " ->";
    }
    for other in &found.needs {
        line += " ";
        line += other;
    }
    line
}

/// Counts from the largest on, then what the limit does not hold for.
fn sorted(mut counts: Vec<(usize, String)>, exceptions: &[Exception]) -> Vec<String> {
    counts.sort_by(|a, b| (Reverse(a.0), &a.1).cmp(&(Reverse(b.0), &b.1)));
    let counts = counts
        .into_iter()
        .map(|(count, what)| format!("{count:6} {what}"));
    let exceptions = exceptions.iter().map(|exception| {
        let function = exception.function.unwrap_or("all");
        format!(
            "no limit: {} ({function}): {}",
            exception.place, exception.why
        )
    });
    counts.chain(exceptions).collect()
}

/// Lines below `src` of each crate.
fn sizes(tree: &Tree) -> Vec<(usize, String)> {
    let lines_of = |name: &str| {
        tree.sources
            .iter()
            .filter(|source| source.in_src && source.package == name)
            .map(tree::Source::n_lines)
            .sum()
    };
    tree.packages
        .iter()
        .map(|package| (lines_of(&package.name), package.name.clone()))
        .collect()
}

/// The modules of every library and program, by its first file.
fn modules_of(tree: &Tree) -> Result<Vec<(String, Modules)>> {
    let first_files = tree
        .packages
        .iter()
        .flat_map(|package| &package.first_files);
    first_files
        .map(|file| {
            let read = |path: &std::path::Path| fs::read_to_string(tree.root.join(path)).ok();
            Ok((file.display().to_string(), Modules::read(file, read)?))
        })
        .collect()
}

fn wide_comments(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in &tree.sources {
        for line in comments::too_wide(&source.text, &source.tokens, COLUMNS) {
            findings.push(Finding {
                file: source.path.clone(),
                line,
                text: format!("a comment beyond column {COLUMNS}"),
            });
        }
    }
    findings
}
