//! Parts of a batch that go through the model at once.

use kif_data::{Batch, Ragged};

/// Micro-batches of `n` rows; the last may be smaller.
pub(crate) fn by_rows(batch: &Batch, n: usize) -> Vec<Batch> {
    (0..batch.n_rows())
        .step_by(n)
        .map(|start| rows(batch, start, (start + n).min(batch.n_rows())))
        .collect()
}

/// Micro-batches of consecutive rows with at most `limit` tokens, or one row.
pub(super) fn by_tokens(batch: &Batch, limit: usize) -> Vec<Batch> {
    let mut parts = Vec::new();
    let (mut start, mut tokens) = (0, 0);
    for i in 0..batch.n_rows() {
        let row = batch.inputs.row(i).len() + batch.targets.row(i).len();
        if i > start && tokens + row > limit {
            parts.push(rows(batch, start, i));
            (start, tokens) = (i, 0);
        }
        tokens += row;
    }
    parts.push(rows(batch, start, batch.n_rows()));
    parts
}

/// Rows `start..end` of a batch.
fn rows(batch: &Batch, start: usize, end: usize) -> Batch {
    let part = |ragged: &Ragged| Ragged::from_rows((start..end).map(|i| ragged.row(i)));
    Batch {
        inputs: part(&batch.inputs),
        targets: part(&batch.targets),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kif_data::Encoded;

    fn batch(lengths: &[usize]) -> Batch {
        let rows: Vec<Encoded> = (lengths.iter())
            .map(|&n| Encoded {
                input_ids: vec![1; n],
                target_ids: vec![2],
                cut: false,
            })
            .collect();
        Batch::from_rows(&rows)
    }

    #[test]
    fn micro_batches_keep_rows_and_limits() {
        let sizes = |parts: Vec<Batch>| parts.iter().map(Batch::n_rows).collect::<Vec<_>>();
        assert_eq!(sizes(by_rows(&batch(&[1; 5]), 2)), [2, 2, 1]);
        assert_eq!(sizes(by_tokens(&batch(&[1, 1, 9, 1]), 4)), [2, 1, 1]);
        assert_eq!(sizes(by_tokens(&batch(&[9]), 4)), [1]);
    }
}
