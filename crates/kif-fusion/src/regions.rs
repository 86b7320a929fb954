//! How many parameters two importance masks give to each of the regions that
//! [`fuse_masked`](crate::fuse_masked) tells apart.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

/// Numbers of parameters in three of the four regions of two masks; all others are in neither.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Regions {
    /// In the inner mask alone.
    pub inner_only: u64,
    /// In the outer mask alone.
    pub outer_only: u64,
    /// In both.
    pub both: u64,
}

impl Regions {
    /// Counts `inner` and `outer`, two masks of the same parameters.
    pub fn count(inner: &[bool], outer: &[bool]) -> Self {
        assert_eq!(inner.len(), outer.len(), "inner mask, outer mask");
        let mut regions = Self::default();
        for (inner, outer) in inner.iter().zip(outer) {
            regions.inner_only += u64::from(*inner & !*outer);
            regions.outer_only += u64::from(!*inner & *outer);
            regions.both += u64::from(*inner & *outer);
        }
        regions
    }
}

impl AddAssign for Regions {
    fn add_assign(&mut self, other: Self) {
        self.inner_only += other.inner_only;
        self.outer_only += other.outer_only;
        self.both += other.both;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_by_hand() {
        let inner = [true, true, true, false, false, false];
        let outer = [true, false, false, true, false, false];
        let mut regions = Regions::count(&inner, &outer);
        let once = Regions {
            inner_only: 2,
            outer_only: 1,
            both: 1,
        };
        assert_eq!(regions, once);
        regions += once;
        assert_eq!((regions.inner_only, regions.both), (4, 2));
        assert_eq!(Regions::count(&[], &[]), Regions::default());
    }
}
