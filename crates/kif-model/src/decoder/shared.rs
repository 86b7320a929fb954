//! Rows that begin alike: every distinct beginning goes through the layers once.
//!
//! Attention looks back only, so what the layers make of a token depends on the tokens before it
//! and on nothing else: rows that begin with the same tokens have the same activations there, to
//! the bit. A row is computed from where it leaves the row before it, in lexicographic order.

use kif_data::Ragged;

use crate::engine::Span;

/// The distinct beginnings of rows, as tokens one after the other.
#[derive(Debug)]
pub(super) struct Beginnings {
    /// The id of each token.
    pub(super) ids: Vec<u32>,
    /// Where each token stands in its row.
    pub(super) positions: Vec<usize>,
    /// For the tokens of all rows, one after the other, the place of what stands for them in `ids`.
    pub(super) places: Vec<usize>,
    /// The tokens of one row that no row before it has, in each of the rows that has some.
    pub(super) queries: Vec<Span>,
    /// All tokens of these rows, one after the other, by their places in `ids`.
    pub(super) key_places: Vec<usize>,
    /// Where each of these rows lies in `key_places`.
    pub(super) keys: Vec<Span>,
}

impl Beginnings {
    /// Those of `rows`.
    pub(super) fn of(rows: &Ragged) -> Self {
        let mut order: Vec<usize> = (0..rows.n_rows()).collect();
        order.sort_by(|&a, &b| rows.row(a).cmp(rows.row(b)));
        let mut all = Self {
            ids: Vec::new(),
            positions: Vec::new(),
            places: vec![0; rows.ids().len()],
            queries: Vec::new(),
            key_places: Vec::new(),
            keys: Vec::new(),
        };
        let mut last: Option<usize> = None;
        for row in order {
            all.add(rows, row, last);
            last = Some(row);
        }
        all
    }

    /// Adds a row after `last`, which begins like it for as long as any earlier one.
    fn add(&mut self, rows: &Ragged, row: usize, last: Option<usize>) {
        let (ids, start) = (rows.row(row), rows.offsets()[row]);
        let n_shared = last.map_or(0, |last| {
            let pairs = ids.iter().zip(rows.row(last));
            pairs.take_while(|(a, b)| a == b).count()
        });
        if let Some(last) = last {
            let from = rows.offsets()[last];
            self.places.copy_within(from..from + n_shared, start);
        }
        let query = Span {
            start: self.ids.len(),
            len: ids.len() - n_shared,
        };
        for (position, &id) in ids.iter().enumerate().skip(n_shared) {
            self.places[start + position] = self.ids.len();
            self.ids.push(id);
            self.positions.push(position);
        }
        if query.len > 0 {
            self.queries.push(query);
            self.keys.push(Span {
                start: self.key_places.len(),
                len: ids.len(),
            });
            let row = &self.places[start..start + ids.len()];
            self.key_places.extend_from_slice(row);
        }
    }

    /// Whether any row begins like another.
    pub(super) fn are_shared(&self) -> bool {
        self.ids.len() < self.places.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_distinct_beginning_stands_once_and_rows_find_their_tokens() {
        let rows = Ragged::from_rows([
            vec![1, 2, 3],
            vec![1, 2],
            vec![4],
            vec![1, 2, 5, 6],
            vec![4],
        ]);
        let all = Beginnings::of(&rows);
        assert!(all.are_shared());
        assert_eq!(all.ids, [1, 2, 3, 5, 6, 4]);
        assert_eq!(all.positions, [0, 1, 2, 2, 3, 0]);
        let found: Vec<u32> = all.places.iter().map(|&place| all.ids[place]).collect();
        assert_eq!(found, rows.ids());
        let span = |start, len| Span { start, len };
        assert_eq!(
            all.queries,
            [span(0, 2), span(2, 1), span(3, 2), span(5, 1)]
        );
        assert_eq!(all.keys, [span(0, 2), span(2, 3), span(5, 4), span(9, 1)]);
        assert_eq!(all.key_places, [0, 1, 0, 1, 2, 0, 1, 3, 4, 5]);
    }

    #[test]
    fn rows_that_differ_from_the_start_share_nothing() {
        let rows = Ragged::from_rows([vec![7, 1], vec![3, 1]]);
        let all = Beginnings::of(&rows);
        assert!(!all.are_shared());
        assert_eq!(all.places, [2, 3, 0, 1]);
    }
}
