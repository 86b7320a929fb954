//! `kif import`: a GGUF file as a Hugging Face directory, so that adapters have a base that other
//! tools load.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::Result;
use kif_io::atomic;
use kif_io::failure::{BadInput, OrBadInput};
use kif_io::signal::StopFlag;
use kif_model::{Dtype, Imported, ModelConfig, import_gguf, is_gguf};
use kif_runner::hub;

use super::common::print;

/// Arguments of `kif import`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A GGUF file, or the name of one in the hub's cache (ORG/NAME, ORG/NAME@REVISION)
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Where the model goes: a new Hugging Face directory
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Number format of the weights; f32 is what the file says to the bit
    #[arg(long, value_enum, default_value = "bf16")]
    dtype: Format,
}

/// Number formats of weights on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// 16 bits, rounded to nearest even.
    Bf16,
    /// 32 bits, exact.
    F32,
}

/// Writes into a temporary folder, which takes the name that was asked for when it is complete.
pub(crate) fn run(arguments: Arguments, stop: &StopFlag) -> Result<()> {
    let Arguments { file, out, dtype } = arguments;
    let refuse = |problem: String| Err(BadInput(problem).into());
    let file = hub::resolve(&file)?;
    if !is_gguf(&file) {
        return refuse(format!("{}: expected a GGUF file", file.display()));
    }
    if !is_vacant(&out) {
        return refuse(format!(
            "--out {} exists; an imported model needs a new folder, or an empty one",
            out.display()
        ));
    }
    let dtype = match dtype {
        Format::Bf16 => Dtype::Bf16,
        Format::F32 => Dtype::F32,
    };
    let mut imported = None;
    atomic::write_folder(&out, |at| {
        let done = import_gguf(&file, at, dtype);
        imported = Some(done.or_bad_input(|| format!("importing {}", file.display()))?);
        Ok(stop.check()?)
    })?;
    imported.map_or(Ok(()), |imported| print(&outcome(&imported, dtype, &out)))
}

/// Whether a folder may be made here, or an empty one is here.
fn is_vacant(out: &Path) -> bool {
    match std::fs::read_dir(out) {
        Ok(mut entries) => entries.next().is_none(),
        Err(_) => !out.exists(),
    }
}

fn outcome(imported: &Imported, dtype: Dtype, out: &Path) -> String {
    let architecture = match &imported.config {
        ModelConfig::T5(_) => "t5",
        ModelConfig::Decoder(config) => config.family.model_type(),
    };
    let stored: Vec<String> = (imported.stored.iter())
        .map(|(name, n)| format!("{n} {name}"))
        .collect();
    let mut text = format!(
        "imported   {}\nmodel      {architecture}, {} parameters in {}, from tensors {}\n",
        out.display(),
        imported.n_values,
        dtype.torch_name(),
        stored.join(", "),
    );
    let texts = imported.texts.join(", ");
    let tokens = match imported.n_tokens {
        0 => "none in the file".to_owned(),
        n => n.to_string(),
    };
    // Writing to a string cannot fail.
    let _ = writeln!(text, "tokens     {tokens}\ntexts      config.json, {texts}");
    let keys: Vec<&str> = imported.dropped_keys.iter().map(String::as_str).collect();
    for (what, names) in [
        ("tensors", imported.dropped_tensors.as_slice()),
        ("metadata", &keys),
    ] {
        if !names.is_empty() {
            let (n, names) = (names.len(), names.join(", "));
            let _ = writeln!(text, "dropped    {n} {what} without a counterpart: {names}");
        }
    }
    text
}
