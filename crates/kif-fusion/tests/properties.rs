//! What always holds for fused parameters.

use kif_fusion::{FusionWeights, Update, delta, fuse_masked, weighted_average};
use proptest::{collection::vec, prelude::*};

/// Start, middle and end of a round with both masks, one row per parameter.
type Round = Vec<(f32, f32, f32, bool, bool)>;

fn round() -> impl Strategy<Value = Round> {
    let value = || -10.0f32..10.0;
    vec(
        (value(), value(), value(), any::<bool>(), any::<bool>()),
        1..60,
    )
}

/// As `round`, with small whole numbers: sums and differences are exact.
fn whole_round() -> impl Strategy<Value = Round> {
    let value = || (-100i16..100).prop_map(f32::from);
    vec(
        (value(), value(), value(), any::<bool>(), any::<bool>()),
        1..60,
    )
}

fn weights() -> impl Strategy<Value = FusionWeights> {
    let pair = || (-1.0f32..2.0, -1.0f32..2.0);
    (pair(), pair(), pair(), pair()).prop_map(|(inner_only, outer_only, both, neither)| {
        FusionWeights {
            inner_only,
            outer_only,
            both,
            neither,
        }
    })
}

fn fused(round: &Round, weights: &FusionWeights) -> Vec<f32> {
    let column =
        |f: fn(&(f32, f32, f32, bool, bool)) -> f32| round.iter().map(f).collect::<Vec<f32>>();
    let mask =
        |f: fn(&(f32, f32, f32, bool, bool)) -> bool| round.iter().map(f).collect::<Vec<bool>>();
    let (mut theta, mid, end) = (column(|r| r.0), column(|r| r.1), column(|r| r.2));
    let (mut d_in, mut d_out) = (vec![0.0; theta.len()], vec![0.0; theta.len()]);
    delta(&mid, &theta, &mut d_in);
    delta(&end, &mid, &mut d_out);
    let inner = Update {
        delta: &d_in,
        mask: &mask(|r| r.3),
    };
    let outer = Update {
        delta: &d_out,
        mask: &mask(|r| r.4),
    };
    fuse_masked(&mut theta, inner, outer, weights);
    theta
}

fn masked(round: &Round, inner: bool, outer: bool) -> Round {
    round
        .iter()
        .map(|r| (r.0, r.1, r.2, inner, outer))
        .collect()
}

proptest! {
    #[test]
    fn zero_deltas_leave_parameters_alone((round, weights) in (round(), weights())) {
        let still: Round = round.iter().map(|r| (r.0, r.0, r.0, r.3, r.4)).collect();
        let theta: Vec<f32> = still.iter().map(|r| r.0).collect();
        prop_assert_eq!(fused(&still, &weights), theta);
    }

    #[test]
    fn empty_masks_leave_parameters_alone_as_the_paper_fuses(round in round()) {
        let theta: Vec<f32> = round.iter().map(|r| r.0).collect();
        prop_assert_eq!(fused(&masked(&round, false, false), &FusionWeights::PAPER), theta);
    }

    #[test]
    fn full_masks_give_the_end_of_the_round_as_the_paper_fuses(round in whole_round()) {
        let end: Vec<f32> = round.iter().map(|r| r.2).collect();
        prop_assert_eq!(fused(&masked(&round, true, true), &FusionWeights::PAPER), end);
    }

    #[test]
    fn a_full_inner_mask_alone_gives_the_middle_of_the_round(round in whole_round()) {
        let mid: Vec<f32> = round.iter().map(|r| r.1).collect();
        for weights in [FusionWeights::PAPER, FusionWeights::RELEASED] {
            prop_assert_eq!(fused(&masked(&round, true, false), &weights), &mid[..]);
        }
    }

    #[test]
    fn halves_ignore_the_masks_and_average_start_and_end(round in whole_round()) {
        let middle: Vec<f32> = round.iter().map(|r| (r.0 + r.2) / 2.0).collect();
        prop_assert_eq!(fused(&round, &FusionWeights::HALVES), middle);
    }

    #[test]
    fn weights_summing_to_one_stay_between_the_two_task_vectors((round, w) in (round(), 0.0f32..=1.0)) {
        let pair = (w, 1.0 - w);
        let weights = FusionWeights { inner_only: pair, outer_only: pair, both: pair, neither: pair };
        for (r, fused) in round.iter().zip(fused(&round, &weights)) {
            let (a, b) = (r.0 + (r.1 - r.0), r.0 + (r.2 - r.1));
            prop_assert!(a.min(b) - 1e-5 <= fused && fused <= a.max(b) + 1e-5, "{fused} outside {a}..{b}");
        }
    }

    #[test]
    fn every_parameter_is_fused_by_its_own_row((round, weights) in (round(), weights())) {
        // Row by row, in the reference implementation's order of operations: permuting
        // rows permutes results.
        for (r, fused) in round.iter().zip(fused(&round, &weights)) {
            let (w_in, w_out) = weights.region(r.3, r.4);
            prop_assert_eq!(r.0 + w_in * (r.1 - r.0) + w_out * (r.2 - r.1), fused);
        }
    }

    #[test]
    fn an_average_lies_between_its_vectors((rows, weights) in (vec([-10.0f32..10.0, -10.0f32..10.0, -10.0f32..10.0], 1..40), [0.01f64..5.0, 0.0f64..5.0, 0.0f64..5.0])) {
        let columns: Vec<Vec<f32>> = (0..3).map(|c| rows.iter().map(|row| row[c]).collect()).collect();
        let vectors: Vec<(&[f32], f64)> = columns.iter().map(Vec::as_slice).zip(weights).collect();
        let mut out = vec![0.0; rows.len()];
        weighted_average(&vectors, &mut out).unwrap();
        for (row, mean) in rows.iter().zip(&out) {
            let (low, high) = row.iter().fold((f32::MAX, f32::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
            prop_assert!(low <= *mean && *mean <= high);
        }
    }

    #[test]
    fn averaging_one_vector_with_itself_gives_it_back((vector, a, b) in (vec(-10.0f32..10.0, 1..40), 0.01f64..5.0, 0.0f64..5.0)) {
        let mut out = vec![0.0; vector.len()];
        weighted_average(&[(&vector, a), (&vector, b)], &mut out).unwrap();
        prop_assert_eq!(out, vector);
    }
}

#[test]
fn long_vectors_fused_in_parallel_have_the_bits_of_short_ones_fused_in_sequence() {
    let n = (1 << 17) + 77;
    let value = |i: usize, shift: usize| ((i * 7919 + shift) % 1009) as f32 / 500.0 - 1.0;
    let round: Round = (0..n)
        .map(|i| (value(i, 1), value(i, 2), value(i, 3), i % 3 == 0, i % 5 < 2))
        .collect();
    let whole = fused(&round, &FusionWeights::RELEASED);
    let parts: Vec<f32> = round
        .chunks(1000)
        .flat_map(|part| fused(&part.to_vec(), &FusionWeights::RELEASED))
        .collect();
    assert_eq!(parts, whole);
}
