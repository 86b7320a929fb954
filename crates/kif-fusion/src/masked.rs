//! Fusion of two task vectors under their importance masks (Recurrent-KIF, knowledge fusion).
//!
//! ```text
//! theta <- theta + w_in d_in + w_out d_out
//! ```
//!
//! `theta` is the vector at the start of the round, `d_in` the way through the inner steps,
//! `d_out` the way from there through the outer steps; the pair `(w_in, w_out)` is chosen per
//! parameter by the two masks. All rules that were published or serve as controls are one
//! [table](FusionWeights) each.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{CHUNK, FusionError, MIN_PARALLEL};

/// Weights `(inner, outer)` of the two task vectors, for each of the four regions
/// that two masks make.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FusionWeights {
    /// Where only the inner loop found the parameter important.
    pub inner_only: (f32, f32),
    /// Where only the outer loop did.
    pub outer_only: (f32, f32),
    /// Where both did.
    pub both: (f32, f32),
    /// Where neither did.
    pub neither: (f32, f32),
}

impl FusionWeights {
    /// The paper's: each mask selects its own vector, shared parameters get both,
    /// redundant ones stay.
    pub const PAPER: Self = Self {
        inner_only: (1.0, 0.0),
        outer_only: (0.0, 1.0),
        both: (1.0, 1.0),
        neither: (0.0, 0.0),
    };

    /// The released code's: shared and redundant parameters are averaged (0.5 each as in
    /// TaSL, its predecessor).
    pub const RELEASED: Self = Self {
        inner_only: (1.0, 0.0),
        outer_only: (0.0, 1.0),
        both: (0.4, 0.6),
        neither: (0.5, 0.5),
    };

    /// Half of both vectors everywhere, whatever the masks: the control for what masks add.
    pub const HALVES: Self = Self::everywhere(0.5, 0.5);

    /// The same pair everywhere, whatever the masks.
    pub const fn everywhere(inner: f32, outer: f32) -> Self {
        let pair = (inner, outer);
        Self {
            inner_only: pair,
            outer_only: pair,
            both: pair,
            neither: pair,
        }
    }

    /// The pair for a parameter that is in the inner mask, in the outer mask.
    pub fn region(&self, inner: bool, outer: bool) -> (f32, f32) {
        match (inner, outer) {
            (true, false) => self.inner_only,
            (false, true) => self.outer_only,
            (true, true) => self.both,
            (false, false) => self.neither,
        }
    }

    /// Refuses weights that are not finite.
    pub fn check(&self) -> Result<(), FusionError> {
        let regions = [
            ("inner_only", self.inner_only),
            ("outer_only", self.outer_only),
            ("both", self.both),
            ("neither", self.neither),
        ];
        for (region, (inner, outer)) in regions {
            if let Some(value) = [inner, outer].into_iter().find(|w| !w.is_finite()) {
                return Err(FusionError::RegionWeight { region, value });
            }
        }
        Ok(())
    }
}

/// What one loop did to the parameters, and which of them it found important.
#[derive(Clone, Copy, Debug)]
pub struct Update<'a> {
    /// Task vector, `[P]`.
    pub delta: &'a [f32],
    /// Important parameters, `[P]`.
    pub mask: &'a [bool],
}

/// Fuses both updates into `theta`, `[P]`: the round's start goes in, the fused
/// parameters come out.
///
/// In f32 and in the order `(theta + w_in d_in) + w_out d_out`, which is the
/// reference implementation's.
pub fn fuse_masked(
    theta: &mut [f32],
    inner: Update<'_>,
    outer: Update<'_>,
    weights: &FusionWeights,
) {
    for (what, update) in [("inner", inner), ("outer", outer)] {
        assert_eq!(
            update.delta.len(),
            theta.len(),
            "{what} differences, parameters"
        );
        assert_eq!(update.mask.len(), theta.len(), "{what} mask, parameters");
    }
    let table = Table::new(weights);
    if theta.len() < MIN_PARALLEL {
        return fuse(theta, inner, outer, &table);
    }
    let chunks = (
        theta.par_chunks_mut(CHUNK),
        inner.delta.par_chunks(CHUNK),
        inner.mask.par_chunks(CHUNK),
        outer.delta.par_chunks(CHUNK),
        outer.mask.par_chunks(CHUNK),
    );
    chunks
        .into_par_iter()
        .for_each(|(theta, d_in, m_in, d_out, m_out)| {
            fuse(
                theta,
                Update {
                    delta: d_in,
                    mask: m_in,
                },
                Update {
                    delta: d_out,
                    mask: m_out,
                },
                &table,
            );
        });
}

/// The four pairs at `inner + 2 outer`: a lookup where branches on masks would be mispredicted.
struct Table([(f32, f32); 4]);

impl Table {
    fn new(weights: &FusionWeights) -> Self {
        Self(
            [(false, false), (true, false), (false, true), (true, true)]
                .map(|(i, o)| weights.region(i, o)),
        )
    }
}

fn fuse(theta: &mut [f32], inner: Update<'_>, outer: Update<'_>, table: &Table) {
    let masks = inner.mask.iter().zip(outer.mask);
    let deltas = inner.delta.iter().zip(outer.delta);
    for ((theta, (d_in, d_out)), (m_in, m_out)) in theta.iter_mut().zip(deltas).zip(masks) {
        let (w_in, w_out) = table.0[usize::from(*m_in) + 2 * usize::from(*m_out)];
        *theta = *theta + w_in * d_in + w_out * d_out;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One parameter per region, in the order inner only, outer only, both, neither; all at 10,
    /// with vectors 2 and 4.
    fn fused(weights: &FusionWeights) -> [f32; 4] {
        let mut theta = [10.0; 4];
        let inner = Update {
            delta: &[2.0; 4],
            mask: &[true, false, true, false],
        };
        let outer = Update {
            delta: &[4.0; 4],
            mask: &[false, true, true, false],
        };
        fuse_masked(&mut theta, inner, outer, weights);
        theta
    }

    #[test]
    fn the_four_regions_by_hand() {
        assert_eq!(fused(&FusionWeights::PAPER), [12.0, 14.0, 16.0, 10.0]);
        assert_eq!(
            fused(&FusionWeights::RELEASED),
            [12.0, 14.0, 10.0 + 0.4 * 2.0 + 0.6 * 4.0, 13.0]
        );
        assert_eq!(fused(&FusionWeights::HALVES), [13.0; 4]);
    }

    #[test]
    fn a_weight_that_is_not_finite_is_refused() {
        let weights = FusionWeights {
            both: (0.4, f32::NAN),
            ..FusionWeights::RELEASED
        };
        assert_eq!(
            weights.check().unwrap_err().to_string(),
            "weight NaN of `both` is not finite"
        );
        assert_eq!(FusionWeights::PAPER.check(), Ok(()));
    }
}
