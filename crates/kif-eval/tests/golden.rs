//! Scores that the Python package `rouge-score` computed.

use kif_eval::rouge_l;

fn pairs_agree(json: &str, n_least: usize) {
    let pairs: Vec<serde_json::Value> = serde_json::from_str(json).unwrap();
    assert!(pairs.len() >= n_least, "{} pairs", pairs.len());
    for pair in pairs {
        let text = |field: &str| pair[field].as_str().unwrap();
        let (ours, expected) = (
            rouge_l(text("prediction"), text("reference")),
            pair["rouge_l"].as_f64().unwrap(),
        );
        assert!((ours - expected).abs() < 1e-9, "{ours} for {pair}");
    }
}

#[test]
fn the_workspaces_pairs_agree() {
    pairs_agree(include_str!("../../../fixtures/golden/rouge.json"), 9);
}

#[test]
fn generated_pairs_agree() {
    pairs_agree(include_str!("fixtures/rouge_l.json"), 200);
}
