//! Which modules of a crate need each other in a circle.
//!
//! A module is a file. It needs the modules whose items it names, wherever they are named from: a
//! name that a parent hands on counts for the module that the parent has it from. Parent and child
//! may know each other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path as FilePath, PathBuf};

use anyhow::{Context, Result, bail};

use super::Finding;
use super::cycles::{self, Graph};
use super::paths::{self, Named, Path, Paths};
use super::tokens;

/// The files of a crate, and what they say of each other.
pub(crate) struct Modules {
    files: BTreeMap<Path, File>,
    /// The file's module for every module, inline ones too.
    file_of: BTreeMap<Path, Path>,
    /// What a name of a module stands for.
    imports: BTreeMap<(Path, String), Named>,
}

struct File {
    path: PathBuf,
    paths: Paths,
}

/// Where a module names another for the first time.
type Edges<'a> = BTreeMap<(&'a Path, &'a Path), (&'a FilePath, usize)>;

/// Where the file of a module may be.
fn places_of(folder: &FilePath, module: &[String]) -> Vec<PathBuf> {
    let below = folder.join(module.iter().collect::<PathBuf>());
    vec![below.with_extension("rs"), below.join("mod.rs")]
}

impl Modules {
    /// Follows the declarations of modules from the crate's first file; `read` knows the text of
    /// the files that exist. Modules of tests are left out.
    pub(crate) fn read(
        root: &FilePath,
        read: impl Fn(&FilePath) -> Option<String>,
    ) -> Result<Self> {
        let folder = root.parent().unwrap_or(FilePath::new(""));
        let mut modules = Self {
            files: BTreeMap::new(),
            file_of: BTreeMap::new(),
            imports: BTreeMap::new(),
        };
        let mut open = vec![Path::new()];
        while let Some(module) = open.pop() {
            let places = if module.is_empty() {
                vec![root.to_path_buf()]
            } else {
                places_of(folder, &module)
            };
            let found = places
                .iter()
                .find_map(|place| Some((place.clone(), read(place)?)));
            let Some((path, text)) = found else {
                bail!("{} has no file: {places:?}", shown(&module));
            };
            let tokens =
                tokens::tokens(&text).with_context(|| format!("reading {}", path.display()))?;
            let paths = paths::paths(&tokens, &module);
            open.extend(paths.declared.iter().cloned());
            let has_file = |module: &&Path| {
                let places = places_of(folder, module);
                places.iter().any(|place| read(place).is_some())
            };
            let by_macro: BTreeSet<&Path> = paths.in_macros.iter().filter(has_file).collect();
            open.extend(by_macro.into_iter().cloned());
            modules.add(module, File { path, paths });
        }
        Ok(modules)
    }

    fn add(&mut self, module: Path, file: File) {
        self.file_of.insert(module.clone(), module.clone());
        for inline in &file.paths.inline {
            self.file_of.insert(inline.clone(), module.clone());
        }
        for named in &file.paths.named {
            if let Some(name) = &named.imported_as {
                self.imports
                    .insert((named.scope.clone(), name.clone()), named.clone());
            }
        }
        self.files.insert(module, file);
    }

    /// Every circle, with all of its edges.
    pub(crate) fn check(&self) -> Vec<Finding> {
        let edges = self.edges();
        let mut graph = Graph::new();
        for (from, to) in edges.keys() {
            graph.entry(shown(from)).or_default().insert(shown(to));
        }
        cycles::cycles(&graph)
            .iter()
            .map(|group| circle(group, &edges))
            .collect()
    }

    /// How many modules there are, and edges between them that count.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.files.len(), self.edges().len())
    }

    /// The edges between modules of which neither lies in the other.
    fn edges(&self) -> Edges<'_> {
        let mut edges = Edges::new();
        for (from, file) in &self.files {
            for named in &file.paths.named {
                let Some(to) = self.home(named) else {
                    continue;
                };
                if !from.starts_with(to) && !to.starts_with(from) {
                    edges
                        .entry((from, to))
                        .or_insert((file.path.as_path(), named.line));
                }
            }
        }
        edges
    }

    /// The file that has what a path names, if that is in this crate.
    fn home(&self, named: &Named) -> Option<&Path> {
        let (mut path, mut first) = (named.path.clone(), named.bare.then_some(named.scope.len()));
        // A name of another crate may be imported under its own name, in a circle.
        for _ in 0..64 {
            let n_names = (0..=path.len())
                .rev()
                .find(|&n| self.file_of.contains_key(&path[..n]))?;
            let known_module = first.is_none_or(|at| n_names > at);
            let import = path
                .get(n_names)
                .and_then(|name| self.imports.get(&(path[..n_names].to_vec(), name.clone())));
            match import {
                Some(import) if known_module || first == Some(n_names) => {
                    first = import.bare.then_some(import.scope.len());
                    path = [&import.path, &path[n_names + 1..]].concat();
                }
                _ if known_module => return self.file_of.get(&path[..n_names]),
                _ => return None,
            }
        }
        None
    }
}

fn circle(group: &BTreeSet<String>, edges: &Edges) -> Finding {
    let inside = edges
        .iter()
        .filter(|((from, to), _)| group.contains(&shown(from)) && group.contains(&shown(to)));
    let lines: Vec<String> = inside
        .clone()
        .map(|((from, to), (file, line))| {
            format!(
                "    {}:{line}: {} -> {}",
                file.display(),
                shown(from),
                shown(to)
            )
        })
        .collect();
    let (file, line) = inside
        .map(|(_, place)| *place)
        .next()
        .expect("a circle has edges");
    Finding {
        file: file.display().to_string(),
        line,
        text: format!(
            "{} modules need each other in a circle; expected none but parent and child:\n{}",
            group.len(),
            lines.join("\n")
        ),
    }
}

fn shown(module: &[String]) -> String {
    std::iter::once("crate")
        .chain(module.iter().map(String::as_str))
        .collect::<Vec<_>>()
        .join("::")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modules(files: &[(&str, &str)]) -> Modules {
        Modules::read(FilePath::new("src/lib.rs"), |path| {
            let wanted = |(name, _): &&(&str, &str)| FilePath::new("src").join(name) == path;
            files
                .iter()
                .find(wanted)
                .map(|(_, text)| (*text).to_owned())
        })
        .unwrap()
    }

    /// The circles in words.
    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let findings = modules(files).check();
        findings.into_iter().map(|finding| finding.text).collect()
    }

    #[test]
    fn modules_that_a_macro_declares_are_followed() {
        let texts = found(&[
            ("lib.rs", "methods! {\n a: A(AConfig),\n b: B(BConfig),\n}"),
            ("a.rs", "use super::b::B;"),
            ("b.rs", "use super::a::A;"),
        ]);
        assert_eq!(texts.len(), 1);
    }

    #[test]
    fn a_circle_is_found_and_told_edge_by_edge() {
        let texts = found(&[
            ("lib.rs", "mod a;\nmod b;\nmod c;"),
            ("a.rs", "\nuse crate::b::B;"),
            ("b/mod.rs", "fn f(c: super::c::C) {}"),
            ("c.rs", "use crate::a;"),
        ]);
        assert_eq!(texts.len(), 1);
        assert!(texts[0].starts_with("3 modules"), "{}", texts[0]);
        for edge in [
            "src/a.rs:2: crate::a -> crate::b",
            "src/b/mod.rs:1: crate::b -> crate::c",
            "src/c.rs:1: crate::c -> crate::a",
        ] {
            assert!(texts[0].contains(edge), "{}", texts[0]);
        }
    }

    #[test]
    fn parent_and_child_may_know_each_other() {
        let texts = found(&[
            ("lib.rs", "mod a;\npub use a::A;"),
            ("a/mod.rs", "mod b;\nmod c;\nuse b::B;\nuse self::c::C;"),
            ("a/b.rs", "use super::A;\nuse crate::a::A as Other;"),
            ("a/c.rs", "use super::super::A;\nuse super::b::B;"),
        ]);
        assert!(texts.is_empty(), "{texts:?}");
    }

    #[test]
    fn a_name_that_a_parent_hands_on_counts_where_it_is_from() {
        let texts = found(&[
            ("lib.rs", "mod a;\nmod d;\npub use d::D as E;"),
            ("a/mod.rs", "mod b;\nmod c;\npub use b::B;\nuse c::C;"),
            ("a/b.rs", "use super::C;"),
            ("a/c.rs", "use crate::a::B;\nuse crate::E;"),
            ("d.rs", "use crate::a;\nfn f() -> a::B {}"),
        ]);
        assert_eq!(texts.len(), 1);
        for edge in [
            "src/a/b.rs:1: crate::a::b -> crate::a::c",
            "src/a/c.rs:1: crate::a::c -> crate::a::b",
            "src/a/c.rs:2: crate::a::c -> crate::d",
            "src/d.rs:2: crate::d -> crate::a::b",
        ] {
            assert!(texts[0].contains(edge), "{}", texts[0]);
        }
    }

    #[test]
    fn other_crates_and_tests_make_no_edges() {
        let found = modules(&[
            ("lib.rs", "mod a;\nmod b;\nuse a::anyhow;"),
            ("a.rs", "use anyhow::anyhow;\nuse crate::b::B;"),
            (
                "b.rs",
                "use anyhow::anyhow;\n#[cfg(test)]\nmod tests { use crate::a::A; }\n#[cfg(test)]\nmod missing;",
            ),
        ]);
        assert_eq!(found.size(), (3, 1));
        assert!(found.check().is_empty());
    }

    #[test]
    fn a_module_without_a_file_is_an_error() {
        let read = |path: &FilePath| path.ends_with("lib.rs").then(|| "mod a;".to_owned());
        let error = Modules::read(FilePath::new("src/lib.rs"), read)
            .err()
            .unwrap();
        assert!(
            error.to_string().contains("crate::a has no file"),
            "{error}"
        );
    }
}
