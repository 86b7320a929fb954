//! Predictions, whatever stands beside a row, and texts that are written or drawn.

use kif_kernels::{InstructionSet, with_instruction_set};
use kif_model::{
    DropoutOf, EngineKind, LoraConfig, ModelConfig, ModelOptions, Precision, Sampling, Trainable,
    Weights, from_parts, random_weights,
};
use proptest::prelude::*;

use crate::cases::{Case, adapted, any_case, batch, case, model, rounded, spread, tiny, weights};
use crate::common::mean_loss_and_grad;

proptest! {
    #[test]
    fn drawn_texts_depend_on_their_keys_alone(case in case(), top_k in 1usize..8) {
        let model = adapted(&case, EngineKind::Fused);
        let texts: Vec<&[u32]> = case.rows.iter().map(|(x, _)| x.as_slice()).collect();
        let keys: Vec<[u8; 32]> = (0..texts.len() as u8).map(|i| [i; 32]).collect();
        let sampling = Sampling { top_k, n_parts: 2, max_new_tokens: 6 };
        let drawn = model.distributions().unwrap().sample(&texts, &keys, sampling).unwrap();
        for (i, text) in texts.iter().enumerate() {
            prop_assert_eq!(&model.distributions().unwrap().sample(&[text], &keys[i..=i], sampling).unwrap()[0], &drawn[i]);
            prop_assert!(drawn[i].len() <= 2 && drawn[i].concat().len() <= 6);
            for part in &drawn[i] {
                let end_ids = case.config.end_ids();
                let ends = part.iter().filter(|&id| end_ids.contains(id)).count();
                prop_assert_eq!((ends, part.last().is_some_and(|id| end_ids.contains(id))), (1, true));
            }
        }
        let greedy = model.generate(&texts, 6).unwrap();
        let likeliest = Sampling { top_k: 1, n_parts: 1, max_new_tokens: 6 };
        for (parts, greedy) in model.distributions().unwrap().sample(&texts, &keys, likeliest).unwrap().iter().zip(&greedy) {
            let ended = greedy.len() < 6;
            prop_assert_eq!(parts.len(), usize::from(ended));
            if ended {
                prop_assert_eq!(&parts[0][..greedy.len()], &greedy[..]);
            }
        }
    }

    #[test]
    fn a_row_scores_the_same_bits_alone_and_in_company(case in any_case()) {
        let model = adapted(&case, EngineKind::Fused);
        let together = model.nll_per_row(&batch(&case.rows)).unwrap();
        for (row, nll) in case.rows.iter().zip(together) {
            let alone = model.nll_per_row(&batch(std::slice::from_ref(row))).unwrap();
            prop_assert_eq!(alone[0].to_bits(), nll.to_bits());
        }
    }

    #[test]
    fn changing_a_target_token_leaves_earlier_logits_alone(case in any_case(), id in 0u32..40) {
        let model = adapted(&case, EngineKind::Fused);
        let mut row = case.rows[0].clone();
        row.1.push(id);
        let n = row.1.len() * case.vocab_size();
        let before = model.distributions().unwrap().target_logits(&batch(std::slice::from_ref(&row))).unwrap();
        // Token t is read by the decoder from position t + 1 on.
        *row.1.last_mut().unwrap() = (id + 1) % 40;
        let after = model.distributions().unwrap().target_logits(&batch(&[row])).unwrap();
        prop_assert_eq!(&before[0][..n], &after[0][..n]);
    }

    #[test]
    fn a_base_in_few_bits_is_the_base_of_rounded_weights_to_the_bit(
        case in any_case(), precision in prop::sample::select(vec![Precision::Bf16, Precision::Int8]),
    ) {
        // Where BF16 pairs are multiplied, activations are rounded, too.
        with_instruction_set(InstructionSet::Avx512, || {
            let batch = batch(&case.rows);
            let with = |weights: Weights, precision: Precision| {
                let options = ModelOptions {
                    precision,
                    seed: case.seed,
                    ..ModelOptions::cpu(case.trainable())
                };
                let mut model = from_parts(&case.config, weights, &options).unwrap();
                let params = spread(model.layout().n_params(), case.seed);
                model.set_params(&params).unwrap();
                mean_loss_and_grad(model.as_mut(), &batch, None)
            };
            let few = with(weights(&case), precision);
            prop_assert_eq!(few, with(rounded(&case, precision), Precision::F32));
            Ok(())
        })?;
    }

    #[test]
    fn a_fresh_adapter_is_the_base_model(case in any_case()) {
        let batch = batch(&case.rows);
        let fresh = model(&case, EngineKind::Fused, case.trainable());
        let base = model(&case, EngineKind::Fused, Trainable::All);
        prop_assert_eq!(fresh.distributions().unwrap().target_logits(&batch).unwrap(), base.distributions().unwrap().target_logits(&batch).unwrap());
    }

    #[test]
    fn generation_with_a_cache_equals_recomputation(case in any_case()) {
        for engine in [EngineKind::Fused, EngineKind::Stock] {
            let model = adapted(&case, engine);
            let prompts: Vec<&[u32]> = case.rows.iter().map(|(x, _)| x.as_slice()).collect();
            let written = model.generate(&prompts, 20).unwrap();
            for (prompt, written) in prompts.iter().zip(&written) {
                // Teacher forcing on what was written must prefer it at every position.
                // Which end token it was is not said: of a model with several the text alone.
                let mut target = written.clone();
                if target.len() < 20 && case.config.end_ids().len() == 1 {
                    target.push(case.end_id());
                }
                if target.is_empty() {
                    continue;
                }
                let logits = &model.distributions().unwrap().target_logits(&batch(&[(prompt.to_vec(), target.clone())])).unwrap()[0];
                for (row, &id) in logits.chunks_exact(case.vocab_size()).zip(&target) {
                    let best = row.iter().copied().fold(f32::MIN, f32::max);
                    prop_assert!(row[id as usize] > best - 1e-4, "{} is not the best at {}", row[id as usize], best);
                }
            }
        }
    }

    #[test]
    fn predictions_do_not_depend_on_the_evaluation_batch(case in any_case()) {
        let model = adapted(&case, EngineKind::Fused);
        let prompts: Vec<&[u32]> = case.rows.iter().map(|(x, _)| x.as_slice()).collect();
        let together = model.generate(&prompts, 5).unwrap();
        let labels = vec![vec![3, 1], vec![4, 5, 1], vec![1]];
        let scores = model.label_scores(&prompts, &labels).unwrap();
        for (i, prompt) in prompts.iter().enumerate() {
            prop_assert_eq!(&model.generate(&[prompt], 5).unwrap()[0], &together[i]);
            prop_assert_eq!(&model.label_scores(&[prompt], &labels).unwrap()[0], &scores[i]);
        }
    }

    /// More tokens than a decoder reads at once, in rows of which no two have one length.
    #[test]
    fn long_prompts_are_read_in_company_as_alone(case in any_case(), times in 40usize..60) {
        let model = adapted(&case, EngineKind::Fused);
        let long = |i: usize| case.rows[i % case.rows.len()].0.repeat(times + i);
        let prompts: Vec<Vec<u32>> = (0..4).map(long).collect();
        let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
        let labels = vec![vec![3, 1], vec![4, 1]];
        let scores = model.label_scores(&prompts, &labels).unwrap();
        for (prompt, scores) in prompts.iter().zip(&scores) {
            prop_assert_eq!(&model.label_scores(&[prompt], &labels).unwrap()[0], scores);
        }
    }

    #[test]
    fn label_scores_are_the_likelihoods_of_the_labels(case in any_case()) {
        let model = adapted(&case, EngineKind::Fused);
        let labels = vec![vec![3, 1], vec![4, 5, 1]];
        let scores = model.label_scores(&[&case.rows[0].0], &labels).unwrap();
        for (label, score) in labels.iter().zip(&scores[0]) {
            let nll = model.nll_per_row(&batch(&[(case.rows[0].0.clone(), label.clone())])).unwrap();
            prop_assert!((nll[0] + score).abs() < 1e-5);
        }
    }
}

#[test]
fn ids_outside_the_vocabulary_and_empty_rows_are_errors() {
    let case = Case {
        config: ModelConfig::T5(tiny()),
        lora: LoraConfig::default(),
        routing: None,
        rows: vec![],
        seed: 1,
        dropout_of: DropoutOf::Row,
    };
    let model = adapted(&case, EngineKind::Fused);
    let error = model.generate(&[&[3, 40]], 2).unwrap_err().to_string();
    assert!(error.contains("40"), "{error}");
    assert!(model.nll_per_row(&batch(&[(vec![1], vec![])])).is_err());
    assert!(model.nll_per_row(&batch(&[(vec![], vec![1])])).is_err());
}

#[test]
fn unknown_targets_are_refused_by_name() {
    let config = ModelConfig::T5(tiny());
    let lora = LoraConfig {
        targets: vec!["q".into(), "wi_0".into()],
        ..LoraConfig::default()
    };
    let options = ModelOptions::cpu(Trainable::Adapter(lora));
    let error = from_parts(&config, random_weights(&config, 1), &options)
        .err()
        .expect("refused")
        .to_string();
    assert!(error.contains("wi_0"), "{error}");
}
