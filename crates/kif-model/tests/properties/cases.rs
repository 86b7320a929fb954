//! Small models, rows and prompts to try everything on.

use half::bf16;
use kif_data::{Batch, Encoded};
use kif_model::{
    DecoderConfig, EngineKind, Family, FeedForward, LanguageModel, Llama3Scaling, LoraConfig,
    ModelConfig, ModelOptions, Precision, PromptConfig, PromptSelection, Rope, Router, Routing,
    T5Config, Trainable, Weights, Window, from_parts, random_weights,
};
use proptest::prelude::*;

/// A small model with an adapter that is not zero.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) config: ModelConfig,
    pub(crate) lora: LoraConfig,
    pub(crate) routing: Option<Routing>,
    pub(crate) rows: Vec<(Vec<u32>, Vec<u32>)>,
    pub(crate) seed: u64,
}

impl Case {
    pub(crate) fn vocab_size(&self) -> usize {
        self.config.vocab_size()
    }

    pub(crate) fn end_id(&self) -> u32 {
        self.config.end_ids()[0]
    }

    /// Width of the residual stream, and what its norms add to the mean square.
    pub(crate) fn width_and_epsilon(&self) -> (usize, f32) {
        match &self.config {
            ModelConfig::T5(config) => (config.d_model, config.layer_norm_epsilon),
            ModelConfig::Decoder(config) => (config.hidden_size, config.rms_norm_eps),
        }
    }

    /// Without kinks.
    pub(crate) fn make_smooth(&mut self) {
        if let ModelConfig::T5(config) = &mut self.config {
            config.feed_forward = FeedForward::GatedGelu;
        }
    }

    /// Everybody sees the beginning of a row, and so its prompts.
    pub(crate) fn open_windows(mut self) -> Self {
        if let ModelConfig::Decoder(config) = &mut self.config {
            config.window = None;
        }
        self
    }

    /// Adapters on queries, values and the last map of the feed-forward block.
    pub(crate) fn set_usual_targets(&mut self) {
        let targets = match &self.config {
            ModelConfig::T5(_) => ["q", "v", "wo"],
            ModelConfig::Decoder(_) => ["q_proj", "v_proj", "down_proj"],
        };
        self.lora.targets = targets.map(str::to_owned).to_vec();
    }

    /// The adapter, or the adapters.
    pub(crate) fn trainable(&self) -> Trainable {
        let lora = self.lora.clone();
        match self.routing {
            Some(routing) => Trainable::Routed(lora, routing),
            None => Trainable::Adapter(lora),
        }
    }
}

/// Two to four adapters side by side, routed by row or by token; some may be closed.
pub(crate) fn routed() -> impl Strategy<Value = Case> {
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
pub(crate) fn any_case() -> impl Strategy<Value = Case> {
    prop_oneof![case(), routed()]
}

/// Every architecture: what holds, holds for all.
pub(crate) fn case() -> impl Strategy<Value = Case> {
    prop_oneof![t5(), decoder()]
}

pub(crate) fn rows() -> impl Strategy<Value = Vec<(Vec<u32>, Vec<u32>)>> {
    let row = (
        prop::collection::vec(0u32..40, 1..12),
        prop::collection::vec(0u32..40, 1..5),
    );
    prop::collection::vec(row, 1..5)
}

pub(crate) fn decoder() -> impl Strategy<Value = Case> {
    let sizes = (1usize..3, 1usize..3, 1usize..4, 1usize..3);
    let kind = (
        prop::sample::select(Family::ALL.to_vec()),
        any::<bool>(),
        any::<bool>(),
    );
    let lora = (1usize..5, 0usize..5);
    let window = (1usize..10, prop::collection::vec(any::<bool>(), 3));
    (sizes, kind, rows(), lora, window, any::<u64>()).prop_map(
        |(sizes, (family, tied, scaled), rows, (rank, targets), (length, layers), seed)| {
            let (n_kv, group, half, n_layers) = sizes;
            let window = |rope_theta, layers: &[bool]| {
                Some(Window {
                    length,
                    rope_theta,
                    layers: layers[..n_layers].to_vec(),
                })
                .filter(|window| window.layers.contains(&true))
            };
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
                // Heads of two values near 0 would bend like a mistake, and carry last bits as far;
                // the goldens have 1e-5 and 1e-6.
                rms_norm_eps: 0.1,
                rope: Rope {
                    theta: 100.0,
                    scaling,
                },
                window: match family {
                    Family::Mistral => window(None, &[tied; 3]),
                    Family::Gemma3 => window(Some(30.0), &layers),
                    Family::Llama | Family::Qwen2 | Family::Qwen3 => None,
                },
                query_pre_attn_scalar: (family == Family::Gemma3).then_some(3),
                tie_word_embeddings: tied,
                bos_token_id: None,
                eos_token_id: vec![1, 2],
                initializer_range: 0.4,
            };
            let targets = decoder_targets(targets);
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

/// One of five sets of modules.
fn decoder_targets(choice: usize) -> Vec<String> {
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
    sets[choice].iter().map(|&t| t.to_owned()).collect()
}

pub(crate) fn t5() -> impl Strategy<Value = Case> {
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

pub(crate) fn batch(rows: &[(Vec<u32>, Vec<u32>)]) -> Batch {
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

/// Pseudo-random adapter values: a fresh adapter's B is zero, and so would be half of the
/// gradients.
pub(crate) fn spread(n: usize, seed: u64) -> Vec<f32> {
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

pub(crate) fn model(
    case: &Case,
    engine: EngineKind,
    trainable: Trainable,
) -> Box<dyn LanguageModel> {
    model_with(case, engine, trainable, false)
}

pub(crate) fn model_with(
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

pub(crate) fn weights(case: &Case) -> Weights {
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
pub(crate) fn rounded(case: &Case, precision: Precision) -> Weights {
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

pub(crate) fn adapted(case: &Case, engine: EngineKind) -> Box<dyn LanguageModel> {
    let mut model = model(case, engine, case.trainable());
    let params = spread(model.layout().n_params(), case.seed);
    model.set_params(&params).unwrap();
    model
}

/// Soft prompts for a model, and which of them take part.
#[derive(Clone, Debug)]
pub(crate) struct Prompts {
    pub(crate) config: PromptConfig,
    pub(crate) active: Vec<usize>,
}

pub(crate) fn prompts() -> impl Strategy<Value = Prompts> {
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
pub(crate) fn prompted(
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

/// Logarithms of the softmax of every row of V logits.
pub(crate) fn log_softmax(logits: &[f32], vocab_size: usize) -> Vec<f32> {
    let of_row = |row: &[f32]| {
        let log_sum = row.iter().map(|x| f64::from(*x).exp()).sum::<f64>().ln();
        row.iter()
            .map(|x| (f64::from(*x) - log_sum) as f32)
            .collect::<Vec<_>>()
    };
    logits.chunks_exact(vocab_size).flat_map(of_row).collect()
}

/// How far the best of four central differences of `value_at` is from `slope`: a large step meets
/// curvature, the more the steeper it is, a small one rounding, and a wrong slope none of them.
pub(crate) fn slope_error(slope: f64, mut value_at: impl FnMut(f32) -> f64) -> f64 {
    let errors = [2e-2f32, 5e-3, 1e-3, 2e-4].map(|step| {
        let measured = (value_at(step) - value_at(-step)) / (2.0 * f64::from(step));
        (measured - slope).abs()
    });
    errors.into_iter().fold(f64::MAX, f64::min)
}

pub(crate) fn tiny() -> T5Config {
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
