//! Ragged batches: concatenated token ids and row offsets, no padding.

/// Token ids of several rows, one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ragged {
    ids: Vec<u32>,
    offsets: Vec<usize>,
}

impl Default for Ragged {
    fn default() -> Self {
        Self {
            ids: Vec::new(),
            offsets: vec![0],
        }
    }
}

impl Ragged {
    /// Rows in the given order.
    pub fn from_rows<R: AsRef<[u32]>>(rows: impl IntoIterator<Item = R>) -> Self {
        let mut ragged = Self::default();
        for row in rows {
            ragged.push(row.as_ref());
        }
        ragged
    }

    /// Adds a row at the end.
    pub fn push(&mut self, row: &[u32]) {
        self.ids.extend_from_slice(row);
        self.offsets.push(self.ids.len());
    }

    /// Ids of all rows, `[tokens]`.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Where rows start and end in [`ids`](Self::ids): `[rows + 1]`, from 0 to
    /// the number of tokens.
    pub fn offsets(&self) -> &[usize] {
        &self.offsets
    }

    /// Number of rows.
    pub fn n_rows(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Number of tokens of all rows together.
    pub fn n_tokens(&self) -> usize {
        self.ids.len()
    }

    /// The ids of row `i`.
    pub fn row(&self, i: usize) -> &[u32] {
        &self.ids[self.offsets[i]..self.offsets[i + 1]]
    }

    /// All rows in order.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[u32]> + '_ {
        self.offsets.windows(2).map(|w| &self.ids[w[0]..w[1]])
    }
}

/// A tokenized row: what the model reads and what it shall write, end tokens included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// Prompt ids; never empty.
    pub input_ids: Vec<u32>,
    /// Ids of the first reference; never empty.
    pub target_ids: Vec<u32>,
    /// Whether the prompt was longer than the limit and lost tokens.
    pub cut: bool,
}

/// Rows that go through the model together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Prompts, one row each.
    pub inputs: Ragged,
    /// Targets, same number of rows.
    pub targets: Ragged,
}

impl Batch {
    /// A batch of the given rows, in order.
    pub fn from_rows<'a>(rows: impl IntoIterator<Item = &'a Encoded>) -> Self {
        let mut batch = Self::default();
        for row in rows {
            batch.inputs.push(&row.input_ids);
            batch.targets.push(&row.target_ids);
        }
        batch
    }

    /// Number of rows.
    pub fn n_rows(&self) -> usize {
        self.inputs.n_rows()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_lie_one_after_the_other() {
        let ragged = Ragged::from_rows([vec![1, 2], vec![], vec![3]]);
        assert_eq!(ragged.ids(), [1, 2, 3]);
        assert_eq!(ragged.offsets(), [0, 2, 2, 3]);
        assert_eq!((ragged.n_rows(), ragged.n_tokens()), (3, 3));
        assert_eq!(ragged.row(2), [3]);
        assert_eq!(
            (Ragged::default().n_rows(), Ragged::default().offsets()),
            (0, &[0][..])
        );
    }

    #[test]
    fn a_batch_keeps_inputs_and_targets_together() {
        let row = |i: u32| Encoded {
            input_ids: vec![i; 3],
            target_ids: vec![i + 10],
            cut: false,
        };
        let rows = [row(4), row(2)];
        let batch = Batch::from_rows(&rows);
        assert_eq!(batch.n_rows(), 2);
        assert_eq!(batch.inputs.ids(), [4, 4, 4, 2, 2, 2]);
        assert_eq!(batch.targets.ids(), [14, 12]);
    }
}
