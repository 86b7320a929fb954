//! ROUGE-L: the longest common subsequence of two texts' words (Lin 2004).
//!
//! Equal to Google's Python package `rouge-score` with its stemmer on, which the benchmarks'
//! evaluation uses: lower case, everything but ASCII letters and digits separates words, words of
//! more than three characters are stemmed.

use crate::porter;

/// F1 of ROUGE-L, in 0..=1: 0 if either text has no word.
pub fn rouge_l(prediction: &str, reference: &str) -> f64 {
    f1(&words(prediction), &words(reference))
}

/// The largest [`rouge_l`] over all references; 0 if there is none.
pub fn best_rouge_l(prediction: &str, references: &[String]) -> f64 {
    let prediction = words(prediction);
    references
        .iter()
        .map(|reference| f1(&prediction, &words(reference)))
        .fold(0.0, f64::max)
}

fn words(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    let words = lower
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty());
    words
        .map(|word| {
            if word.len() > 3 {
                porter::stem(word)
            } else {
                word.to_owned()
            }
        })
        .collect()
}

fn f1(prediction: &[String], reference: &[String]) -> f64 {
    let n_common = longest_common_subsequence(prediction, reference);
    if n_common == 0 {
        return 0.0;
    }
    let precision = n_common as f64 / prediction.len() as f64;
    let recall = n_common as f64 / reference.len() as f64;
    2.0 * precision * recall / (precision + recall)
}

/// Length of the longest common subsequence: the table's rows one after the other, O(n m)
/// time and O(m) memory.
fn longest_common_subsequence(a: &[String], b: &[String]) -> usize {
    let mut row = vec![0; b.len() + 1];
    for a in a {
        let mut diagonal = 0; // the row before's cell, one to the left
        for (j, b) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = if a == b {
                diagonal + 1
            } else {
                above.max(row[j])
            };
            diagonal = above;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        // Common: the cat on the mat, 5 of 6 words on both sides.
        assert_eq!(
            rouge_l("the cat is on the mat", "the cat sat on the mat"),
            5.0 / 6.0
        );
        // Common: one of "a b c", 1 of 3 and 1 of 1: 2 * 1/3 / (4/3).
        assert_eq!(rouge_l("A, b; c!", "c"), 0.5);
        assert_eq!(rouge_l("jumping", "jumped"), 1.0);
        assert_eq!(
            (rouge_l("", "a"), rouge_l("a", "?"), rouge_l("", "")),
            (0.0, 0.0, 0.0)
        );
        assert_eq!(
            best_rouge_l("a b", &["c".to_owned(), "a b".to_owned(), "a".to_owned()]),
            1.0
        );
        assert_eq!(best_rouge_l("a b", &[]), 0.0);
    }
}
