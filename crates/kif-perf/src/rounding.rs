//! What a number format of the frozen weights does to predictions, beside f32.

use crate::work::Work;
use anyhow::{Result, ensure};
use kif_kernels::argmax;
use kif_model::required;
use kif_protocol::Precision;
use serde_json::json;

/// Arguments of `kif-perf rounding`; `--precision` names the format.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    work: Work,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let predictions = |precision: Precision| -> Result<(Vec<f32>, f64, usize)> {
        let model = arguments.work.in_precision(precision).model()?;
        let encoded = arguments.work.encoded(model.vocab_size())?;
        let batch = arguments.work.batch(&encoded, 0);
        let nll: f64 = model.nll_per_row(&batch)?.iter().sum();
        let logits = required(model.distributions())?
            .target_logits(&batch)?
            .concat();
        Ok((
            logits,
            nll / batch.targets.n_tokens() as f64,
            model.vocab_size(),
        ))
    };
    let (wanted, loss_f32, vocab_size) = predictions(Precision::F32)?;
    let (logits, loss, _) = predictions(arguments.work.precision())?;
    ensure!(!logits.is_empty(), "no target tokens");
    let length = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let pairs = || logits.iter().zip(&wanted);
    let error = length(&mut pairs().map(|(a, b)| f64::from(a - b)));
    let rows = logits.chunks(vocab_size).zip(wanted.chunks(vocab_size));
    let n_same = rows.filter(|(a, b)| argmax(a) == argmax(b)).count();
    let line = json!({
        "logits_relative_l2": error / length(&mut wanted.iter().map(|&x| f64::from(x))),
        "loss": loss,
        "loss_f32": loss_f32,
        "same_likeliest_token": n_same as f64 / (logits.len() / vocab_size) as f64,
        "target_tokens": logits.len() / vocab_size,
    });
    println!("{line}");
    Ok(())
}
