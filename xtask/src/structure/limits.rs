//! How large a file, a function and a crate may be.

use super::Finding;
use super::functions::Function;

/// A limit, and what may be above it.
pub(crate) struct Limit {
    /// What is counted, in words.
    pub(crate) what: &'static str,
    pub(crate) most: usize,
    pub(crate) exceptions: &'static [Exception],
}

/// What a limit does not hold for.
pub(crate) struct Exception {
    /// A file or a folder with all that is in it, or the name of a crate.
    pub(crate) place: &'static str,
    /// One function, where not all that is there are excepted.
    pub(crate) function: Option<&'static str>,
    pub(crate) why: &'static str,
}

/// Lines of a file, blank ones and comments among them.
pub(crate) const FILE: Limit = Limit {
    what: "lines",
    most: 600,
    exceptions: &[],
};

/// Lines of code of a function, without blank ones and comments.
pub(crate) const FUNCTION: Limit = Limit {
    what: "lines of code",
    most: 80,
    exceptions: &[
        Exception {
            place: "crates/kif-kernels/src/attention/backward.rs",
            function: Some("one_head"),
            why: "a kernel: one pass over a head's rows, whose buffers all parts share",
        },
        Exception {
            place: "crates/kif-model/src/engine/cuda/tests.rs",
            function: Some("outcome"),
            why: "one arm for each operation of an engine",
        },
        Exception {
            place: "crates/kif-model/tests/files_on_disk/hostile.rs",
            function: Some("hostile_headers_are_refused_with_their_fault"),
            why: "a table of files and what is said of them",
        },
        Exception {
            place: "crates/kif-data/tests/hostile.rs",
            function: Some("rows_with_bad_fields_are_named"),
            why: "a table of rows and what is said of them",
        },
    ],
};

/// Lines below `src` of a crate.
pub(crate) const CRATE: Limit = Limit {
    what: "lines of source",
    most: 9000,
    exceptions: &[
        Exception {
            place: "kif-kernels",
            function: None,
            why: "every kernel once for each set of instructions",
        },
        Exception {
            place: "kif-model",
            function: None,
            why: "three engines, two architectures and their files",
        },
    ],
};

impl Limit {
    fn is_excepted(&self, place: &str, function: Option<&str>) -> bool {
        self.exceptions.iter().any(|exception| {
            let inside = place
                .strip_prefix(exception.place)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
            inside && (exception.function.is_none() || exception.function == function)
        })
    }

    /// A finding if `count` is too much for a file or a crate.
    pub(crate) fn check(&self, place: &str, count: usize) -> Option<Finding> {
        (count > self.most && !self.is_excepted(place, None)).then(|| Finding {
            file: place.to_owned(),
            line: 1,
            text: format!("{count} {}, expected at most {}", self.what, self.most),
        })
    }

    /// A finding for every exception of a function that is no longer needed: `is_long` says whether
    /// the file of this name has a function of that name above the limit.
    pub(crate) fn check_exceptions(&self, is_long: impl Fn(&str, &str) -> bool) -> Vec<Finding> {
        self.exceptions
            .iter()
            .filter_map(|exception| Some((exception.place, exception.function?)))
            .filter(|(place, function)| !is_long(place, function))
            .map(|(place, function)| Finding {
                file: place.to_owned(),
                line: 1,
                text: format!("{function} needs no exception: take it out of the list"),
            })
            .collect()
    }

    /// A finding for every function of a file that is too long.
    pub(crate) fn check_functions(&self, file: &str, functions: &[Function]) -> Vec<Finding> {
        functions
            .iter()
            .filter(|function| function.code_lines > self.most)
            .filter(|function| !self.is_excepted(file, Some(&function.name)))
            .map(|function| Finding {
                file: file.to_owned(),
                line: function.line,
                text: format!(
                    "{} has {} {}, expected at most {}",
                    function.name, function.code_lines, self.what, self.most
                ),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Limit = Limit {
        what: "lines",
        most: 10,
        exceptions: &[
            Exception {
                place: "a/b",
                function: None,
                why: "",
            },
            Exception {
                place: "c.rs",
                function: Some("f"),
                why: "",
            },
        ],
    };

    #[test]
    fn what_is_above_the_limit_is_found() {
        assert!(LIMIT.check("x.rs", 10).is_none());
        let finding = LIMIT.check("x.rs", 11).unwrap();
        assert_eq!(finding.to_string(), "x.rs:1: 11 lines, expected at most 10");
    }

    #[test]
    fn an_exception_holds_for_its_folder_and_its_function_alone() {
        assert!(LIMIT.check("a/b/c.rs", 11).is_none());
        assert!(LIMIT.check("a/bc.rs", 11).is_some());
        assert!(LIMIT.check("c.rs", 11).is_some());
        let function = |name: &str, code_lines| Function {
            name: name.to_owned(),
            line: 7,
            code_lines,
        };
        let functions = [function("f", 99), function("g", 11), function("h", 10)];
        let found = LIMIT.check_functions("c.rs", &functions);
        assert_eq!(found.len(), 1);
        assert_eq!(
            found[0].to_string(),
            "c.rs:7: g has 11 lines, expected at most 10"
        );
    }

    #[test]
    fn an_exception_that_nothing_needs_is_found() {
        assert!(
            LIMIT
                .check_exceptions(|file, name| (file, name) == ("c.rs", "f"))
                .is_empty()
        );
        let found = LIMIT.check_exceptions(|_, _| false);
        assert_eq!(found.len(), 1);
        assert!(found[0].to_string().starts_with("c.rs:1: f needs no"));
    }
}
