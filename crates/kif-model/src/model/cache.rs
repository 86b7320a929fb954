//! Keys and values of what has been written so far.

use crate::engine::Span;

/// Keys and values of one decoder layer for all rows that are still being written.
///
/// Row i owns the places `i * capacity ..`, so that a step appends in place.
pub(crate) struct Cache {
    pub(crate) keys: Vec<f32>,
    pub(crate) values: Vec<f32>,
    width: usize,
    capacity: usize,
}

impl Cache {
    /// Room for the first tokens: answers are mostly short, however long they may get.
    const FIRST_CAPACITY: usize = 8;

    pub(crate) fn new(n_rows: usize, width: usize) -> Self {
        let len = n_rows * Self::FIRST_CAPACITY * width;
        Self {
            keys: vec![0.0; len],
            values: vec![0.0; len],
            width,
            capacity: Self::FIRST_CAPACITY,
        }
    }

    /// Writes position `at` of every row; `keys` and `values` are `[rows, width]`.
    pub(crate) fn append(&mut self, at: usize, keys: &[f32], values: &[f32]) {
        if at == self.capacity {
            self.double();
        }
        for (cache, new) in [(&mut self.keys, keys), (&mut self.values, values)] {
            for (row, new) in new.chunks_exact(self.width).enumerate() {
                cache[(row * self.capacity + at) * self.width..][..self.width].copy_from_slice(new);
            }
        }
    }

    /// Gives every row twice the places.
    fn double(&mut self) {
        let size = self.capacity * self.width;
        for cache in [&mut self.keys, &mut self.values] {
            let mut larger = vec![0.0; 2 * cache.len()];
            for (new, old) in larger
                .chunks_exact_mut(2 * size)
                .zip(cache.chunks_exact(size))
            {
                new[..size].copy_from_slice(old);
            }
            *cache = larger;
        }
        self.capacity *= 2;
    }

    /// The cache of other rows: the i-th goes on from what was written for row `from[i]`.
    pub(crate) fn select(&mut self, from: &[usize]) {
        let size = self.capacity * self.width;
        for cache in [&mut self.keys, &mut self.values] {
            let mut selected = Vec::with_capacity(from.len() * size);
            for row in from {
                selected.extend_from_slice(&cache[row * size..][..size]);
            }
            *cache = selected;
        }
    }

    pub(crate) fn spans(&self, n_rows: usize, len: usize) -> Vec<Span> {
        (0..n_rows)
            .map(|row| Span {
                start: row * self.capacity,
                len,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_follows_the_rows_that_were_selected() {
        let mut cache = Cache::new(2, 1);
        cache.append(0, &[1.0, 2.0], &[3.0, 4.0]);
        cache.select(&[1, 0, 1]);
        let first = |of: &[f32]| -> Vec<f32> {
            cache
                .spans(3, 1)
                .iter()
                .map(|span| of[span.start])
                .collect()
        };
        assert_eq!(first(&cache.keys), [2.0, 1.0, 2.0]);
        assert_eq!(first(&cache.values), [4.0, 3.0, 4.0]);
    }
}
