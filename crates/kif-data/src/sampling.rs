//! Which rows come next: shuffled epochs, and a cursor in file order.

use crate::chance::{Purpose, permutation, stream};

/// The order of a task's rows in one epoch: a permutation of `0..n_rows`, keyed by
/// seed, task and epoch.
pub fn epoch_order(n_rows: usize, seed: u64, task_idx: u64, epoch: u64) -> Vec<usize> {
    permutation(&mut stream(seed, Purpose::Shuffle, task_idx, epoch), n_rows)
}

/// Walks rows in file order, over and over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Cursor {
    /// The row that comes next, in `0..n_rows`.
    pub position: usize,
}

impl Cursor {
    /// The next `batch_size` rows; after the last comes the first, also inside a
    /// batch. Of no rows, none.
    pub fn take(&mut self, n_rows: usize, batch_size: usize) -> Vec<usize> {
        if n_rows == 0 {
            return Vec::new();
        }
        let start = self.position % n_rows;
        self.position = (start + batch_size) % n_rows;
        (start..start + batch_size).map(|i| i % n_rows).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_wraps_inside_a_batch() {
        let mut cursor = Cursor::default();
        assert_eq!(cursor.take(5, 3), [0, 1, 2]);
        assert_eq!(cursor.take(5, 3), [3, 4, 0]);
        assert_eq!(cursor.take(2, 5), [1, 0, 1, 0, 1]);
        assert_eq!(cursor.take(0, 3), [0; 0]);
    }

    #[test]
    fn epochs_and_tasks_and_seeds_have_orders_of_their_own() {
        let base = epoch_order(50, 1, 0, 0);
        assert_ne!(base, epoch_order(50, 1, 0, 1));
        assert_ne!(base, epoch_order(50, 1, 1, 0));
        assert_ne!(base, epoch_order(50, 2, 0, 0));
    }
}
