//! `fixtures/golden`, and files of numbers in its form.

use std::path::{Path, PathBuf};

use kif_data::{Batch, Encoded};

/// A folder of golden numbers.
pub(crate) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fixtures/golden")
        .join(name)
}

/// Folders of decoder-only models (`fixtures/golden/make_golden_causal.py`).
pub(crate) fn decoders() -> impl Iterator<Item = &'static str> {
    include_str!("../../../../fixtures/golden/decoders.txt").lines()
}

/// Tensors of a file of numbers.
pub(crate) struct Golden(safetensors::SafeTensors<'static>);

impl Golden {
    pub(crate) fn read(path: &Path) -> Self {
        // Leaked: a test reads a handful of small files.
        let bytes: &'static [u8] = std::fs::read(path).expect("a golden file").leak();
        Self(safetensors::SafeTensors::deserialize(bytes).expect("safetensors"))
    }

    fn data(&self, name: &str) -> &[u8] {
        let view = self.0.tensor(name);
        view.unwrap_or_else(|e| panic!("{name}: {e}")).data()
    }

    pub(crate) fn f32(&self, name: &str) -> Vec<f32> {
        let (values, _) = self.data(name).as_chunks();
        values.iter().copied().map(f32::from_le_bytes).collect()
    }

    pub(crate) fn i64(&self, name: &str) -> Vec<i64> {
        let (values, _) = self.data(name).as_chunks();
        values.iter().copied().map(i64::from_le_bytes).collect()
    }

    /// Rows stored as `<name>.ids` and `<name>.offsets`.
    pub(crate) fn rows(&self, name: &str) -> Vec<Vec<u32>> {
        let ids = self.i64(&format!("{name}.ids"));
        let offsets = self.i64(&format!("{name}.offsets"));
        let row = |w: &[i64]| &ids[w[0] as usize..w[1] as usize];
        let ids_of = |w: &[i64]| row(w).iter().map(|&id| id as u32).collect();
        offsets.windows(2).map(ids_of).collect()
    }

    /// The rows `input` and `target`.
    pub(crate) fn batch(&self) -> Batch {
        let rows = self.rows("input").into_iter().zip(self.rows("target"));
        let rows = rows.map(|(input_ids, target_ids)| Encoded {
            input_ids,
            target_ids,
            cut: false,
        });
        Batch::from_rows(&rows.collect::<Vec<_>>())
    }

    /// Panics where logits of its batch are more than 1e-4 from `logits.<row>`.
    #[track_caller]
    pub(crate) fn assert_logits(&self, logits: &[Vec<f32>], of: &str) {
        assert_eq!(logits.len(), self.rows("input").len(), "{of}");
        for (row, logits) in logits.iter().enumerate() {
            let expected = self.f32(&format!("logits.{row}"));
            assert_eq!(logits.len(), expected.len(), "{of}");
            for (ours, theirs) in logits.iter().zip(&expected) {
                assert!(
                    (ours - theirs).abs() < 1e-4,
                    "{of}, logits of row {row}: {ours} instead of {theirs}"
                );
            }
        }
    }
}
