//! The paths that a file names: what it imports, what it mentions, and which modules it declares.

use super::tokens::{self, Kind, Token};

/// Names from the root of the crate on: `["a", "b"]` is `crate::a::b`.
pub(crate) type Path = Vec<String>;

/// A path in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    /// The module that the words stand in.
    pub(crate) scope: Path,
    pub(crate) path: Path,
    /// Whether the first name after the scope may as well be another crate or a local item: it was
    /// written without `crate`, `self` or `super`.
    pub(crate) bare: bool,
    /// The name that the scope has for it from here on, where it is imported.
    pub(crate) imported_as: Option<String>,
    /// Line, from 1.
    pub(crate) line: usize,
}

/// What a file says of modules, without what only its tests say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Paths {
    pub(crate) named: Vec<Named>,
    /// Modules with files of their own.
    pub(crate) declared: Vec<Path>,
    /// Words in the braces of macros: modules with files of their own, where there is such a file.
    pub(crate) in_macros: Vec<Path>,
    /// Modules inside of the file.
    pub(crate) inline: Vec<Path>,
}

/// Reads the file of `module`.
pub(crate) fn paths(tokens: &[Token], module: &[String]) -> Paths {
    let mut reader = Reader {
        tokens,
        found: Paths::default(),
    };
    reader.read(0, tokens.len(), module);
    reader.found
}

struct Reader<'a> {
    tokens: &'a [Token],
    found: Paths,
}

impl Reader<'_> {
    /// Reads the words from `at` to `end`, which stand in `scope`.
    fn read(&mut self, mut at: usize, end: usize, scope: &[String]) {
        while at < end {
            if let Some(after) = tokens::end_of_test_item(self.tokens, at) {
                at = after;
            } else if self.tokens[at].is_name("mod") && self.name(at + 1).is_some() {
                at = self.module(at + 1, scope);
            } else if self.tokens[at].is_name("use") {
                at = self.tree(at + 1, scope, Start::Import);
            } else if self.begins_path(at) {
                at = self.tree(at, scope, Start::Mention);
            } else if let Some(close) = self.end_of_macro(at) {
                let words = (at + 3..close).filter_map(|i| self.name(i));
                let modules: Vec<Path> = words.map(|word| joined(scope, word)).collect();
                self.found.in_macros.extend(modules);
                at += 3;
            } else {
                at += 1;
            }
        }
    }

    /// A declared or inline module whose name stands at `at`; returns where reading goes on.
    fn module(&mut self, at: usize, scope: &[String]) -> usize {
        let path = joined(scope, &self.tokens[at].text);
        let Some(next) = self.tokens.get(at + 1) else {
            return at + 1;
        };
        match next.kind {
            Kind::Mark if next.text == ";" => {
                self.found.declared.push(path);
                at + 2
            }
            Kind::Open(close) if next.text == "{" => {
                self.read(at + 2, close, &path);
                self.found.inline.push(path);
                close + 1
            }
            _ => at + 1,
        }
    }

    /// The brace that closes the macro whose name stands at `at`, if one does.
    fn end_of_macro(&self, at: usize) -> Option<usize> {
        self.name(at)?;
        let brace = self.tokens.get(at + 2).filter(|token| token.text == "{")?;
        match brace.kind {
            Kind::Open(close) if self.tokens[at + 1].is_mark("!") => Some(close),
            _ => None,
        }
    }

    /// Whether a path of two names or more begins here.
    fn begins_path(&self, at: usize) -> bool {
        let follows = |mark: &str| at > 0 && self.tokens[at - 1].is_mark(mark);
        let goes_on = follows(".") || at > 1 && self.is_separator(at - 2);
        let of_macro = follows("$") && !self.tokens[at].is_name("crate");
        self.name(at).is_some() && self.is_separator(at + 1) && !goes_on && !of_macro
    }

    /// A path, or a tree of them in braces; returns where reading goes on.
    fn tree(&mut self, at: usize, scope: &[String], start: Start) -> usize {
        if let Some(Kind::Open(close)) = self.tokens.get(at).map(|token| token.kind) {
            return self.branches(at, close, scope, &Branch::new(scope), start);
        }
        self.branch(at, scope, Branch::new(scope), start)
    }

    /// All branches between two braces.
    fn branches(
        &mut self,
        open: usize,
        close: usize,
        scope: &[String],
        stem: &Branch,
        start: Start,
    ) -> usize {
        let mut at = open + 1;
        while at < close {
            at = self.branch(at, scope, stem.clone(), start);
            // What is left of the branch: `*`, or `as` and a name.
            while at < close && !self.tokens[at].is_mark(",") {
                at += 1;
            }
            at += 1;
        }
        close + 1
    }

    /// One branch from `at` on, with what stands before it.
    fn branch(&mut self, mut at: usize, scope: &[String], mut stem: Branch, start: Start) -> usize {
        let mut line = 0;
        while let Some(name) = self.name(at) {
            line = self.tokens[at].first;
            stem.push(name, scope);
            at += 1;
            if !self.is_separator(at) {
                break;
            }
            at += 2;
            if let Some(Kind::Open(close)) = self.tokens.get(at).map(|token| token.kind) {
                return self.branches(at, close, scope, &stem, start);
            }
        }
        if stem.n_names == 0 {
            return at;
        }
        let next = self.tokens.get(at);
        let all_of_it = next.is_some_and(|word| word.is_mark("*"));
        let renamed = next.is_some_and(|word| word.is_name("as"));
        let imported_as = match start {
            Start::Mention => None,
            Start::Import if all_of_it => None,
            Start::Import if renamed => self.name(at + 1).map(str::to_owned),
            Start::Import => stem.path.last().cloned(),
        };
        self.found.named.push(Named {
            scope: scope.to_vec(),
            path: stem.path,
            bare: stem.bare,
            imported_as,
            line,
        });
        at
    }

    fn name(&self, at: usize) -> Option<&str> {
        let token = self.tokens.get(at)?;
        (token.kind == Kind::Name).then(|| token.text.trim_start_matches("r#"))
    }

    /// Whether `::` stands at `at`.
    fn is_separator(&self, at: usize) -> bool {
        self.tokens
            .get(at..at + 2)
            .is_some_and(|pair| pair.iter().all(|token| token.is_mark(":")))
    }
}

/// What a path is written for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Start {
    Import,
    Mention,
}

/// The names of a path so far.
#[derive(Clone)]
struct Branch {
    path: Path,
    bare: bool,
    n_names: usize,
}

impl Branch {
    fn new(scope: &[String]) -> Self {
        Self {
            path: scope.to_vec(),
            bare: false,
            n_names: 0,
        }
    }

    fn push(&mut self, name: &str, scope: &[String]) {
        match name {
            "crate" if self.n_names == 0 => self.path.clear(),
            "self" => {}
            "super" => {
                self.path.pop();
            }
            _ => {
                self.bare |= self.n_names == 0;
                self.path.push(name.to_owned());
            }
        }
        debug_assert!(!self.bare || self.path.starts_with(scope));
        self.n_names += 1;
    }
}

fn joined(scope: &[String], name: &str) -> Path {
    let mut path = scope.to_vec();
    path.push(name.trim_start_matches("r#").to_owned());
    path
}

#[cfg(test)]
mod tests {
    use super::super::tokens::tokens;
    use super::*;

    /// Every path as `line path`, with `?` behind bare ones and the name that it is imported as.
    fn found(text: &str) -> Vec<String> {
        let module = ["m".to_owned(), "n".to_owned()];
        paths(&tokens(text).unwrap(), &module)
            .named
            .iter()
            .map(|named| {
                let bare = if named.bare { "?" } else { "" };
                let name = named
                    .imported_as
                    .as_deref()
                    .map(|name| format!(" as {name}"));
                format!(
                    "{} {}{bare}{}",
                    named.line,
                    named.path.join("::"),
                    name.unwrap_or_default()
                )
            })
            .collect()
    }

    #[test]
    fn trees_of_imports_are_taken_apart() {
        let text = "use crate::a::{self, b::C as D,\n  e::*};\npub(crate) use super::f::G;\nuse std::fmt;\n";
        let expected = [
            "1 a as a",
            "1 a::b::C as D",
            "2 a::e",
            "3 m::f::G as G",
            "4 m::n::std::fmt? as fmt",
        ];
        assert_eq!(found(text), expected);
    }

    #[test]
    fn mentions_count_and_what_follows_them_is_read_on() {
        let text = "fn a(b: crate::c::D<super::e::F>) {\n  self::g::h();\n  i.j::<K>();\n  l::m::<N>(self.o);\n}";
        let expected = ["1 c::D", "1 m::e::F", "2 m::n::g::h", "4 m::n::l::m?"];
        assert_eq!(found(text), expected);
    }

    #[test]
    fn macros_name_their_crate_and_strings_and_tests_name_nothing() {
        let text = "macro_rules! a { () => { $crate::b::c!() } }\nconst D: &str = \"crate::e::f\";\n\
                    #[cfg(test)]\nuse crate::g;\n#[cfg(test)]\nmod tests { use crate::h::I; }\n#[test]\nfn j() { crate::k::l() }";
        assert_eq!(found(text), ["1 b::c"]);
    }

    #[test]
    fn modules_are_declared_in_the_module_around_them() {
        let text =
            "mod a;\npub(crate) mod b { mod c; use super::super::d; }\n#[cfg(test)]\nmod tests;";
        let module = ["m".to_owned()];
        let found = paths(&tokens(text).unwrap(), &module);
        assert_eq!(found.declared, [vec!["m", "a"], vec!["m", "b", "c"]]);
        assert_eq!(found.inline, [vec!["m", "b"]]);
        assert_eq!(found.named[0].path, ["d"]);
    }
}
