//! Which places of a list hold the same id: what a sum in a fixed order over all of them needs.

use std::collections::BTreeMap;
use std::rc::Rc;

use cudarc::driver::CudaSlice;

use super::device::{Gpu, Result};

/// The places of a list by what stands there.
pub(super) struct Groups {
    ids: Vec<u32>,
    /// Where the places of each id begin, and where the last ones end.
    starts: Vec<u32>,
    places: Vec<u32>,
}

impl Groups {
    /// Of a list in which some places hold nothing.
    pub(super) fn new(list: impl Iterator<Item = Option<u32>>) -> Self {
        let mut by_id: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (place, id) in (0..).zip(list) {
            if let Some(id) = id {
                by_id.entry(id).or_default().push(place);
            }
        }
        let mut groups = Self {
            ids: by_id.keys().copied().collect(),
            starts: vec![0],
            places: Vec::new(),
        };
        for places in by_id.values() {
            groups.places.extend(places);
            groups.starts.push(groups.places.len() as u32);
        }
        groups
    }

    /// Number of distinct ids.
    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    /// Ids, starts and places on the device.
    pub(super) fn upload(&self, gpu: &Gpu) -> Result<[Rc<CudaSlice<u32>>; 3]> {
        Ok([
            gpu.indices(&self.ids)?,
            gpu.indices(&self.starts)?,
            gpu.indices(&self.places)?,
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_found_by_id_in_order() {
        let groups = Groups::new([Some(7), None, Some(2), Some(7)].into_iter());
        assert_eq!(
            (groups.ids, groups.starts, groups.places),
            (vec![2, 7], vec![0, 1, 3], vec![2, 0, 3])
        );
    }
}
