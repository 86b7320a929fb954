//! Updates that NumPy computed (`fixtures/golden/make_updates.py`), for the tests of the methods.

use serde_json::Value;

/// The numbers of one method.
pub(super) struct Case(Value);

impl Case {
    pub(super) fn read(method: &str) -> Self {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../fixtures/golden/updates.json"
        );
        let all: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        Self(all[method].clone())
    }

    pub(super) fn number(&self, name: &str) -> f64 {
        self.0[name].as_f64().unwrap()
    }

    pub(super) fn vector(&self, name: &str) -> Vec<f32> {
        let values = self.0[name].as_array().unwrap().iter();
        values.map(|x| x.as_f64().unwrap() as f32).collect()
    }
}

/// The largest difference of two vectors.
pub(super) fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}
