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
        add_products::<FUSED>(&mut lanes, a, b);
    }
    sum_with_rest::<FUSED>(lanes, a_rest, b_rest)
}

/// The inner products of one row with four of its length, each with the bits of [`dot`]: side by
/// side, none waits for its own last sum.
#[inline(always)]
pub(crate) fn four_dots<const FUSED: bool>(a: &[f32], rows: [&[f32]; 4]) -> [f32; 4] {
    let (whole, a_rest) = a.as_chunks::<LANES>();
    let [b0, b1, b2, b3] = rows.map(|row| row.as_chunks::<LANES>().0);
    // By name: sums in an array of arrays stay in memory.
    let (mut s0, mut s1, mut s2, mut s3) =
        ([0f32; LANES], [0f32; LANES], [0f32; LANES], [0f32; LANES]);
    for ((((a, b0), b1), b2), b3) in whole.iter().zip(b0).zip(b1).zip(b2).zip(b3) {
        add_products::<FUSED>(&mut s0, a, b0);
        add_products::<FUSED>(&mut s1, a, b1);
        add_products::<FUSED>(&mut s2, a, b2);
        add_products::<FUSED>(&mut s3, a, b3);
    }
    let done = whole.len() * LANES;
    let finish = |sums, row: &[f32]| sum_with_rest::<FUSED>(sums, a_rest, &row[done..]);
    let [r0, r1, r2, r3] = rows;
    [
        finish(s0, r0),
        finish(s1, r1),
        finish(s2, r2),
        finish(s3, r3),
    ]
}

#[inline(always)]
fn add_products<const FUSED: bool>(sums: &mut [f32; LANES], a: &[f32; LANES], b: &[f32; LANES]) {
    for i in 0..LANES {
        sums[i] = madd::<FUSED>(a[i], b[i], sums[i]);
    }
}

/// The sum of all lanes, with the products of fewer than [`LANES`] values that are left.
#[inline(always)]
fn sum_with_rest<const FUSED: bool>(mut sums: [f32; LANES], a: &[f32], b: &[f32]) -> f32 {
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        sums[i] = madd::<FUSED>(*a, *b, sums[i]);
    }
    sum(sums)
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
    fn several_products_have_the_bits_of_each_alone() {
        let row = |k: usize| -> Vec<f32> { (0..37).map(|i| (i * k + 1) as f32 / 7.0).collect() };
        let (a, b) = (row(3), [5, 11, 2, 4].map(row));
        let rows = [0, 1, 2, 3].map(|i| b[i].as_slice());
        let alone = rows.map(|row| dot::<true>(&a, row));
        assert_eq!(four_dots::<true>(&a, rows), alone);
    }

    #[test]
    fn a_row_longer_than_the_lanes_is_summed_whole() {
        let row: Vec<f32> = (1..=37).map(|x| x as f32).collect();
        assert_eq!(dot::<false>(&row, &[1.0; 37]), 703.0);
        assert_eq!(max(&row), 37.0);
        assert_eq!(max(&[]), f32::NEG_INFINITY);
    }
}
