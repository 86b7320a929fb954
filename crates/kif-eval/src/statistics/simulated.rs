//! Normal values from a fixed seed, for simulated studies.

use statrs::distribution::{ContinuousCDF, Normal};

/// Independent standard normal values (SplitMix64 through the quantile function).
pub(super) struct Normals {
    state: u64,
    normal: Normal,
}

impl Normals {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            state: seed,
            normal: Normal::standard(),
        }
    }

    pub(super) fn draw(&mut self) -> f64 {
        let uniform = self.bits() as f64 + 0.5;
        self.normal.inverse_cdf(uniform / (1u64 << 53) as f64)
    }

    /// A whole number below `n`.
    pub(super) fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// 53 random bits.
    fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) >> 11
    }
}
