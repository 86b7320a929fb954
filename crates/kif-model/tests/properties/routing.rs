//! Adapters side by side and what chooses between them.

use kif_model::{
    EngineKind, LoraConfig, ModelConfig, ModelOptions, ParamGroup, Router, Routing, Trainable,
    from_parts, random_weights,
};
use proptest::prelude::*;

use crate::cases::{adapted, batch, routed, slope_error, spread, tiny};
use crate::common::{distance, mean_loss_and_grad};

proptest! {
    /// Along a random direction over all parameters of a smooth model. All open experts take part:
    /// where another one gets among the largest, the loss jumps.
    #[test]
    fn gradients_of_routed_models_are_those_of_finite_differences(case in routed()) {
        let mut case = case;
        if let Some(Routing { router: Router::Token { top_k }, open_slots, .. }) = &mut case.routing {
            *top_k = *open_slots;
        }
        case.make_smooth();
        case.set_usual_targets();
        let mut model = adapted(&case, EngineKind::Fused);
        let batch = batch(&case.rows);
        let (_, grad) = mean_loss_and_grad(model.as_mut(), &batch, None);
        let params = model.params().to_vec();
        let direction = spread(params.len(), case.seed ^ 0x5eed);
        let slope: f64 = grad.iter().zip(&direction).map(|(g, d)| f64::from(g * d)).sum();
        let error = slope_error(slope, |step| {
            let moved: Vec<f32> = params.iter().zip(&direction).map(|(p, d)| p + step * d).collect();
            model.set_params(&moved).unwrap();
            model.nll_per_row(&batch).unwrap().iter().sum::<f64>() / batch.targets.n_tokens() as f64
        });
        prop_assert!(error < 2e-3 * slope.abs().max(1.0), "slope {slope}, error {error}");
    }

    /// `softmax(K q / sqrt(D))` of `q = gain n(silu(U V e))`, computed here from the parameters and
    /// the mean embedding.
    #[test]
    fn routing_weights_are_those_of_the_formula(case in routed()) {
        let Some(routing @ Routing { router: Router::Instance { hidden }, .. }) = case.routing else {
            return Ok(());
        };
        let (model, batch) = (adapted(&case, EngineKind::Fused), batch(&case.rows));
        let (d, epsilon) = case.width_and_epsilon();
        let of = |name: &str| -> Vec<f64> {
            let spec = model.layout().specs().iter().find(|spec| spec.name == name).unwrap();
            model.params()[spec.range.clone()].iter().map(|x| f64::from(*x)).collect()
        };
        let product = |m: &[f64], x: &[f64]| -> Vec<f64> {
            m.chunks_exact(x.len()).map(|row| row.iter().zip(x).map(|(a, b)| a * b).sum()).collect()
        };
        let (down, up) = (of("router.query.down.weight"), of("router.query.up.weight"));
        prop_assert_eq!(down.len(), hidden * d);
        let weights = model.row_routed().unwrap().routing_weights(&batch).unwrap();
        let means = model.insights().unwrap().mean_embeddings(&batch.inputs).unwrap();
        for (found, e) in weights.chunks_exact(routing.n_slots).zip(means.chunks_exact(d)) {
            let e: Vec<f64> = e.iter().map(|x| f64::from(*x)).collect();
            let wide = product(&up, &product(&down, &e));
            let silu: Vec<f64> = wide.iter().map(|x| x / (1.0 + (-x).exp())).collect();
            let mean_square = silu.iter().map(|x| x * x).sum::<f64>() / d as f64;
            let rms = (mean_square + f64::from(epsilon)).sqrt();
            let query: Vec<f64> = silu.iter().zip(of("router.query.norm.weight")).map(|(x, gain)| gain * x / rms).collect();
            let scores = product(&of("slot_keys"), &query);
            let exp: Vec<f64> = scores[..routing.open_slots].iter().map(|s| (s / (d as f64).sqrt()).exp()).collect();
            for (w, e) in found.iter().zip(&exp) {
                prop_assert!((f64::from(*w) - e / exp.iter().sum::<f64>()).abs() < 1e-4);
            }
        }
    }

    #[test]
    fn routing_weights_are_those_of_open_adapters_and_sum_to_one(case in routed()) {
        let Some(routing @ Routing { router: Router::Instance { .. }, .. }) = case.routing else {
            return Ok(());
        };
        let batch = batch(&case.rows);
        let [fused, stock] = [EngineKind::Fused, EngineKind::Stock]
            .map(|engine| adapted(&case, engine).row_routed().unwrap().routing_weights(&batch).unwrap());
        prop_assert!(distance(&fused, &stock) < 1e-5);
        for row in fused.chunks_exact(routing.n_slots) {
            prop_assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5);
            prop_assert!(row[..routing.open_slots].iter().all(|w| *w > 0.0));
            prop_assert!(row[routing.open_slots..].iter().all(|w| *w == 0.0));
        }
    }

    /// The gradient of `sum c w` along a random direction; it lies in the router alone.
    #[test]
    fn the_gradient_of_routing_weights_is_that_of_finite_differences(case in routed()) {
        let Some(Routing { router: Router::Instance { .. }, n_slots, .. }) = case.routing else {
            return Ok(());
        };
        let batch = batch(&case.rows);
        for engine in [EngineKind::Fused, EngineKind::Stock] {
            let mut model = adapted(&case, engine);
            let params = model.params().to_vec();
            let c = spread(case.rows.len() * n_slots, case.seed ^ 0xc);
            let mut grad = vec![0.0; params.len()];
            model.row_routed_mut().unwrap().add_routing_gradient(&batch, &c, &mut grad).unwrap();
            for range in model.layout().group(ParamGroup::Lora) {
                prop_assert!(grad[range].iter().all(|g| *g == 0.0));
            }
            let direction = spread(params.len(), case.seed ^ 0x5eed);
            let slope: f64 = grad.iter().zip(&direction).map(|(g, d)| f64::from(g * d)).sum();
            let error = slope_error(slope, |step| {
                let moved: Vec<f32> = params.iter().zip(&direction).map(|(p, d)| p + step * d).collect();
                model.set_params(&moved).unwrap();
                let weights = model.row_routed().unwrap().routing_weights(&batch).unwrap();
                weights.iter().zip(&c).map(|(w, c)| f64::from(*w) * f64::from(*c)).sum()
            });
            prop_assert!(error < 1e-3, "slope {slope}, error {error}");
        }
    }

    #[test]
    fn closed_adapters_and_experts_behind_the_largest_change_nothing(case in routed()) {
        let routing = case.routing.unwrap();
        let batch = batch(&case.rows);
        let mut model = adapted(&case, EngineKind::Fused);
        let before = model.nll_per_row(&batch).unwrap();
        let mut params = model.params().to_vec();
        for slot in routing.open_slots..routing.n_slots {
            for range in model.layout().slot(slot) {
                params[range].iter_mut().for_each(|p| *p += 1.0);
            }
        }
        model.set_params(&params).unwrap();
        prop_assert_eq!(model.nll_per_row(&batch).unwrap(), before);
        if routing.open_slots < routing.n_slots {
            model.slot_routed_mut().unwrap().set_open_slots(routing.n_slots).unwrap();
            prop_assert!(model.nll_per_row(&batch).unwrap().iter().all(|nll| nll.is_finite()));
            prop_assert_eq!(model.slot_routed().unwrap().routing().open_slots, routing.n_slots);
        }
        prop_assert!(model.slot_routed_mut().unwrap().set_open_slots(routing.n_slots + 1).is_err());
    }
}

#[test]
fn routing_that_does_not_fit_is_refused() {
    let lora = |n| {
        LoraConfig {
            rank: 2,
            ..LoraConfig::default()
        }
        .side_by_side(n)
    };
    let refused = |routing: Routing, n_slots| {
        let config = ModelConfig::T5(tiny());
        let options = ModelOptions::cpu(Trainable::Routed(lora(n_slots), routing));
        let model = from_parts(&config, random_weights(&config, 1), &options);
        model.err().expect("refused").to_string()
    };
    let token = |n, top_k| Routing::new(n, Router::Token { top_k });
    assert!(refused(token(3, 2), 2).contains("rank 4 is not 3 adapters"));
    assert!(refused(token(2, 3), 2).contains("top_k 3 is outside 2..=2"));
    assert!(refused(token(2, 1), 2).contains("top_k 1 is outside"));
    let by_row = Routing::new(2, Router::Instance { hidden: 0 });
    assert!(refused(by_row, 2).contains("hidden 0"));
}
