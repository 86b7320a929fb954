//! Whether a device computes what the CPU computes: losses, logits, gradients and whole KIF rounds
//! of small random models on both.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use kif_data::chance::{Purpose, below, key, stream, uniform};
use kif_data::{Batch, Encoded};
use kif_methods::methods::KifConfig;
use kif_methods::{Learner, LearnerConfig, MemoryOrder, MethodConfig, Schedule, TaskView};
use kif_model::{
    DecoderConfig, DeviceKind, Dropout, DropoutOf, EngineKind, Family, FeedForward, LanguageModel,
    LoraConfig, ModelConfig, ModelError, ModelOptions, Precision, PromptConfig, PromptSelection,
    Rope, T5Config, Trainable, Window, from_parts, random_weights, required,
};

/// One comparison.
#[derive(Clone, Debug)]
pub struct Check {
    /// The model.
    pub case: &'static str,
    /// Number format of frozen weights on the device.
    pub precision: Precision,
    /// What was compared.
    pub what: String,
    /// The difference: relative L2 norm, or the relative difference of a single number.
    pub difference: f64,
    /// What it may be.
    pub tolerance: f64,
}

impl Check {
    /// Whether the difference is a number and small enough.
    pub fn passed(&self) -> bool {
        self.difference <= self.tolerance
    }
}

/// A small model and what is trained of it.
struct Case {
    name: &'static str,
    config: ModelConfig,
    trainable: Trainable,
    dropout: f32,
    recompute: bool,
}

const VOCAB: usize = 64;
const N_ROUNDS: usize = 10;

fn cases() -> Vec<Case> {
    let (relu, gated) = (FeedForward::Relu, FeedForward::GatedGelu);
    let lora = |targets: &[&str]| {
        Trainable::Adapter(LoraConfig {
            targets: targets.iter().map(|&target| target.to_owned()).collect(),
            ..LoraConfig::default()
        })
    };
    let case = |name, config, trainable| Case {
        name,
        config,
        trainable,
        dropout: 0.0,
        recompute: false,
    };
    let every = ["q", "k", "v", "o", "wi_0", "wi_1", "wo"];
    let of_decoder = [
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    ];
    vec![
        case("relu, tied head", t5(relu, true), lora(&["q", "v"])),
        case("gated gelu, own head", t5(gated, false), lora(&every)),
        Case {
            dropout: 0.1,
            ..case("with dropout", t5(gated, false), lora(&["q", "v"]))
        },
        Case {
            recompute: true,
            ..case("recomputed", t5(relu, true), lora(&["q", "v"]))
        },
        case(
            "soft prompts",
            t5(relu, true),
            Trainable::Prompts(prompts()),
        ),
        case("all weights", t5(gated, false), Trainable::All),
        case(
            "Llama",
            decoder(Family::Llama, true),
            lora(&["q_proj", "v_proj"]),
        ),
        case("Qwen2", decoder(Family::Qwen2, false), lora(&of_decoder)),
        case("Qwen3", decoder(Family::Qwen3, true), lora(&of_decoder)),
        case("Gemma 3", decoder(Family::Gemma3, true), lora(&of_decoder)),
        case(
            "Qwen2, all weights",
            decoder(Family::Qwen2, true),
            Trainable::All,
        ),
    ]
}

fn t5(feed_forward: FeedForward, tied: bool) -> ModelConfig {
    ModelConfig::T5(T5Config {
        vocab_size: VOCAB,
        d_model: 48,
        d_kv: 16,
        d_ff: 80,
        num_heads: 3,
        num_layers: 2,
        num_decoder_layers: 2,
        relative_attention_num_buckets: 8,
        relative_attention_max_distance: 20,
        feed_forward,
        tie_word_embeddings: tied,
        ..T5Config::default()
    })
}

fn decoder(family: Family, tied: bool) -> ModelConfig {
    ModelConfig::Decoder(DecoderConfig {
        family,
        vocab_size: VOCAB,
        hidden_size: 48,
        intermediate_size: 80,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 16,
        max_position_embeddings: 64,
        rms_norm_eps: 1e-5,
        rope: Rope {
            theta: 1e4,
            scaling: None,
        },
        window: match family {
            // Shorter than most rows.
            Family::Gemma3 => Some(Window {
                length: 7,
                rope_theta: Some(100.0),
                layers: vec![true, false],
            }),
            _ => None,
        },
        query_pre_attn_scalar: None,
        tie_word_embeddings: tied,
        bos_token_id: None,
        eos_token_id: vec![1],
        initializer_range: 0.2,
    })
}

fn prompts() -> PromptConfig {
    PromptConfig {
        n_prompts: 2,
        length: 3,
        selection: PromptSelection::Fixed,
    }
}

/// Rows of random tokens, of lengths 1 to `longest`.
fn rows(n: usize, longest: usize, seed: u64) -> Vec<Encoded> {
    let mut rng = stream(seed, Purpose::Fixture, 0, 0);
    let mut row = |longest: usize| -> Vec<u32> {
        let len = 1 + below(&mut rng, longest);
        (0..len).map(|_| below(&mut rng, VOCAB) as u32).collect()
    };
    let encoded = (0..n).map(|_| Encoded {
        input_ids: row(longest),
        target_ids: row(longest.div_ceil(3)),
        cut: false,
    });
    encoded.collect()
}

/// The case's model on a device, with parameters that are neither zero nor a fresh adapter.
fn model(case: &Case, device: DeviceKind, precision: Precision) -> Result<Box<dyn LanguageModel>> {
    let options = ModelOptions {
        device,
        engine: EngineKind::Fused,
        precision,
        trainable: case.trainable.clone(),
        seed: 7,
        recompute: case.recompute,
        dropout_of: DropoutOf::Row,
    };
    let mut model = from_parts(&case.config, random_weights(&case.config, 7), &options)?;
    let mut rng = stream(7, Purpose::Init, 1, 0);
    let mut params = model.params().to_vec();
    params
        .iter_mut()
        .for_each(|p| *p += 0.1 * (uniform(&mut rng) - 0.5));
    model.set_params(&params)?;
    if matches!(case.trainable, Trainable::Prompts(_)) {
        required(model.prompted_mut())?.activate_prompts(&[1, 0])?;
    }
    Ok(model)
}

/// `|a - b| / |b|`; 0 for two zeros.
fn relative_l2(a: &[f32], b: &[f32]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut a.iter().zip(b).map(|(a, b)| f64::from(a - b)));
    let size = norm(&mut b.iter().map(|&b| f64::from(b)));
    if difference == 0.0 {
        0.0
    } else {
        difference / size
    }
}

/// What one pass over a batch gives.
struct Pass {
    logits: Vec<f32>,
    nll: f64,
    grad: Vec<f32>,
}

fn pass(model: &mut dyn LanguageModel, batch: &Batch, dropout: f32) -> Result<Pass> {
    let dropout = (dropout > 0.0).then(|| Dropout {
        p: dropout,
        key: key(7, Purpose::Dropout, 0, 0),
    });
    let mut grad = vec![0.0; model.params().len()];
    let weight = 1.0 / batch.targets.n_tokens() as f32;
    let loss = model.loss_and_grad(batch, weight, dropout, &mut grad)?;
    Ok(Pass {
        logits: required(model.distributions())?
            .target_logits(batch)?
            .concat(),
        nll: loss.nll,
        grad,
    })
}

/// The adapter after ten KIF rounds from the same start.
fn rounds(model: Box<dyn LanguageModel>) -> Result<Vec<f32>> {
    let config = LearnerConfig {
        dropout: 0.0,
        ..LearnerConfig::default()
    };
    let schedule = Schedule::Constant { rate: 1e-3 };
    let mut learner = Learner::new(model, config, schedule);
    learner.begin_task(1, "selftest", schedule);
    let memory = rows(16, 12, 2);
    let task = TaskView {
        index: 1,
        name: "selftest".into(),
        rows: Arc::new(rows(16, 12, 1)),
        memory_sizes: vec![memory.len()],
        memory: Arc::new(memory),
        all_rows: Arc::default(),
        batch_size: 4,
        seed: 7,
        memory_order: MemoryOrder::default(),
    };
    let kif = KifConfig::released();
    let mut method = MethodConfig::Kif(kif).build(learner.layout());
    method.begin_task(&mut learner, &task)?;
    for step in 0..8 * N_ROUNDS {
        let at = 4 * (step % 4);
        method.observe(&mut learner, &Batch::from_rows(&task.rows[at..at + 4]))?;
    }
    Ok(learner.params().to_vec())
}

/// Compares `device` with the CPU in f32.
pub fn compare(device: DeviceKind, precisions: &[Precision]) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    for &precision in precisions {
        // Of gradients and logits; a KIF round divides by the size of small gradients and cuts at a
        // quantile.
        let (close, after_rounds) = match precision {
            Precision::F32 => (1e-4, 1e-2),
            Precision::F16 | Precision::Bf16 | Precision::Int8 => (2e-2, 0.2),
        };
        for case in cases() {
            match check_case(&case, device, precision, close) {
                Ok(checked) => checks.extend(checked),
                Err(error) => checks.push(failed(case.name, precision, &error)),
            }
        }
        let rounds = check_rounds(device, precision, after_rounds);
        checks.push(rounds.unwrap_or_else(|error| failed("KIF rounds", precision, &error)));
        let full = check_full_memory(device, precision);
        checks.push(full.unwrap_or_else(|error| failed("a full memory", precision, &error)));
    }
    Ok(checks)
}

/// What could not be compared: the others still are.
fn failed(case: &'static str, precision: Precision, error: &anyhow::Error) -> Check {
    Check {
        case,
        precision,
        what: format!("{error:#}"),
        difference: f64::NAN,
        tolerance: 0.0,
    }
}

fn check_case(
    case: &Case,
    device: DeviceKind,
    precision: Precision,
    tolerance: f64,
) -> Result<Vec<Check>> {
    let batch = Batch::from_rows(&rows(5, 14, 3));
    let mut there = model(case, device, precision)?;
    let first = pass(there.as_mut(), &batch, case.dropout)?;
    let again = pass(there.as_mut(), &batch, case.dropout)?;
    let here = pass(
        model(case, DeviceKind::Cpu, Precision::F32)?.as_mut(),
        &batch,
        case.dropout,
    )?;
    let check = |what: &str, difference, tolerance| Check {
        case: case.name,
        precision,
        what: what.to_owned(),
        difference,
        tolerance,
    };
    let differences = there.layout().specs().iter().map(|spec| {
        let range = spec.range.clone();
        (
            relative_l2(&first.grad[range.clone()], &here.grad[range]),
            &spec.name,
        )
    });
    let worst = differences.max_by(|a, b| a.0.total_cmp(&b.0));
    let (worst, name) = worst.context("a model without parameters")?;
    // Rounding to f16 carries about one in a thousand inputs of a relu across 0, and each changes
    // the gradient by a step, not by a rounding error: the root of a thousandth is 3 %.
    let relu =
        matches!(&case.config, ModelConfig::T5(config) if config.feed_forward == FeedForward::Relu);
    let kinks = if relu && precision != Precision::F32 {
        5.0
    } else {
        1.0
    };
    let prompts: Vec<&[u32]> = batch.inputs.rows().collect();
    let written = there.generate(&prompts, 4)?;
    let logits_of_written = agreement(there.as_ref(), &prompts, &written)?;
    Ok(vec![
        check(
            "logits",
            relative_l2(&first.logits, &here.logits),
            tolerance,
        ),
        check("loss", ((first.nll - here.nll) / here.nll).abs(), tolerance),
        check(
            &format!("gradient, worst of all: {}", short(name)),
            worst,
            tolerance * kinks,
        ),
        check(
            "gradient, a second time",
            relative_l2(&again.grad, &first.grad),
            1e-6,
        ),
        check("tokens that are not the likeliest", logits_of_written, 0.0),
    ])
}

/// The name of a tensor without what all names have.
fn short(name: &str) -> String {
    let name = name.trim_start_matches("base_model.model.");
    name.replace("SelfAttention.", "")
        .replace("self_attn.", "")
        .replace("DenseReluDense.", "")
        .replace(".weight", "")
}

/// Share of the written tokens that teacher forcing on the same device does not find the likeliest,
/// but for rounding.
fn agreement(model: &dyn LanguageModel, prompts: &[&[u32]], written: &[Vec<u32>]) -> Result<f64> {
    let (mut n, mut wrong) = (0, 0);
    for (prompt, written) in prompts
        .iter()
        .zip(written)
        .filter(|(_, written)| !written.is_empty())
    {
        let row = Encoded {
            input_ids: prompt.to_vec(),
            target_ids: written.clone(),
            cut: false,
        };
        let logits = &required(model.distributions())?.target_logits(&Batch::from_rows([&row]))?[0];
        for (row, &id) in logits.chunks_exact(VOCAB).zip(written) {
            let best = row.iter().copied().fold(f32::MIN, f32::max);
            n += 1;
            wrong += usize::from(row[id as usize] < best - 1e-2 * best.abs().max(1.0));
        }
    }
    Ok(if n == 0 { 0.0 } else { wrong as f64 / n as f64 })
}

fn check_rounds(device: DeviceKind, precision: Precision, tolerance: f64) -> Result<Check> {
    let case = cases().remove(0);
    let here = model(&case, DeviceKind::Cpu, Precision::F32)?;
    let start = here.params().to_vec();
    let moved = |end: Vec<f32>| -> Vec<f32> {
        end.iter()
            .zip(&start)
            .map(|(end, start)| end - start)
            .collect()
    };
    let here = moved(rounds(here)?);
    let there = moved(rounds(model(&case, device, precision)?)?);
    Ok(Check {
        case: case.name,
        precision,
        what: "movement in ten KIF rounds".to_owned(),
        difference: relative_l2(&there, &here),
        tolerance,
    })
}

/// A row whose attention scores no GPU can hold: an error, after which the model still works.
fn check_full_memory(device: DeviceKind, precision: Precision) -> Result<Check> {
    const N_TOKENS: usize = 400_000;
    let case = cases().remove(0);
    let mut model = model(&case, device, precision)?;
    let small = Batch::from_rows(&rows(2, 5, 4));
    let before = pass(model.as_mut(), &small, 0.0)?;
    if device == DeviceKind::Cuda {
        let huge = Encoded {
            input_ids: vec![1; N_TOKENS],
            target_ids: vec![1],
            cut: false,
        };
        match model.nll_per_row(&Batch::from_rows([&huge])) {
            Err(ModelError::OutOfDeviceMemory) => {}
            Err(error) => bail!("a row of {N_TOKENS} tokens: {error}, expected: no memory left"),
            Ok(_) => bail!("a row of {N_TOKENS} tokens found room for its attention scores"),
        }
    }
    let after = pass(model.as_mut(), &small, 0.0)?;
    Ok(Check {
        case: case.name,
        precision,
        what: "loss behind a full memory".to_owned(),
        difference: ((after.nll - before.nll) / before.nll).abs(),
        tolerance: 1e-6,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_agrees_with_itself() {
        let checks = compare(DeviceKind::Cpu, &[Precision::F32]).unwrap();
        let failed: Vec<&Check> = checks.iter().filter(|check| !check.passed()).collect();
        assert!(failed.is_empty(), "{failed:?}");
        assert!(checks.len() > 30, "{} comparisons", checks.len());
    }

    #[test]
    fn a_difference_that_is_no_number_does_not_pass() {
        let check = Check {
            case: "",
            precision: Precision::F32,
            what: String::new(),
            difference: f64::NAN,
            tolerance: 1.0,
        };
        assert!(!check.passed());
        assert!(relative_l2(&[1.0], &[0.0]).is_infinite());
    }
}
