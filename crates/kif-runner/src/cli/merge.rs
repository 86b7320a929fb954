//! `kif merge`: an adapter folded into its base, checked by the logits of both.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use kif_data::chance::{Purpose, below, stream};
use kif_data::{Batch, Encoded};
use kif_io::atomic;
use kif_io::failure::{BadInput, OrBadInput};
use kif_io::signal::StopFlag;
use kif_model::{Adapter, Dtype, LoraConfig, ModelConfig, Weights, model_text, required};
use kif_protocol::Compute;
use kif_runner::hub;

use super::common::{load, print};

/// Largest difference between logits of the merged model and of base with adapter, relative to the
/// largest logit.
const TOLERANCE: f64 = 1e-4;

/// Files that are copied beside the merged weights where the base has them.
const COMPANIONS: [&str; 6] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "spiece.model",
    "generation_config.json",
    "chat_template.jinja",
];

/// Arguments of `kif merge`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Base model: a Hugging Face directory, a GGUF file, or a name in the hub's cache
    /// (ORG/NAME, ORG/NAME@REVISION)
    #[arg(long, value_name = "MODEL")]
    model: PathBuf,
    /// Adapter in PEFT layout
    #[arg(long, value_name = "DIR")]
    adapter: PathBuf,
    /// Where the merged model goes: a new Hugging Face directory, in f32
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Merges into a temporary folder, compares, and only then takes the name that was asked for.
pub(crate) fn run(arguments: Arguments, stop: &StopFlag) -> Result<()> {
    let Arguments {
        model,
        adapter,
        out,
    } = arguments;
    let model = hub::resolve(&model)?;
    if out.exists() {
        return Err(BadInput(format!(
            "--out {} exists; a merged model needs a new folder",
            out.display()
        ))
        .into());
    }
    let reading = || format!("reading model {}", model.display());
    let config = ModelConfig::read(&model).or_bad_input(reading)?;
    let mut weights = Weights::read(&model).or_bad_input(reading)?;
    let stored = Adapter::read(&adapter)
        .or_bad_input(|| format!("reading adapter {}", adapter.display()))?;
    kif_model::merge(&mut weights, &stored).or_bad_input(|| {
        format!(
            "fitting adapter {} to model {}",
            adapter.display(),
            model.display()
        )
    })?;
    let mut difference = 0.0;
    atomic::write_folder(&out, |at| {
        kif_model::write_model(at, &config, &weights, Dtype::F32)
            .with_context(|| format!("writing merged model {}", out.display()))?;
        for name in COMPANIONS {
            if let Some(text) = model_text(&model, name).or_bad_input(reading)? {
                std::fs::write(at.join(name), text).with_context(|| format!("copying {name}"))?;
            }
        }
        stop.check()?;
        difference = compare(&model, &adapter, at)?;
        if difference > TOLERANCE {
            bail!(
                "logits of the merged model differ by {difference:.1e} of the largest, expected at most {TOLERANCE:.0e}"
            );
        }
        Ok(())
    })?;
    print(&format!(
        "merged   {}\nchecked  logits differ by {difference:.1e} of the largest\n",
        out.display()
    ))
}

/// The largest difference of logits on random ids, relative to the largest logit.
fn compare(base: &Path, adapter: &Path, merged: &Path) -> Result<f64> {
    let compute = Compute::default();
    let one = load(base, Some(adapter), LoraConfig::default(), &compute, 1)?.model;
    let rows = random_rows(one.vocab_size());
    let expected = required(one.distributions())?.target_logits(&Batch::from_rows(&rows))?;
    drop(one);
    let two = load(merged, None, LoraConfig::default(), &compute, 1)?.model;
    let got = required(two.distributions())?.target_logits(&Batch::from_rows(&rows))?;
    let pairs = || expected.iter().flatten().zip(got.iter().flatten());
    let largest = pairs().map(|(x, _)| f64::from(x.abs())).fold(0.0, f64::max);
    let difference = pairs()
        .map(|(x, y)| f64::from((x - y).abs()))
        .fold(0.0, f64::max);
    Ok(difference / largest.max(f64::MIN_POSITIVE))
}

fn random_rows(vocab_size: usize) -> Vec<Encoded> {
    let mut rng = stream(1, Purpose::Fixture, 0, 0);
    let mut ids = |n: usize| {
        (0..n)
            .map(|_| below(&mut rng, vocab_size) as u32)
            .collect::<Vec<_>>()
    };
    [(17, 5), (4, 9), (40, 3)]
        .map(|(n_in, n_out)| Encoded {
            input_ids: ids(n_in),
            target_ids: ids(n_out),
            cut: false,
        })
        .to_vec()
}
