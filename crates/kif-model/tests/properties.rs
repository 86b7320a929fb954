//! What holds for every model: random small configurations, ragged lengths and adapters.

mod common;

use common::{distance, length, mean_loss_and_grad};
use half::bf16;
use kif_data::{Batch, Encoded};
use kif_kernels::{InstructionSet, with_instruction_set};
use kif_model::{
    DecoderConfig, Dropout, EngineKind, Family, FeedForward, LanguageModel, Llama3Scaling,
    LoraConfig, ModelConfig, ModelOptions, ParamGroup, Precision, PromptConfig, PromptSelection,
    Rope, Router, Routing, Sampling, T5Config, Trainable, Weights, closest_keys, from_parts,
    random_weights,
};
use proptest::prelude::*;

/// A small model with an adapter that is not zero.
#[derive(Clone, Debug)]
struct Case {
    config: ModelConfig,
    lora: LoraConfig,
    routing: Option<Routing>,
    rows: Vec<(Vec<u32>, Vec<u32>)>,
    seed: u64,
}

impl Case {
    fn vocab_size(&self) -> usize {
        self.config.vocab_size()
    }

    fn end_id(&self) -> u32 {
        self.config.end_ids()[0]
    }

    /// Width of the residual stream, and what its norms add to the mean square.
    fn width_and_epsilon(&self) -> (usize, f32) {
        match &self.config {
            ModelConfig::T5(config) => (config.d_model, config.layer_norm_epsilon),
            ModelConfig::Decoder(config) => (config.hidden_size, config.rms_norm_eps),
        }
    }

    /// Without kinks.
    fn make_smooth(&mut self) {
        if let ModelConfig::T5(config) = &mut self.config {
            config.feed_forward = FeedForward::GatedGelu;
        }
    }

    /// Adapters on queries, values and the last map of the feed-forward block.
    fn set_usual_targets(&mut self) {
        let targets = match &self.config {
            ModelConfig::T5(_) => ["q", "v", "wo"],
            ModelConfig::Decoder(_) => ["q_proj", "v_proj", "down_proj"],
        };
        self.lora.targets = targets.map(str::to_owned).to_vec();
    }

    /// The adapter, or the adapters.
    fn trainable(&self) -> Trainable {
        let lora = self.lora.clone();
        match self.routing {
            Some(routing) => Trainable::Routed(lora, routing),
            None => Trainable::Adapter(lora),
        }
    }
}

/// Two to four adapters side by side, routed by row or by token; some may be closed.
fn routed() -> impl Strategy<Value = Case> {
    let routing = (2usize..5).prop_flat_map(|n_slots| {
        (2usize..=n_slots).prop_flat_map(move |open_slots| {
            let router = prop_oneof![
                (1usize..6).prop_map(|hidden| Router::Instance { hidden }),
                (2usize..=open_slots).prop_map(|top_k| Router::Token { top_k }),
            ];
            router.prop_map(move |router| Routing {
                n_slots,
                open_slots,
                router,
            })
        })
    });
    (case(), routing).prop_map(|(case, routing)| Case {
        lora: case.lora.side_by_side(routing.n_slots),
        routing: Some(routing),
        ..case
    })
}

/// One adapter, or several that are routed.
fn any_case() -> impl Strategy<Value = Case> {
    prop_oneof![case(), routed()]
}

/// Every architecture: what holds, holds for all.
fn case() -> impl Strategy<Value = Case> {
    prop_oneof![t5(), decoder()]
}

fn rows() -> impl Strategy<Value = Vec<(Vec<u32>, Vec<u32>)>> {
    let row = (
        prop::collection::vec(0u32..40, 1..12),
        prop::collection::vec(0u32..40, 1..5),
    );
    prop::collection::vec(row, 1..5)
}

fn decoder() -> impl Strategy<Value = Case> {
    let sizes = (1usize..3, 1usize..3, 1usize..4, 1usize..3);
    let kind = (
        prop::sample::select(Family::ALL.to_vec()),
        any::<bool>(),
        any::<bool>(),
    );
    let lora = (1usize..5, 0usize..5);
    (sizes, kind, rows(), lora, any::<u64>()).prop_map(
        |((n_kv, group, half, n_layers), (family, tied, scaled), rows, (rank, targets), seed)| {
            let scaling = scaled.then_some(Llama3Scaling {
                factor: 8.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_position_embeddings: 8,
            });
            let config = DecoderConfig {
                family,
                vocab_size: 40,
                hidden_size: 12,
                intermediate_size: 20,
                num_hidden_layers: n_layers,
                num_attention_heads: n_kv * group,
                num_key_value_heads: n_kv,
                head_dim: 2 * half,
                max_position_embeddings: 64,
                // Heads of two values near 0 would bend like a mistake, and carry last bits as far; the goldens have 1e-5 and 1e-6.
                rms_norm_eps: 0.1,
                rope: Rope {
                    theta: 100.0,
                    scaling,
                },
                tie_word_embeddings: tied,
                bos_token_id: None,
                eos_token_id: vec![1, 2],
                initializer_range: 0.4,
            };
            let all = [
                "q_proj",
                "k_proj",
                "v_proj",
                "o_proj",
                "gate_proj",
                "up_proj",
                "down_proj",
            ];
            let sets: [&[&str]; 5] = [
                &["q_proj", "v_proj"],
                &["q_proj"],
                &["k_proj", "o_proj"],
                &["down_proj", "gate_proj"],
                &all,
            ];
            let targets = sets[targets].iter().map(|&t| t.to_owned()).collect();
            Case {
                config: ModelConfig::Decoder(config),
                lora: LoraConfig {
                    rank,
                    alpha: 4.0,
                    dropout: 0.0,
                    targets,
                },
                routing: None,
                rows,
                seed,
            }
        },
    )
}

fn t5() -> impl Strategy<Value = Case> {
    let sizes = (
        1usize..4,
        1usize..4,
        1usize..3,
        1usize..3,
        any::<bool>(),
        any::<bool>(),
    );
    let lora = (1usize..5, 0usize..5);
    (sizes, rows(), lora, any::<u64>()).prop_map(
        |((n_heads, head, n_enc, n_dec, gated, tied), rows, (rank, targets), seed)| {
            let config = T5Config {
                vocab_size: 40,
                d_model: 12,
                d_kv: 2 * head,
                d_ff: 20,
                num_heads: n_heads,
                num_layers: n_enc,
                num_decoder_layers: n_dec,
                relative_attention_num_buckets: 8,
                relative_attention_max_distance: 10,
                feed_forward: if gated {
                    FeedForward::GatedGelu
                } else {
                    FeedForward::Relu
                },
                tie_word_embeddings: tied,
                ..T5Config::default()
            };
            let input = if gated { "wi_0" } else { "wi" };
            let sets: [&[&str]; 5] = [
                &["q", "v"],
                &["q"],
                &["k", "o"],
                &["wo", input],
                &["q", "k", "v", "o", "wo", input],
            ];
            let targets = sets[targets].iter().map(|&t| t.to_owned()).collect();
            Case {
                config: ModelConfig::T5(config),
                lora: LoraConfig {
                    rank,
                    alpha: 4.0,
                    dropout: 0.0,
                    targets,
                },
                routing: None,
                rows,
                seed,
            }
        },
    )
}

fn batch(rows: &[(Vec<u32>, Vec<u32>)]) -> Batch {
    let rows: Vec<Encoded> = rows
        .iter()
        .map(|(x, y)| Encoded {
            input_ids: x.clone(),
            target_ids: y.clone(),
            cut: false,
        })
        .collect();
    Batch::from_rows(&rows)
}

/// Pseudo-random adapter values: a fresh adapter's B is zero, and so would be half of the gradients.
fn spread(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed | 1;
    (0..n)
        .map(|_| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            ((state >> 40) as f32 / (1u32 << 24) as f32 - 0.5) * 0.4
        })
        .collect()
}

fn model(case: &Case, engine: EngineKind, trainable: Trainable) -> Box<dyn LanguageModel> {
    model_with(case, engine, trainable, false)
}

fn model_with(
    case: &Case,
    engine: EngineKind,
    trainable: Trainable,
    recompute: bool,
) -> Box<dyn LanguageModel> {
    let options = ModelOptions {
        engine,
        seed: case.seed,
        recompute,
        ..ModelOptions::cpu(trainable)
    };
    from_parts(&case.config, weights(case), &options).unwrap()
}

fn weights(case: &Case) -> Weights {
    let config = &case.config;
    let mut weights = random_weights(config, case.seed);
    // Biases that are 0 and gains that are 1 would hide a mistake.
    for (name, shape) in config.tensors() {
        if name.ends_with(".bias") || name.contains("self_attn") && name.ends_with("_norm.weight") {
            let drawn = spread(shape[0], case.seed ^ name.len() as u64);
            let start = weights.get(&name).unwrap();
            let values = start.iter().zip(drawn).map(|(a, b)| a + b).collect();
            weights.insert(name, shape, values);
        }
    }
    weights
}

/// The weights of a base as they are kept in `precision`.
fn rounded(case: &Case, precision: Precision) -> Weights {
    let mut weights = weights(case);
    for (name, shape) in case.config.tensors() {
        if shape.len() < 2 || name.contains("relative_attention_bias") {
            continue;
        }
        let of_tokens = ["shared", "embed_tokens", "lm_head"];
        let in_bytes = precision == Precision::Int8 && !of_tokens.iter().any(|n| name.contains(n));
        let mut values = weights.get(&name).unwrap();
        for row in values.chunks_mut(shape[1]) {
            let scale = row.iter().fold(0f32, |max, x| max.max(x.abs())) / 127.0;
            for x in row {
                *x = if in_bytes {
                    (*x / scale).round_ties_even() * scale
                } else {
                    bf16::from_f32(*x).to_f32()
                };
            }
        }
        weights.insert(name, shape, values);
    }
    weights
}

fn adapted(case: &Case, engine: EngineKind) -> Box<dyn LanguageModel> {
    let mut model = model(case, engine, case.trainable());
    let params = spread(model.layout().n_params(), case.seed);
    model.set_params(&params).unwrap();
    model
}

/// Soft prompts for a model, and which of them take part.
#[derive(Clone, Debug)]
struct Prompts {
    config: PromptConfig,
    active: Vec<usize>,
}

fn prompts() -> impl Strategy<Value = Prompts> {
    (
        1usize..5,
        1usize..4,
        prop::option::of(1usize..4),
        any::<u64>(),
    )
        .prop_map(|(n_prompts, length, top_k, order)| {
            let selection = match top_k {
                None => PromptSelection::Fixed,
                Some(top_k) => PromptSelection::Pool {
                    top_k: top_k.min(n_prompts),
                },
            };
            let mut active: Vec<usize> = (0..n_prompts).collect();
            active.rotate_left(order as usize % n_prompts);
            active.truncate(1 + (order >> 32) as usize % n_prompts);
            let config = PromptConfig {
                n_prompts,
                length,
                selection,
            };
            Prompts { config, active }
        })
}

/// A model whose prompts take part; keys and prompts are not those that it was made with.
fn prompted(
    case: &Case,
    prompts: &Prompts,
    engine: EngineKind,
    recompute: bool,
) -> Box<dyn LanguageModel> {
    let mut model = model_with(case, engine, Trainable::Prompts(prompts.config), recompute);
    let drawn = spread(model.layout().n_params(), case.seed);
    let params: Vec<f32> = model
        .params()
        .iter()
        .zip(drawn)
        .map(|(a, b)| a + b)
        .collect();
    model.set_params(&params).unwrap();
    model
        .prompted_mut()
        .unwrap()
        .activate_prompts(&prompts.active)
        .unwrap();
    model
}

/// To 1e-5 of the loss and of the gradient's length, or of 1 where these are shorter: a gradient that cancels in exact
/// arithmetic (queries over a single key, say) is nothing but rounding. `rounding` is how far the gradient is known to
/// move when the last bits of the parameters do.
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
    let tolerance = (4.0 * rounding).clamp(1e-5 * size, 1e-4 * size);
    if error < tolerance {
        Ok(())
    } else {
        Err(format!(
            "gradients differ by {error:e}, more than {tolerance:e}"
        ))
    }
}

/// How far a model's gradient moves when its parameters do by about half of their last bit, this way and that.
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

/// The engines agree here or a little beside: where a relu's input is zero but for rounding, one engine may see it on
/// one side and one on the other. A step away from such a kink ends that, and no mistake. Where they still differ, the
/// model may be one whose gradient is at the mercy of last bits (a prompt of small rows behind a norm), and the reference
/// itself says how much.
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

/// How far the best of three central differences of `value_at` is from `slope`: a large step meets curvature, a small one
/// rounding, and a wrong slope none of them.
fn slope_error(slope: f64, mut value_at: impl FnMut(f32) -> f64) -> f64 {
    let errors = [2e-2f32, 5e-3, 1e-3].map(|step| {
        let measured = (value_at(step) - value_at(-step)) / (2.0 * f64::from(step));
        (measured - slope).abs()
    });
    errors.into_iter().fold(f64::MAX, f64::min)
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
            let loss = model.distributions_mut().unwrap().divergence_and_grad(&batch, &rows, 0.1, &mut grad).unwrap();
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
        let loss = model.distributions_mut().unwrap().divergence_and_grad(&batch, &own, 1.0, &mut grad).unwrap();
        prop_assert!(loss.abs() < 1e-4, "{loss}");
        prop_assert!(length(&grad) < 1e-3, "{}", length(&grad));
    }

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

    /// In the last layer, too, of which the loss needs the predicting tokens alone.
    #[test]
    fn who_looks_inside_a_decoder_sees_all_tokens(case in decoder()) {
        let model = adapted(&case, EngineKind::Fused);
        let inputs = model.insights().unwrap().layer_inputs(&batch(&case.rows), 1000).unwrap();
        let n_tokens: usize = case.rows.iter().map(|(x, y)| x.len() + y.len() - 1).sum();
        for (spec, inputs) in model.layout().specs().iter().zip(&inputs) {
            if spec.name.contains("lora_A") {
                prop_assert_eq!(inputs.len(), n_tokens * spec.shape[1], "{}", spec.name);
            }
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

proptest! {
    /// Along a random direction over all parameters of a smooth model. All open experts take part: where another one
    /// gets among the largest, the loss jumps.
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

    /// `softmax(K q / sqrt(D))` of `q = gain n(silu(U V e))`, computed here from the parameters and the mean embedding.
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
            let mut value_at = |step: f32| -> f64 {
                let moved: Vec<f32> = params.iter().zip(&direction).map(|(p, d)| p + step * d).collect();
                model.set_params(&moved).unwrap();
                let weights = model.row_routed().unwrap().routing_weights(&batch).unwrap();
                weights.iter().zip(&c).map(|(w, c)| f64::from(*w) * f64::from(*c)).sum()
            };
            let measured = (value_at(1e-2) - value_at(-1e-2)) / 2e-2;
            prop_assert!((measured - slope).abs() < 1e-3, "{} instead of {}", measured, slope);
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

/// `layer_inputs` against what `output_magnitudes` computes from the same inputs.
#[test]
fn layer_inputs_are_what_a_reads() {
    let lora = LoraConfig {
        rank: 2,
        targets: vec!["q".into(), "wo".into()],
        ..LoraConfig::default()
    };
    let case = Case {
        config: ModelConfig::T5(tiny()),
        lora,
        routing: None,
        rows: vec![(vec![3, 4, 5], vec![7, 1]), (vec![9], vec![2, 1])],
        seed: 5,
    };
    let model = adapted(&case, EngineKind::Fused);
    let batch = batch(&case.rows);
    let all = model
        .insights()
        .unwrap()
        .layer_inputs(&batch, 1000)
        .unwrap();
    let magnitudes = model.insights().unwrap().output_magnitudes(&batch).unwrap();
    let few = model.insights().unwrap().layer_inputs(&batch, 2).unwrap();
    for (i, spec) in model.layout().specs().iter().enumerate() {
        if !spec.name.contains("lora_A") {
            assert!(all[i].is_empty() && few[i].is_empty());
            continue;
        }
        let width = spec.shape[1];
        assert_eq!(
            (all[i].len(), few[i].len()),
            (4 * width, 2 * width),
            "{}",
            spec.name
        );
        assert_eq!(few[i][..width], all[i][..width]);
        assert_eq!(few[i][width..], all[i][2 * width..3 * width]);
        let a = &model.params()[spec.range.clone()];
        for (row, magnitude) in a.chunks_exact(width).zip(&magnitudes[i]) {
            let output = |x: &[f32]| row.iter().zip(x).map(|(a, x)| a * x).sum::<f32>().abs();
            let mean = all[i].chunks_exact(width).map(output).sum::<f32>() / 4.0;
            assert!((mean - magnitude).abs() < 1e-5, "{}", spec.name);
        }
    }
}

/// Logarithms of the softmax of every row of V logits.
fn log_softmax(logits: &[f32], vocab_size: usize) -> Vec<f32> {
    let of_row = |row: &[f32]| {
        let log_sum = row.iter().map(|x| f64::from(*x).exp()).sum::<f64>().ln();
        row.iter()
            .map(|x| (f64::from(*x) - log_sum) as f32)
            .collect::<Vec<_>>()
    };
    logits.chunks_exact(vocab_size).flat_map(of_row).collect()
}

#[test]
fn prompts_that_a_model_does_not_have_are_refused() {
    let case = Case {
        config: ModelConfig::T5(tiny()),
        lora: LoraConfig::default(),
        routing: None,
        rows: vec![],
        seed: 1,
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

#[test]
fn ids_outside_the_vocabulary_and_empty_rows_are_errors() {
    let case = Case {
        config: ModelConfig::T5(tiny()),
        lora: LoraConfig::default(),
        routing: None,
        rows: vec![],
        seed: 1,
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

fn tiny() -> T5Config {
    T5Config {
        vocab_size: 40,
        d_model: 12,
        d_kv: 4,
        d_ff: 20,
        num_heads: 3,
        num_layers: 1,
        num_decoder_layers: 1,
        ..T5Config::default()
    }
}
