//! How wide comments are.

use super::tokens::{Kind, Token};

/// Lines, from 1, of comments that end right of `columns`. What cannot be broken, such as one long
/// address, may be wider.
pub(crate) fn too_wide(text: &str, tokens: &[Token], columns: usize) -> Vec<usize> {
    text.lines()
        .enumerate()
        .map(|(at, line)| (at + 1, line))
        .filter(|(_, line)| line.chars().count() > columns && can_be_broken(line))
        .map(|(at, _)| at)
        .filter(|&at| !inside_a_string(tokens, at))
        .collect()
}

/// Whether a line is a comment of more than one word.
fn can_be_broken(line: &str) -> bool {
    line.trim_start().strip_prefix("//").is_some_and(|comment| {
        comment
            .trim_start_matches(['/', '!'])
            .split_whitespace()
            .nth(1)
            .is_some()
    })
}

/// Whether a line begins inside of a string.
fn inside_a_string(tokens: &[Token], line: usize) -> bool {
    tokens
        .iter()
        .any(|token| token.kind == Kind::Literal && token.first < line && line <= token.last)
}

#[cfg(test)]
mod tests {
    use super::super::tokens::tokens;
    use super::*;

    fn found(text: &str) -> Vec<usize> {
        too_wide(text, &tokens(text).unwrap(), 10)
    }

    #[test]
    fn the_indent_counts_and_columns_are_characters() {
        assert_eq!(found("// aaa bbb\n    // aaa bbb\n"), [2]);
        assert_eq!(found("// ööö üüü\n/// öö üüüü\n//! öö üüüü\n"), [2, 3]);
    }

    #[test]
    fn a_single_word_cannot_be_broken() {
        assert_eq!(found("// aaaaaaaaaaaaaaaa\n"), [0; 0]);
    }

    #[test]
    fn strings_are_no_comments() {
        let text = "const A: &str = \"\n// aaa bbbbbbb\n\";\n// aaa bbbbbbb\n";
        assert_eq!(found(text), [4]);
    }
}
