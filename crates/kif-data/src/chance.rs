//! Where every random choice comes from: keyed ChaCha streams.
//!
//! A stream is named by (seed, purpose, task, step), so nothing has to be saved to resume a run, and no draw depends
//! on how many draws came before it.

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
