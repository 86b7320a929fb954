//! Where every random choice comes from: keyed ChaCha streams.
//!
//! A stream is named by (seed, purpose, task, step), so nothing has to be saved to resume a run,
//! and no draw depends on how many draws came before it.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// What a stream is used for; two purposes never share numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Order of a task's rows in one epoch (step = epoch).
    Shuffle = 1,
    /// Rows that a task leaves in the memory.
    Memory = 2,
    /// Batches drawn from the memory (step = draw).
    MemoryBatch = 3,
    /// Initial values of an adapter.
    Init = 4,
    /// Dropout on the adapter's inputs (step = forward pass).
    Dropout = 5,
    /// Rows cut from train for validation.
    Validation = 6,
    /// Test rows taken by a limit.
    Subset = 7,
    /// Examples made for pretraining (step = optimizer step).
    Pretrain = 8,
    /// Text generated for fixtures.
    Fixture = 9,
    /// Order of the memory in one pass over it (step = pass).
    MemoryPass = 10,
    /// Texts drawn from a model (step = number of the text).
    Sample = 11,
}

/// The key of a stream: 32 bytes, ready for [`ChaCha8Rng::from_seed`].
pub fn key(seed: u64, purpose: Purpose, task: u64, step: u64) -> [u8; 32] {
    let mut key = [0; 32];
    for (word, value) in key
        .chunks_exact_mut(8)
        .zip([seed, purpose as u64, task, step])
    {
        word.copy_from_slice(&value.to_le_bytes());
    }
    key
}

/// The stream of (seed, purpose, task, step).
pub fn stream(seed: u64, purpose: Purpose, task: u64, step: u64) -> ChaCha8Rng {
    ChaCha8Rng::from_seed(key(seed, purpose, task, step))
}

/// A number in `0..n`, without modulo bias. `n` must be positive.
pub fn below(rng: &mut ChaCha8Rng, n: usize) -> usize {
    assert!(n > 0, "a number below 0 was asked for");
    let n = n as u64;
    let zone = u64::MAX - u64::MAX % n;
    loop {
        let x = rng.next_u64();
        if x < zone {
            return (x % n) as usize;
        }
    }
}

/// A uniform number in `[0, 1)` with 24 random bits.
pub fn uniform(rng: &mut ChaCha8Rng) -> f32 {
    (rng.next_u32() >> 8) as f32 / (1u32 << 24) as f32
}

/// A random order of `0..n` (Fisher-Yates).
pub fn permutation(rng: &mut ChaCha8Rng, n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        order.swap(i, below(rng, i + 1));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_depends_on_every_part_of_its_name() {
        let first = |seed, purpose, task, step| stream(seed, purpose, task, step).next_u64();
        let base = first(1, Purpose::Shuffle, 2, 3);
        assert_eq!(base, first(1, Purpose::Shuffle, 2, 3));
        let others = [
            first(2, Purpose::Shuffle, 2, 3),
            first(1, Purpose::Memory, 2, 3),
            first(1, Purpose::Shuffle, 3, 3),
            first(1, Purpose::Shuffle, 2, 4),
        ];
        assert!(others.iter().all(|&other| other != base));
    }

    #[test]
    fn draws_below_n_are_uniform() {
        // 60,000 draws in 6 cells: a standard deviation is about 91.
        let mut rng = stream(1, Purpose::Fixture, 0, 0);
        let mut counts = [0i32; 6];
        (0..60_000).for_each(|_| counts[below(&mut rng, 6)] += 1);
        assert!(
            counts.iter().all(|n| (n - 10_000).abs() < 500),
            "{counts:?}"
        );
    }

    #[test]
    fn uniform_numbers_stay_below_one_and_have_mean_one_half() {
        let mut rng = stream(1, Purpose::Dropout, 0, 0);
        let draws: Vec<f32> = (0..10_000).map(|_| uniform(&mut rng)).collect();
        assert!(draws.iter().all(|x| (0.0..1.0).contains(x)));
        let mean = draws.iter().map(|&x| f64::from(x)).sum::<f64>() / 10_000.0;
        assert!((mean - 0.5).abs() < 0.02, "{mean}");
    }
}
