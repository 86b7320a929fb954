//! Exact match: the benchmark's accuracy.

/// Whether the prediction equals any of the references, both trimmed and lower-cased (as the
/// released evaluation does).
pub fn exact_match(prediction: &str, references: &[String]) -> bool {
    let normal = |text: &str| text.trim().to_lowercase();
    let prediction = normal(prediction);
    references
        .iter()
        .any(|reference| normal(reference) == prediction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        let references = [
            "very positive".to_owned(),
            " Science or Technology\n".to_owned(),
        ];
        assert!(exact_match(" Very Positive ", &references));
        assert!(exact_match("science or technology", &references));
        assert!(!exact_match("positive", &references));
        assert!(!exact_match("very  positive", &references));
        assert!(!exact_match("", &[]));
    }
}
