//! The training loop, over any language model.

use anyhow::Result;
use kif_data::Encoded;
use kif_io::progress::Progress;
use kif_io::signal::StopFlag;
use kif_methods::{NonFinite, Quantity, Schedule};
use kif_model::LanguageModel;
use serde::{Deserialize, Serialize};

use super::checkpoint::Checkpoint;
use super::config::PretrainConfig;
use super::examples::{Examples, HeldOut};
use super::relative::RelativeAdamW;

/// Rows of a validation batch.
const VALIDATION_BATCH: usize = 64;

/// Losses on rows that training never sees, in nats per target token; none where there are no such
/// rows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    /// Steps taken.
    pub step: u64,
    /// Over pairs.
    pub pairs: Option<f64>,
    /// Over passages: what was taken out of them, or all tokens but the first.
    pub spans: Option<f64>,
}

/// Trains `model` from its present weights, or from the checkpoint, to the end, and returns every
/// validation loss of this process.
///
/// A raised flag saves a checkpoint and ends with [`Stopped`](kif_io::signal::Stopped). A loss or
/// gradient that is not finite ends the run before the update.
pub fn train(
    model: &mut dyn LanguageModel,
    examples: &Examples,
    config: &PretrainConfig,
    checkpoint: &Checkpoint,
    stop: &StopFlag,
    progress: &mut Progress,
) -> Result<Vec<Validation>> {
    let optimizer_config = &config.optimizer;
    let schedule = Schedule::Linear {
        peak: optimizer_config.lr,
        warmup_steps: optimizer_config.warmup_steps,
        total_steps: config.steps,
    };
    let mut optimizer = RelativeAdamW::new(model.layout(), optimizer_config.betas);
    let mut params = model.params().to_vec();
    let mut grad = vec![0.0; params.len()];
    let mut first = 0;
    if let Some((step, saved)) = checkpoint.load(params.len(), config.steps, &mut optimizer)? {
        (first, params) = (step, saved);
        model.set_params(&params)?;
        progress.skip(first);
        progress.line(&format!("going on from step {first}"));
    }
    let mut validations = Vec::new();
    let mut recent = Recent::default();
    for step in first..config.steps {
        if stop.is_raised() {
            checkpoint.save(step, &params, &optimizer)?;
            stop.check()?;
        }
        let batch = examples.batch(step);
        let n_targets = batch.targets.n_tokens();
        grad.fill(0.0);
        let loss = model
            .loss_and_grad(&batch, 1.0 / n_targets as f32, None, &mut grad)?
            .nll
            / n_targets as f64;
        let norm = norm(&grad);
        for (quantity, value) in [(Quantity::Loss, loss), (Quantity::Gradient, norm)] {
            if !value.is_finite() {
                checkpoint.save(step, &params, &optimizer)?;
                return Err(non_finite(model, &grad, step, quantity, value).into());
            }
        }
        // As `torch.nn.utils.clip_grad_norm_`.
        let scale = (optimizer_config.clip / (norm as f32 + 1e-6)).min(1.0);
        grad.iter_mut().for_each(|g| *g *= scale);
        optimizer.step(&mut params, &grad, schedule.rate(step));
        model.set_params(&params)?;

        let done = step + 1;
        recent.add(loss);
        progress.label(format!(
            "step {done} of {}, loss {:.3}",
            config.steps,
            recent.mean()
        ));
        progress.advance(1);
        if done % config.validate_every == 0 || done == config.steps {
            let validation = validate(model, examples.held_out(), done)?;
            progress.line(&line(&validation, recent.take()));
            validations.push(validation);
        }
        if done % config.checkpoint_every == 0 || done == config.steps {
            checkpoint.save(done, &params, &optimizer)?;
        }
    }
    Ok(validations)
}

/// Losses on the held-out rows.
pub fn validate(model: &dyn LanguageModel, held_out: &HeldOut, step: u64) -> Result<Validation> {
    let mean = |rows: &[Encoded]| -> Result<Option<f64>> {
        let n_targets: usize = rows.iter().map(|row| row.target_ids.len()).sum();
        let mut nll = 0.0;
        for rows in rows.chunks(VALIDATION_BATCH) {
            nll += model
                .nll_per_row(&kif_data::Batch::from_rows(rows))?
                .iter()
                .sum::<f64>();
        }
        Ok((n_targets > 0).then(|| nll / n_targets as f64))
    };
    Ok(Validation {
        step,
        pairs: mean(&held_out.pairs)?,
        spans: mean(&held_out.spans)?,
    })
}

/// Share of held-out pairs that the model answers exactly; none without pairs.
pub fn exact_share(model: &dyn LanguageModel, pairs: &[Encoded]) -> Result<Option<f64>> {
    let mut n_exact = 0;
    for rows in pairs.chunks(VALIDATION_BATCH) {
        let prompts: Vec<&[u32]> = rows.iter().map(|row| row.input_ids.as_slice()).collect();
        let longest = rows
            .iter()
            .map(|row| row.target_ids.len())
            .max()
            .unwrap_or(1);
        let answers = model.generate(&prompts, longest)?;
        let exact = |(row, answer): &(&Encoded, Vec<u32>)| {
            row.target_ids[..row.target_ids.len() - 1] == answer[..]
        };
        n_exact += rows.iter().zip(answers).filter(exact).count();
    }
    Ok((!pairs.is_empty()).then(|| n_exact as f64 / pairs.len() as f64))
}

fn norm(values: &[f32]) -> f64 {
    values
        .iter()
        .map(|&x| f64::from(x) * f64::from(x))
        .sum::<f64>()
        .sqrt()
}

fn non_finite(
    model: &dyn LanguageModel,
    grad: &[f32],
    step: u64,
    quantity: Quantity,
    value: f64,
) -> NonFinite {
    let bad = |values: &[f32]| values.iter().position(|x| !x.is_finite());
    let parameter = bad(model.params())
        .or_else(|| bad(grad))
        .and_then(|at| model.layout().name_at(at))
        .map(str::to_owned);
    NonFinite {
        task: "pretraining".into(),
        step,
        quantity,
        value,
        parameter,
    }
}

fn line(validation: &Validation, training: f64) -> String {
    let shown = |loss: Option<f64>| loss.map_or("-".into(), |loss| format!("{loss:.4}"));
    let (pairs, spans) = (shown(validation.pairs), shown(validation.spans));
    format!(
        "step {}: loss {training:.4}, validation pairs {pairs}, passages {spans} (nats per token)",
        validation.step
    )
}

/// Mean loss since the last validation.
#[derive(Default)]
struct Recent {
    sum: f64,
    n: u64,
}

impl Recent {
    fn add(&mut self, loss: f64) {
        self.sum += loss;
        self.n += 1;
    }

    fn mean(&self) -> f64 {
        self.sum / self.n.max(1) as f64
    }

    fn take(&mut self) -> f64 {
        let mean = self.mean();
        *self = Self::default();
        mean
    }
}
