//! T5's relative positions: distances fall into buckets, exact when near and logarithmic when far.

/// Bucket of one distance (key position - query position), as Hugging Face's
/// `_relative_position_bucket`.
pub(crate) fn bucket(
    distance: isize,
    bidirectional: bool,
    n_buckets: usize,
    max_distance: usize,
) -> usize {
    let (base, n_buckets, distance) = if bidirectional {
        let half = n_buckets / 2;
        (
            if distance > 0 { half } else { 0 },
            half,
            distance.unsigned_abs(),
        )
    } else {
        (0, n_buckets, (-distance).max(0) as usize)
    };
    let max_exact = n_buckets / 2;
    if distance < max_exact {
        return base + distance;
    }
    let far = (distance as f32 / max_exact as f32).ln()
        / ((max_distance as f64 / max_exact as f64).ln() as f32)
        * (n_buckets - max_exact) as f32;
    base + (max_exact + far as usize).min(n_buckets - 1)
}

/// Buckets of the distances `min_distance..=max`, in order.
pub(crate) fn buckets(
    min_distance: isize,
    max: isize,
    bidirectional: bool,
    n_buckets: usize,
    max_distance: usize,
) -> Vec<usize> {
    (min_distance..=max)
        .map(|d| bucket(d, bidirectional, n_buckets, max_distance))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_keys_have_buckets_of_their_own_and_far_ones_share() {
        // Printed by transformers' T5Attention._relative_position_bucket with 32 buckets and
        // distance 128.
        let encoder: Vec<usize> = [-200, -64, -32, -16, -8, -1, 0, 1, 8, 16, 64, 127]
            .iter()
            .map(|&d| bucket(d, true, 32, 128))
            .collect();
        assert_eq!(encoder, [15, 14, 12, 10, 8, 1, 0, 17, 24, 26, 30, 31]);
        let decoder: Vec<usize> = [-200, -64, -32, -16, -15, -1, 0, 1, 5]
            .iter()
            .map(|&d| bucket(d, false, 32, 128))
            .collect();
        assert_eq!(decoder, [31, 26, 21, 16, 15, 1, 0, 0, 0]);
    }
}
