//! The engines agree, and so do passes that keep their activations and passes that compute them
//! again.

use kif_data::Batch;
use kif_model::{Dropout, EngineKind, LanguageModel, Trainable};
use proptest::prelude::*;

use crate::cases::{
    adapted, any_case, batch, case, log_softmax, model, model_with, prompted, prompts, spread,
};
use crate::common::{distance, length, mean_loss_and_grad};

/// To 1e-5 of the loss and of the gradient's length, or of 1 where these are shorter: a gradient
/// that cancels in exact arithmetic (queries over a single key, say) is nothing but rounding.
/// `rounding` is how far the gradient is known to move when the last bits of the parameters do.
fn compare(
    (loss, grad): &(f64, Vec<f32>),
    (stock_loss, stock_grad): &(f64, Vec<f32>),
    rounding: f64,
) -> Result<(), String> {
    if (loss - stock_loss).abs() > 1e-5 * stock_loss.abs().max(1.0) {
        return Err(format!("loss {loss} and {stock_loss}"));
    }
    let error = distance(grad, stock_grad);
    let size = length(stock_grad).max(1.0);
    // Whatever the last bits do, a mistake is larger than a ten thousandth.
    let tolerance = (8.0 * rounding).clamp(1e-5 * size, 1e-4 * size);
    if error < tolerance {
        Ok(())
    } else {
        Err(format!(
            "gradients differ by {error:e}, more than {tolerance:e}"
        ))
    }
}

/// How far a model's gradient moves when its parameters do by about half of their last bit, this
/// way and that.
fn rounding(model: &mut dyn LanguageModel, batch: &Batch, dropout: Option<Dropout>) -> f64 {
    let (_, here) = mean_loss_and_grad(model, batch, dropout);
    let start = model.params().to_vec();
    let moved = |seed: u64| -> Vec<f32> {
        let signs = spread(start.len(), seed);
        let pairs = start.iter().zip(&signs);
        pairs.map(|(p, s)| p * (1.0 + 1e-7 * s.signum())).collect()
    };
    let changes = (1..=4).map(|seed| {
        model.set_params(&moved(seed)).unwrap();
        distance(&mean_loss_and_grad(model, batch, dropout).1, &here)
    });
    let largest = changes.fold(0.0, f64::max);
    model.set_params(&start).unwrap();
    largest
}

/// The engines agree here or a little beside: where a relu's input is zero but for rounding, one
/// engine may see it on one side and one on the other. A step away from such a kink ends that, and
/// no mistake. Where they still differ, the model may be one whose gradient is at the mercy of last
/// bits (a prompt of small rows behind a norm), and the reference itself says how much.
fn engines_agree(
    mut fused: Box<dyn LanguageModel>,
    mut stock: Box<dyn LanguageModel>,
    batch: &Batch,
    dropout: Option<Dropout>,
) {
    let compare_now = |fused: &mut dyn LanguageModel, stock: &mut dyn LanguageModel, rounding| {
        let ours = mean_loss_and_grad(fused, batch, dropout);
        let theirs = mean_loss_and_grad(stock, batch, dropout);
        compare(&ours, &theirs, rounding)
    };
    let Err(here) = compare_now(fused.as_mut(), stock.as_mut(), 0.0) else {
        return;
    };
    for model in [&mut fused, &mut stock] {
        let beside: Vec<f32> = model.params().iter().map(|p| p * (1.0 + 1e-4)).collect();
        model.set_params(&beside).unwrap();
    }
    if let Err(beside) = compare_now(fused.as_mut(), stock.as_mut(), 0.0) {
        let rounding = rounding(stock.as_mut(), batch, dropout);
        compare_now(fused.as_mut(), stock.as_mut(), rounding)
            .unwrap_or_else(|_| panic!("{here}; beside: {beside}; last bits: {rounding:e}"));
    }
}

proptest! {
    #[test]
    fn engines_agree_on_loss_and_adapter_gradients(case in any_case()) {
        let (fused, stock) = (adapted(&case, EngineKind::Fused), adapted(&case, EngineKind::Stock));
        engines_agree(fused, stock, &batch(&case.rows), None);
    }

    #[test]
    fn engines_agree_on_the_gradients_of_all_weights(case in case()) {
        let fused = model(&case, EngineKind::Fused, Trainable::All);
        let stock = model(&case, EngineKind::Stock, Trainable::All);
        engines_agree(fused, stock, &batch(&case.rows), None);
    }

    #[test]
    fn engines_agree_on_dropout_too(case in any_case(), p in 0.05f32..0.6) {
        let (fused, stock) = (adapted(&case, EngineKind::Fused), adapted(&case, EngineKind::Stock));
        engines_agree(fused, stock, &batch(&case.rows), Some(Dropout { p, key: [7; 32] }));
    }

    #[test]
    fn engines_agree_on_the_gradients_of_soft_prompts(case in case(), prompts in prompts()) {
        let [fused, stock] = [EngineKind::Fused, EngineKind::Stock]
            .map(|engine| prompted(&case, &prompts, engine, false));
        engines_agree(fused, stock, &batch(&case.rows), None);
    }

    #[test]
    fn engines_agree_on_the_divergence_from_other_predictions(
        case in case(),
        prompts in prompts(),
        trains in 0..3usize,
    ) {
        let batch = batch(&case.rows);
        let n_values = batch.targets.n_tokens() * case.vocab_size();
        let log_probs = log_softmax(&spread(n_values, case.seed ^ 1), case.vocab_size());
        let rows: Vec<Vec<f32>> = (batch.targets.offsets().windows(2))
            .map(|w| log_probs[w[0] * 40..w[1] * 40].to_vec())
            .collect();
        let [ours, theirs] = [EngineKind::Fused, EngineKind::Stock].map(|engine| {
            let mut model = match trains {
                0 => prompted(&case, &prompts, engine, false),
                1 => adapted(&case, engine),
                _ => model(&case, engine, Trainable::All),
            };
            let mut grad = vec![0.0; model.layout().n_params()];
            let loss = model.distributions_mut().unwrap().divergence_and_grad(&batch, &rows, 0.1, None, &mut grad).unwrap();
            (loss, grad)
        });
        // Relu's kinks, as in `engines_agree`, are rare enough here with a tolerance of their own.
        prop_assert!((ours.0 - theirs.0).abs() < 1e-4 * theirs.0.max(1.0), "{} {}", ours.0, theirs.0);
        prop_assert!(ours.0 >= 0.0);
        let error = distance(&ours.1, &theirs.1);
        prop_assert!(error < 1e-3 * length(&theirs.1).max(1.0), "gradients differ by {error:e}");
    }

    #[test]
    fn a_model_does_not_diverge_from_its_own_predictions(case in case(), prompts in prompts()) {
        let mut model = prompted(&case, &prompts, EngineKind::Fused, false);
        let batch = batch(&case.rows);
        let own: Vec<Vec<f32>> = (model.distributions().unwrap().target_logits(&batch).unwrap().iter())
            .map(|logits| log_softmax(logits, 40))
            .collect();
        let mut grad = vec![0.0; model.layout().n_params()];
        let loss = model.distributions_mut().unwrap().divergence_and_grad(&batch, &own, 1.0, None, &mut grad).unwrap();
        prop_assert!(loss.abs() < 1e-4, "{loss}");
        prop_assert!(length(&grad) < 1e-3, "{}", length(&grad));
    }

    #[test]
    fn recomputation_changes_no_bit_of_the_gradients_of_prompts(
        case in case(),
        prompts in prompts(),
        stock in any::<bool>(),
    ) {
        let engine = if stock { EngineKind::Stock } else { EngineKind::Fused };
        let [kept, recomputed] = [false, true].map(|recompute| {
            let mut model = prompted(&case, &prompts, engine, recompute);
            let (loss, grad) = mean_loss_and_grad(model.as_mut(), &batch(&case.rows), None);
            (loss.to_bits(), grad.iter().map(|g| g.to_bits()).collect::<Vec<_>>())
        });
        prop_assert!(kept == recomputed);
    }

    #[test]
    fn recomputation_changes_no_bit(
        case in any_case(),
        stock in any::<bool>(),
        trains_all in any::<bool>(),
        p in prop::option::of(0.05f32..0.6),
    ) {
        let engine = if stock { EngineKind::Stock } else { EngineKind::Fused };
        let trainable = if trains_all {
            Trainable::All
        } else {
            case.trainable()
        };
        let dropout = p.map(|p| Dropout { p, key: [7; 32] });
        let [kept, recomputed] = [false, true].map(|recompute| {
            let mut model = model_with(&case, engine, trainable.clone(), recompute);
            let params = spread(model.layout().n_params(), case.seed);
            model.set_params(&params).unwrap();
            let (loss, grad) = mean_loss_and_grad(model.as_mut(), &batch(&case.rows), dropout);
            (loss.to_bits(), grad.iter().map(|g| g.to_bits()).collect::<Vec<_>>())
        });
        prop_assert_eq!(kept.0, recomputed.0);
        let differ = kept.1.iter().zip(&recomputed.1).filter(|(a, b)| a != b).count();
        prop_assert_eq!(differ, 0);
    }
}
