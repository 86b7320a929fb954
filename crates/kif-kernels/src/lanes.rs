//! Sums over a row in sixteen lanes, in an order that depends on the row's length alone.

/// Lanes of a sum over a row.
pub(crate) const LANES: usize = 16;

/// `a b + c`, in one rounding where the instruction set has one.
#[inline(always)]
pub(crate) fn madd<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// The sum of the lanes, as a balanced tree.
#[inline(always)]
pub(crate) fn sum(mut lanes: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// The inner product of two rows of one length.
#[inline(always)]
pub(crate) fn dot<const FUSED: bool>(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            lanes[i] = madd::<FUSED>(a[i], b[i], lanes[i]);
        }
    }
    for (i, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
        lanes[i] = madd::<FUSED>(*a, *b, lanes[i]);
    }
    sum(lanes)
}

/// The largest value of a row, `-inf` for an empty one; not-a-numbers are passed over.
#[inline(always)]
pub(crate) fn max(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = if chunk[i] > lanes[i] {
                chunk[i]
            } else {
                lanes[i]
            };
        }
    }
    lanes
        .iter()
        .chain(rest)
        .fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_longer_than_the_lanes_is_summed_whole() {
        let row: Vec<f32> = (1..=37).map(|x| x as f32).collect();
        assert_eq!(dot::<false>(&row, &[1.0; 37]), 703.0);
        assert_eq!(max(&row), 37.0);
        assert_eq!(max(&[]), f32::NEG_INFINITY);
    }
}
