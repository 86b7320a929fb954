//! What always holds for scores, thresholds and masks.

use kif_importance::{
    Fisher, Mask, Scope, Sensitivity, SensitivityConfig, mask_above_quantile, quantile,
};
use proptest::{collection::vec, prelude::*};

/// Parameters and gradients of a few steps, all of one length.
fn steps() -> impl Strategy<Value = Vec<(Vec<f32>, Vec<f32>)>> {
    (1usize..40, 1usize..6).prop_flat_map(|(n, n_steps)| {
        vec((vec(-10.0f32..10.0, n), vec(-10.0f32..10.0, n)), n_steps)
    })
}

fn config() -> impl Strategy<Value = SensitivityConfig> {
    (0.0f32..1.0, prop::option::of(0.0f32..1.0)).prop_map(|(sensitivity_beta, uncertainty_beta)| {
        SensitivityConfig {
            sensitivity_beta,
            uncertainty_beta,
        }
    })
}

fn after(config: SensitivityConfig, steps: &[(Vec<f32>, Vec<f32>)]) -> Sensitivity {
    let mut importance = Sensitivity::new(config, steps[0].0.len());
    for (params, grads) in steps {
        importance.update(params, grads);
    }
    importance
}

fn scores(importance: &Sensitivity) -> Vec<f32> {
    let mut scores = Vec::new();
    importance.scores_into(&mut scores);
    scores
}

fn permuted<T: Copy>(values: &[T], order: &[usize]) -> Vec<T> {
    order.iter().map(|i| values[*i]).collect()
}

proptest! {
    #[test]
    fn scores_are_finite_and_at_least_zero((config, steps) in (config(), steps())) {
        let importance = after(config, &steps);
        for (i, score) in scores(&importance).into_iter().enumerate() {
            prop_assert!(score.is_finite() && score >= 0.0);
            prop_assert_eq!(score, importance.score_at(i));
        }
    }

    #[test]
    fn a_sensitivity_never_exceeds_the_largest_product_seen((config, steps) in (config(), steps())) {
        let importance = after(config, &steps);
        for (i, s) in importance.sensitivity().iter().enumerate() {
            let largest = steps.iter().map(|(w, g)| (w[i] * g[i]).abs()).fold(0.0, f32::max);
            prop_assert!(*s <= largest * (1.0 + 1e-6));
        }
    }

    #[test]
    fn zero_gradients_score_zero((config, steps) in (config(), steps())) {
        let still: Vec<_> = steps.iter().map(|(w, g)| (w.clone(), vec![0.0; g.len()])).collect();
        prop_assert!(scores(&after(config, &still)).iter().all(|score| *score == 0.0));
    }

    #[test]
    fn a_zero_gradient_leaves_the_order_of_sensitivities((beta, steps) in (0.1f32..0.99, steps())) {
        let config = SensitivityConfig { sensitivity_beta: beta, uncertainty_beta: None };
        let mut importance = after(config, &steps);
        let before = importance.sensitivity().to_vec();
        importance.update(&steps[0].0, &vec![0.0; before.len()]);
        let now = importance.sensitivity();
        for i in 0..before.len() {
            for j in 0..before.len() {
                prop_assert!(before[i] < before[j] || now[i] >= now[j]);
            }
        }
    }

    #[test]
    fn scaling_weights_up_and_gradients_down_changes_nothing((config, steps, exponent) in (config(), steps(), -8i32..8)) {
        let c = 2f32.powi(exponent); // a power of two: exact
        let scaled: Vec<_> = steps
            .iter()
            .map(|(w, g)| (w.iter().map(|w| w * c).collect(), g.iter().map(|g| g / c).collect()))
            .collect();
        prop_assert_eq!(after(config, &steps), after(config, &scaled));
    }

    #[test]
    fn permuting_parameters_permutes_scores_and_masks(
        (config, steps, order, q) in (config(), steps()).prop_flat_map(|(config, steps)| {
            let order: Vec<usize> = (0..steps[0].0.len()).collect();
            (Just(config), Just(steps), Just(order).prop_shuffle(), 0.0f64..=1.0)
        })
    ) {
        let moved: Vec<_> = steps.iter().map(|(w, g)| (permuted(w, &order), permuted(g, &order))).collect();
        let (scores, scores_moved) = (scores(&after(config, &steps)), scores(&after(config, &moved)));
        prop_assert_eq!(permuted(&scores, &order), &scores_moved[..]);
        let mask = mask_above_quantile(&scores, q, &Scope::Global).unwrap();
        let mask_moved = mask_above_quantile(&scores_moved, q, &Scope::Global).unwrap();
        prop_assert_eq!(permuted(mask.as_slice(), &order), mask_moved.as_slice());
    }

    #[test]
    fn a_restored_state_goes_on_as_the_saved_one((config, steps) in (config(), steps())) {
        let saved = after(config, &steps);
        let mut restored = Sensitivity::new(config, saved.n_params());
        restored.restore(saved.sensitivity(), saved.uncertainty()).unwrap();
        let mut saved = saved;
        saved.update(&steps[0].0, &steps[0].1);
        restored.update(&steps[0].0, &steps[0].1);
        prop_assert_eq!(saved, restored);
    }

    #[test]
    fn the_masked_share_is_one_minus_the_quantile((n, q) in (1u32..2000, 0.0f64..=1.0)) {
        // Distinct: 7919 is prime and larger than n.
        let scores: Vec<f32> = (0..n).map(|i| (i * 7919 % n) as f32).collect();
        let selected = mask_above_quantile(&scores, q, &Scope::Global).unwrap().n_selected();
        let rank = f64::from(q as f32) * f64::from(n - 1);
        prop_assert_eq!(selected, n as usize - 1 - rank.floor() as usize);
        prop_assert!((selected as f64 - (1.0 - q) * f64::from(n)).abs() <= 1.0 + 1e-3);
    }

    #[test]
    fn a_quantile_lies_between_the_order_statistics_around_its_rank(
        (values, q) in (vec(-100.0f32..100.0, 1..200), 0.0f64..=1.0)
    ) {
        let mut sorted = values.clone();
        sorted.sort_by(f32::total_cmp);
        let rank = f64::from(q as f32) * (values.len() - 1) as f64;
        let threshold = quantile(&values, q).unwrap();
        prop_assert!(sorted[rank.floor() as usize] <= threshold && threshold <= sorted[rank.ceil() as usize]);
    }

    #[test]
    fn tensors_of_their_own_are_masked_as_if_they_were_alone(
        (tensors, q) in (vec(vec(0.0f32..5.0, 1..30), 1..6), 0.0f64..=1.0)
    ) {
        let all = tensors.concat();
        let mut start = 0;
        let ranges = tensors.iter().map(|t| { start += t.len(); start - t.len()..start }).collect();
        let mask = mask_above_quantile(&all, q, &Scope::PerTensor(ranges)).unwrap();
        let alone = |t: &Vec<f32>| mask_above_quantile(t, q, &Scope::Global).unwrap();
        let alone: Vec<bool> = tensors.iter().flat_map(|t| alone(t).as_slice().to_vec()).collect();
        prop_assert_eq!(mask, Mask::from(alone));
    }

    #[test]
    fn fisher_information_lies_between_the_smallest_and_largest_square(steps in steps()) {
        let mut fisher = Fisher::new(steps[0].0.len());
        for (_, grads) in &steps {
            fisher.accumulate(grads, 2.0);
        }
        for (i, f) in fisher.finish().unwrap().into_iter().enumerate() {
            let squares = steps.iter().map(|(_, g)| g[i] * g[i]);
            let (low, high) = squares.fold((f32::MAX, 0f32), |(low, high), s| (low.min(s), high.max(s)));
            prop_assert!(low * (1.0 - 1e-6) <= f && f <= high * (1.0 + 1e-6));
        }
    }
}

#[test]
fn long_vectors_updated_in_parallel_have_the_bits_of_short_ones_updated_in_sequence() {
    let n = (1 << 17) + 77;
    let values = |shift: usize| -> Vec<f32> {
        (0..n)
            .map(|i| ((i * 7919 + shift) % 1009) as f32 / 500.0 - 1.0)
            .collect()
    };
    for config in [SensitivityConfig::PAPER, SensitivityConfig::RELEASED] {
        let steps = [(values(1), values(2)), (values(3), values(4))];
        let whole = after(config, &steps);
        let mut fisher = Fisher::new(n);
        fisher.accumulate(&steps[0].1, 1.0);
        let fisher = fisher.finish().unwrap();
        for start in (0..n).step_by(1000) {
            let end = (start + 1000).min(n);
            let part: Vec<_> = steps
                .iter()
                .map(|(w, g)| (w[start..end].to_vec(), g[start..end].to_vec()))
                .collect();
            let part = after(config, &part);
            assert_eq!(part.sensitivity(), &whole.sensitivity()[start..end]);
            assert_eq!(
                part.uncertainty(),
                whole.uncertainty().map(|u| &u[start..end])
            );
            let mut fisher_part = Fisher::new(end - start);
            fisher_part.accumulate(&steps[0].1[start..end], 1.0);
            assert_eq!(fisher_part.finish().unwrap(), &fisher[start..end]);
        }
    }
}
