//! Soft prompts: what they change, and what they leave alone.

use kif_model::{
    DropoutOf, EngineKind, LoraConfig, ModelConfig, ParamGroup, PromptConfig, PromptSelection,
    Trainable, closest_keys, random_weights,
};
use proptest::prelude::*;

use crate::cases::{Case, adapted, batch, case, model, prompted, prompts, slope_error, tiny};
use crate::common::{length, mean_loss_and_grad};

proptest! {
    /// Along the gradient of a smooth model the loss rises by its length.
    #[test]
    fn gradients_of_soft_prompts_are_slopes_of_the_loss(case in case(), prompts in prompts()) {
        let mut case = case;
        case.make_smooth();
        let mut model = prompted(&case, &prompts, EngineKind::Fused, false);
        let batch = batch(&case.rows);
        let (_, grad) = mean_loss_and_grad(model.as_mut(), &batch, None);
        for range in model.layout().group(ParamGroup::PromptKeys) {
            prop_assert!(grad[range].iter().all(|g| *g == 0.0), "keys only choose");
        }
        let (norm, start) = (length(&grad), model.params().to_vec());
        prop_assume!(norm > 1e-3);
        let error = slope_error(norm, |step| {
            let moved = start.iter().zip(&grad).map(|(p, g)| {
                (f64::from(*p) + f64::from(step) * f64::from(*g) / norm) as f32
            });
            model.set_params(&moved.collect::<Vec<_>>()).unwrap();
            model.nll_per_row(&batch).unwrap().iter().sum::<f64>() / batch.targets.n_tokens() as f64
        });
        prop_assert!(error < 0.01 * norm + 1e-4, "{error} beside {norm}");
    }

    #[test]
    fn rows_of_prompts_that_do_not_take_part_have_no_gradient(case in case(), prompts in prompts()) {
        let case = case.open_windows();
        let mut model = prompted(&case, &prompts, EngineKind::Fused, false);
        let (_, grad) = mean_loss_and_grad(model.as_mut(), &batch(&case.rows), None);
        for (prompt, range) in model.layout().prompts().into_iter().enumerate() {
            let moves = grad[range].iter().any(|g| *g != 0.0);
            if !prompts.active.contains(&prompt) {
                prop_assert!(!moves, "prompt {prompt} is not active");
            } else if prompts.config.selection == PromptSelection::Fixed {
                prop_assert!(moves, "prompt {prompt} is active");
            }
        }
    }

    #[test]
    fn without_an_active_prompt_a_model_is_its_base_to_the_bit(case in case(), prompts in prompts()) {
        let case = case.open_windows();
        let batch = batch(&case.rows);
        for engine in [EngineKind::Fused, EngineKind::Stock] {
            let base = model(&case, engine, Trainable::All).distributions().unwrap().target_logits(&batch).unwrap();
            let fresh = model(&case, engine, Trainable::Prompts(prompts.config));
            prop_assert_eq!(&fresh.distributions().unwrap().target_logits(&batch).unwrap(), &base);
            let mut with = prompted(&case, &prompts, engine, false);
            prop_assert!(with.distributions().unwrap().target_logits(&batch).unwrap() != base);
            with.prompted_mut().unwrap().activate_prompts(&[]).unwrap();
            prop_assert_eq!(&with.distributions().unwrap().target_logits(&batch).unwrap(), &base);
        }
    }

    #[test]
    fn a_prompted_row_has_the_same_bits_alone_and_in_company(case in case(), prompts in prompts()) {
        let model = prompted(&case, &prompts, EngineKind::Fused, false);
        let together = model.nll_per_row(&batch(&case.rows)).unwrap();
        let texts: Vec<&[u32]> = case.rows.iter().map(|(x, _)| x.as_slice()).collect();
        let written = model.generate(&texts, 5).unwrap();
        let labels = vec![vec![3, 1], vec![4, 5, 1], vec![1]];
        let scores = model.label_scores(&texts, &labels).unwrap();
        for (i, row) in case.rows.iter().enumerate() {
            let alone = batch(std::slice::from_ref(row));
            prop_assert_eq!(model.nll_per_row(&alone).unwrap()[0].to_bits(), together[i].to_bits());
            prop_assert_eq!(&model.generate(&[&row.0], 5).unwrap()[0], &written[i]);
            prop_assert_eq!(&model.label_scores(&[&row.0], &labels).unwrap()[0], &scores[i]);
            let nll = model.nll_per_row(&batch(&[(row.0.clone(), labels[0].clone())])).unwrap();
            prop_assert!((nll[0] + scores[i][0]).abs() < 1e-5);
        }
    }

    /// The same as a model that is told which ones: a pool is a choice, and nothing else.
    #[test]
    fn a_pool_prepends_the_closest_prompts(case in case(), prompts in prompts(), top_k in 1usize..4) {
        let mut prompts = prompts;
        let top_k = top_k.min(prompts.config.n_prompts);
        prompts.config.selection = PromptSelection::Pool { top_k };
        let pool = prompted(&case, &prompts, EngineKind::Fused, false);
        let keys = pool.layout().group(ParamGroup::PromptKeys).remove(0);
        let rows = pool.layout().group(ParamGroup::Prompts).remove(0);
        prompts.config.selection = PromptSelection::Fixed;
        let mut told = prompted(&case, &prompts, EngineKind::Fused, false);
        told.set_params(&pool.params()[rows]).unwrap();
        for row in &case.rows {
            let batch = batch(std::slice::from_ref(row));
            let query = pool.insights().unwrap().mean_embeddings(&batch.inputs).unwrap();
            let chosen = closest_keys(&pool.params()[keys.clone()], &query, &prompts.active, top_k);
            prop_assert_eq!(chosen.len(), top_k.min(prompts.active.len()));
            told.prompted_mut().unwrap().activate_prompts(&chosen).unwrap();
            prop_assert_eq!(told.distributions().unwrap().target_logits(&batch).unwrap(), pool.distributions().unwrap().target_logits(&batch).unwrap());
        }
    }
}

#[test]
fn prompts_that_a_model_does_not_have_are_refused() {
    let case = Case {
        config: ModelConfig::T5(tiny()),
        lora: LoraConfig::default(),
        routing: None,
        rows: vec![],
        seed: 1,
        dropout_of: DropoutOf::Row,
    };
    let config = PromptConfig {
        n_prompts: 2,
        length: 3,
        selection: PromptSelection::Fixed,
    };
    let mut with = model(&case, EngineKind::Fused, Trainable::Prompts(config));
    let error = with
        .prompted_mut()
        .unwrap()
        .activate_prompts(&[1, 2])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("[1, 2] are not some of 2 prompts"),
        "{error}"
    );
    assert!(
        with.prompted_mut()
            .unwrap()
            .activate_prompts(&[1, 1])
            .is_err()
    );
    let without = adapted(&case, EngineKind::Fused);
    assert!(without.prompted().is_none());
}

#[test]
fn fresh_prompts_are_rows_of_the_embedding_and_keys_their_means() {
    let case = Case {
        config: ModelConfig::T5(tiny()),
        lora: LoraConfig::default(),
        routing: None,
        rows: vec![],
        seed: 5,
        dropout_of: DropoutOf::Row,
    };
    let config = PromptConfig {
        n_prompts: 3,
        length: 2,
        selection: PromptSelection::Pool { top_k: 1 },
    };
    let model = model(&case, EngineKind::Fused, Trainable::Prompts(config));
    let (d, _) = case.width_and_epsilon();
    let table = random_weights(&case.config, case.seed);
    let table = table.get("shared.weight").unwrap();
    let params = model.params();
    let prompts = model.layout().prompts();
    assert_eq!(prompts.len(), 3);
    let keys = &params[model.layout().group(ParamGroup::PromptKeys)[0].clone()];
    for (range, key) in prompts.into_iter().zip(keys.chunks_exact(d)) {
        let rows: Vec<&[f32]> = params[range].chunks_exact(d).collect();
        assert!(
            rows.iter()
                .all(|row| table.chunks_exact(d).any(|of_id| of_id == *row))
        );
        for i in 0..d {
            assert!((key[i] - (rows[0][i] + rows[1][i]) / 2.0).abs() < 1e-6);
        }
    }
}
