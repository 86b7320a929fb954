//! Buffers that are used again from operation to operation and from step to step.
//!
//! A fresh `vec![0.0; n]` is filled with zeros that the kernels overwrite at once: on small models
//! that took a third of a step. Gradients that have been consumed come back here, and outputs are
//! taken from here.

use std::cell::RefCell;
use std::collections::BTreeMap;

/// Most values that are kept: 256 MiB. What comes back beyond that is freed.
const MAX_KEPT: usize = 64 << 20;

#[derive(Default)]
struct Pool {
    /// Buffers by capacity.
    kept: BTreeMap<usize, Vec<Vec<f32>>>,
    n_values: usize,
}

thread_local! {
    static POOL: RefCell<Pool> = RefCell::default();
}

/// A buffer of `len` values with arbitrary contents: for outputs that are written completely.
pub(super) fn take(len: usize) -> Vec<f32> {
    POOL.with_borrow_mut(|pool| {
        // Ragged batches differ in length from step to step: a somewhat larger buffer will do.
        let Some(capacity) = pool
            .kept
            .range(len..=2 * len)
            .next()
            .map(|(capacity, _)| *capacity)
        else {
            return vec![0.0; len];
        };
        let same = pool.kept.get_mut(&capacity).expect("found just now");
        let mut buffer = same.pop().expect("no empty lists are kept");
        if same.is_empty() {
            pool.kept.remove(&capacity);
        }
        pool.n_values -= capacity;
        buffer.resize(len, 0.0);
        buffer
    })
}

/// Takes back a buffer that is not needed any more.
pub(super) fn give(buffer: Vec<f32>) {
    POOL.with_borrow_mut(|pool| {
        let capacity = buffer.capacity();
        if capacity > 0 && pool.n_values + capacity <= MAX_KEPT {
            pool.n_values += capacity;
            pool.kept.entry(capacity).or_default().push(buffer);
        }
    });
}

/// Puts `new` in the place of a gradient whose zeros nobody has added to yet.
pub(super) fn replace(slot: &mut Vec<f32>, new: Vec<f32>) {
    give(std::mem::replace(slot, new));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_for_lengths_up_to_its_capacity() {
        let buffer = vec![1.0; 1000];
        let address = buffer.as_ptr();
        give(buffer);
        let again = take(900);
        assert_eq!((again.as_ptr(), again.len()), (address, 900));
        give(again);
        let small = take(400);
        assert_ne!(
            small.as_ptr(),
            address,
            "a much larger buffer stays for those who need it"
        );
    }

    #[test]
    fn a_longer_buffer_than_before_has_no_old_length() {
        let mut short = Vec::with_capacity(64);
        short.push(1.0);
        give(short);
        assert_eq!(take(60).len(), 60);
    }
}
