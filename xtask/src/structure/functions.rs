//! How long functions are.

use std::collections::BTreeSet;

use super::tokens::{Kind, Token};

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) name: String,
    /// Line of its `fn`, from 1.
    pub(crate) line: usize,
    /// Lines with code from `fn` to the closing brace; neither blank lines nor comments count.
    pub(crate) code_lines: usize,
}

/// All functions of a file in order, also those inside of others and those of macros.
pub(crate) fn functions(tokens: &[Token]) -> Vec<Function> {
    (0..tokens.len())
        .filter_map(|at| function(tokens, at))
        .collect()
}

/// The function whose `fn` stands at `at`. A type `fn(A) -> B` and a declaration have no body.
fn function(tokens: &[Token], at: usize) -> Option<Function> {
    let name = tokens.get(at + 1)?;
    let named = name.kind == Kind::Name || name.is_mark("$");
    if !tokens[at].is_name("fn") || !named {
        return None;
    }
    let end = end_of_body(tokens, at + 2)?;
    let code: BTreeSet<usize> = tokens[at..=end]
        .iter()
        .flat_map(|token| token.first..=token.last)
        .collect();
    Some(Function {
        name: name.text.clone(),
        line: tokens[at].first,
        code_lines: code.len(),
    })
}

/// Where the closing brace stands, if there is a body before the next semicolon.
fn end_of_body(tokens: &[Token], mut at: usize) -> Option<usize> {
    loop {
        let token = tokens.get(at)?;
        match token.kind {
            // A brace after `<` is a constant among the arguments of a type.
            Kind::Open(close) if token.text == "{" && !tokens[at - 1].is_mark("<") => {
                return Some(close);
            }
            Kind::Open(close) => at = close + 1,
            Kind::Close => return None,
            Kind::Mark if token.text == ";" => return None,
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tokens::tokens;
    use super::*;

    fn found(text: &str) -> Vec<(String, usize, usize)> {
        functions(&tokens(text).unwrap())
            .into_iter()
            .map(|function| (function.name, function.line, function.code_lines))
            .collect()
    }

    #[test]
    fn blank_lines_and_comments_do_not_count() {
        let text = "\n/// doc\nfn a(\n    b: u8,\n) {\n\n    // why\n    /* and\n       how */\n    c();\n}\n";
        assert_eq!(found(text), [("a".into(), 3, 5)]);
    }

    #[test]
    fn every_line_of_a_string_counts_and_a_fn_inside_of_it_does_not() {
        let text = "fn a() {\n    let text = r#\"\nfn b() {\n\n}\n\"#;\n}\n";
        assert_eq!(found(text), [("a".into(), 1, 7)]);
    }

    #[test]
    fn declarations_and_types_are_no_functions() {
        let text = "trait A { fn a(&self) -> [u8; { 2 }]; fn b() {} }\ntype C = fn(u8) -> u8;";
        assert_eq!(found(text), [("b".into(), 1, 1)]);
    }

    #[test]
    fn functions_of_functions_and_of_macros_are_found() {
        let text = "fn a() -> B<{ 1 }> where C: D, {\n fn b() {\n }\n}\nmacro_rules! m { ($n:ident) => { fn $n() {\n} } }";
        let expected = [("a".into(), 1, 4), ("b".into(), 2, 2), ("$".into(), 5, 2)];
        assert_eq!(found(text), expected);
    }
}
