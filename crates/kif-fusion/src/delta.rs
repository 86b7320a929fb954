//! Task vectors: how far training moved every parameter.

use rayon::prelude::*;

use crate::{CHUNK, MIN_PARALLEL};

/// Writes `to - from`, elementwise over `[P]`, to `out`.
pub fn delta(to: &[f32], from: &[f32], out: &mut [f32]) {
    assert_eq!(
        to.len(),
        out.len(),
        "parameters after, room for differences"
    );
    assert_eq!(
        from.len(),
        out.len(),
        "parameters before, room for differences"
    );
    if out.len() < MIN_PARALLEL {
        return subtract(to, from, out);
    }
    let chunks = (
        out.par_chunks_mut(CHUNK),
        to.par_chunks(CHUNK),
        from.par_chunks(CHUNK),
    )
        .into_par_iter();
    chunks.for_each(|(out, to, from)| subtract(to, from, out));
}

fn subtract(to: &[f32], from: &[f32], out: &mut [f32]) {
    for ((out, to), from) in out.iter_mut().zip(to).zip(from) {
        *out = to - from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        let mut out = [9.0; 3];
        delta(&[3.0, 1.0, -1.0], &[1.0, 1.0, 0.5], &mut out);
        assert_eq!(out, [2.0, 0.0, -1.5]);
    }
}
