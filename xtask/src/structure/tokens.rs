//! The words of a source file with their lines: what the compiler reads, without any comment.
//!
//! `proc-macro2` cuts the text, so that a `fn` in a string or in a comment is no function. The
//! checks ask for words and lines alone, which needs no syntax tree.

use anyhow::{Result, anyhow};
use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// What a word is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A name or a keyword.
    Name,
    /// One character of an operator or a separator.
    Mark,
    /// A number, character or string.
    Literal,
    /// An opening bracket, and where in the list its closing one stands.
    Open(usize),
    /// A closing bracket.
    Close,
}

/// A word and the lines that it covers, from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    pub(crate) text: String,
    pub(crate) first: usize,
    pub(crate) last: usize,
}

impl Token {
    /// Whether this is the name or keyword `text`.
    pub(crate) fn is_name(&self, text: &str) -> bool {
        self.kind == Kind::Name && self.text == text
    }

    /// Whether this is the mark or bracket `text`.
    pub(crate) fn is_mark(&self, text: &str) -> bool {
        !matches!(self.kind, Kind::Name | Kind::Literal) && self.text == text
    }
}

/// All words of a file in order. Documentation counts as comment.
pub(crate) fn tokens(text: &str) -> Result<Vec<Token>> {
    let stream: TokenStream = text.parse().map_err(|error: proc_macro2::LexError| {
        let at = error.span().start();
        anyhow!("line {}: no Rust: {error}", at.line)
    })?;
    let mut tokens = Vec::new();
    flatten(stream, &mut tokens);
    Ok(tokens)
}

fn flatten(stream: TokenStream, tokens: &mut Vec<Token>) {
    let mut trees = stream.into_iter().peekable();
    while let Some(tree) = trees.next() {
        let span = tree.span();
        let (first, last) = (span.start().line, span.end().line);
        if is_documentation(&tree) {
            trees.next_if(|next| matches!(next, TokenTree::Punct(mark) if mark.as_char() == '!'));
            trees.next();
            continue;
        }
        let (kind, text) = match tree {
            TokenTree::Ident(name) => (Kind::Name, name.to_string()),
            TokenTree::Punct(mark) => (Kind::Mark, mark.to_string()),
            TokenTree::Literal(literal) => (Kind::Literal, literal.to_string()),
            TokenTree::Group(group) => {
                let (open, close) = brackets(group.delimiter());
                let at = tokens.len();
                let line = group.span_open().start().line;
                tokens.push(token(Kind::Close, open, line, line));
                flatten(group.stream(), tokens);
                tokens[at].kind = Kind::Open(tokens.len());
                (Kind::Close, close.to_owned())
            }
        };
        let first = if kind == Kind::Close { last } else { first };
        tokens.push(token(kind, &text, first, last));
    }
}

fn token(kind: Kind, text: &str, first: usize, last: usize) -> Token {
    Token {
        kind,
        text: text.to_owned(),
        first,
        last,
    }
}

/// The lexer makes `#[doc = "..."]` of a comment, and gives its `#` the place of the whole comment.
fn is_documentation(tree: &TokenTree) -> bool {
    matches!(tree, TokenTree::Punct(mark) if mark.as_char() == '#')
        && tree
            .span()
            .source_text()
            .is_some_and(|text| text.starts_with('/'))
}

fn brackets(delimiter: Delimiter) -> (&'static str, &'static str) {
    match delimiter {
        Delimiter::Parenthesis => ("(", ")"),
        Delimiter::Bracket => ("[", "]"),
        Delimiter::Brace => ("{", "}"),
        Delimiter::None => ("", ""),
    }
}

/// Where the item ends, exclusive, if `at` is the first word of an attribute that keeps it for
/// tests.
pub(crate) fn end_of_test_item(tokens: &[Token], at: usize) -> Option<usize> {
    let end_of_attribute = attribute(tokens, at)?;
    let words: String = tokens[at + 2..end_of_attribute - 1]
        .iter()
        .map(|token| token.text.as_str())
        .collect();
    let of_tests = words == "test" || words == "cfg(test)" || words.starts_with("cfg(all(test,");
    if !of_tests {
        return None;
    }
    let mut at = end_of_attribute;
    while let Some(end) = attribute(tokens, at) {
        at = end;
    }
    while let Some(token) = tokens.get(at) {
        match token.kind {
            Kind::Open(close) if token.text == "{" => return Some(close + 1),
            Kind::Open(close) => at = close + 1,
            Kind::Close => return Some(at),
            Kind::Mark if token.text == ";" => return Some(at + 1),
            _ => at += 1,
        }
    }
    Some(at)
}

/// Where the attribute that begins at `at` ends, exclusive.
fn attribute(tokens: &[Token], at: usize) -> Option<usize> {
    let bracket = tokens.get(at + 1)?;
    match bracket.kind {
        Kind::Open(close) if tokens[at].is_mark("#") && bracket.text == "[" => Some(close + 1),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(tokens: &[Token]) -> Vec<&str> {
        tokens.iter().map(|token| token.text.as_str()).collect()
    }

    #[test]
    fn comments_are_no_words_and_brackets_know_their_ends() {
        let text = "//! a\n/// b\n#[doc = \"c\"] // d\nfn e(/* f */) {\n}\n";
        let tokens = tokens(text).unwrap();
        let expected = [
            "#", "[", "doc", "=", "\"c\"", "]", "fn", "e", "(", ")", "{", "}",
        ];
        assert_eq!(texts(&tokens), expected);
        assert_eq!(tokens[1].kind, Kind::Open(5));
        assert_eq!(tokens[10].kind, Kind::Open(11));
        assert_eq!((tokens[10].first, tokens[11].first), (4, 5));
    }

    #[test]
    fn a_raw_string_is_one_word_over_its_lines() {
        let tokens = tokens("let a = r#\"\nfn b() {\n\"#;").unwrap();
        assert_eq!(tokens.len(), 5);
        assert_eq!(
            (tokens[3].kind, tokens[3].first, tokens[3].last),
            (Kind::Literal, 1, 3)
        );
    }

    #[test]
    fn broken_text_is_named_by_its_line() {
        let error = tokens("fn a() {}\n}\n").unwrap_err().to_string();
        assert!(error.starts_with("line 2:"), "{error}");
    }

    #[test]
    fn items_of_tests_end_with_their_body() {
        let text = "#[cfg(test)] #[allow(x)] mod t { fn a() {} } fn b() {}";
        let words = tokens(text).unwrap();
        let end = end_of_test_item(&words, 0).unwrap();
        assert_eq!(texts(&words[end..end + 2]), ["fn", "b"]);
        let other = tokens("#[cfg(unix)] mod t {}").unwrap();
        assert_eq!(end_of_test_item(&other, 0), None);
        let declared = tokens("#[cfg(all(test, unix))] mod t; fn b() {}").unwrap();
        let end = end_of_test_item(&declared, 0).unwrap();
        assert_eq!(declared[end].text, "fn");
    }
}
