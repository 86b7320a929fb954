//! What several commands share: where to compute, which model, and how to print.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use kif_data::Limits;
use kif_io::failure::{BadInput, OrBadInput};
use kif_io::process;
use kif_methods::MethodConfig;
use kif_model::{
    Adapter, LanguageModel, LoraConfig, ModelConfig, PROMPTS_CONFIG_FILE, ROUTING_CONFIG_FILE,
    StoredPrompts, StoredRouted, Trainable, required,
};
use kif_protocol::{Compute, Device, Precision, ScoreKind, TemplateSetting};
use kif_runner::codec::Codec;
use kif_runner::hub;
use kif_runner::run::model_options;

/// What to compute on.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Computing")]
pub(crate) struct ComputeArguments {
    /// Where to compute [default: cpu]
    #[arg(long, value_enum)]
    device: Option<Device>,
    /// Number format of the frozen base: f32, bf16 or int8 on the CPU, f16 on CUDA [default: f32]
    #[arg(long, value_enum)]
    precision: Option<Precision>,
    /// Threads; results do not depend on it [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1024))]
    threads: Option<u64>,
    /// Keep few activations and compute the others a second time: less memory, slower training, the
    /// same results
    #[arg(long)]
    recompute: bool,
}

impl ComputeArguments {
    /// `settings` with what was given on the command line; starts as many threads as they say.
    pub(crate) fn apply(&self, settings: Compute) -> Result<Compute> {
        let compute = Compute {
            device: self.device.unwrap_or(settings.device),
            precision: self.precision.unwrap_or(settings.precision),
            threads: self.threads.map(|n| n as usize).or(settings.threads),
            recompute: self.recompute || settings.recompute,
        };
        process::start_threads(compute.threads)?;
        Ok(compute)
    }
}

/// What prompts look like to the model.
#[derive(Clone, Debug, Args)]
pub(crate) struct TemplateArgument {
    /// plain: prompts as the files have them; alpaca: under Alpaca's preamble; or a minijinja file
    /// that knows `instruction`, `input` and `prompt` [default: plain]
    #[arg(long, value_name = "NAME|FILE")]
    template: Option<String>,
}

impl TemplateArgument {
    /// What was given, if something was.
    pub(crate) fn given(&self) -> Option<TemplateSetting> {
        self.template.as_deref().map(TemplateSetting::named)
    }

    /// What was given, or the default.
    pub(crate) fn setting(&self) -> TemplateSetting {
        self.given().unwrap_or_default()
    }
}

/// Limits that cut no row.
pub(crate) const UNCUT: Limits = Limits {
    max_input: usize::MAX,
    max_target: usize::MAX,
};

/// A base, what lies on it, and rows for it.
#[derive(Clone, Debug, Args)]
pub(crate) struct ModelAndRows {
    /// Base model: a Hugging Face directory, a GGUF file, or a name in the hub's cache
    /// (ORG/NAME, ORG/NAME@REVISION)
    #[arg(long, value_name = "MODEL")]
    model: PathBuf,
    /// Adapter in PEFT layout, adapters with a router, or soft prompts
    #[arg(long, value_name = "DIR")]
    pub(crate) adapter: Option<PathBuf>,
    /// Rows: JSON Lines or a JSON array; nothing is cut
    #[arg(long, value_name = "FILE")]
    pub(crate) data: PathBuf,
}

impl ModelAndRows {
    /// From rows to ids as the base has them.
    pub(crate) fn codec(&self, template: &TemplateArgument) -> Result<Codec> {
        Codec::of_model(&hub::resolve(&self.model)?, &template.setting())
    }

    /// The base with what lies on it; without an adapter, a fresh one that changes nothing.
    pub(crate) fn load(&self, compute: &Compute) -> Result<Box<dyn LanguageModel>> {
        let (model, adapter) = (hub::resolve(&self.model)?, self.adapter.as_deref());
        Ok(load(&model, adapter, LoraConfig::default(), compute, 1)?.model)
    }
}

/// How predictions are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Answer {
    /// What the model writes.
    Exact,
    /// The likeliest label.
    Labels,
}

impl From<Answer> for ScoreKind {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Exact => Self::Exact,
            Answer::Labels => Self::Labels,
        }
    }
}

/// Names and lines of the methods that a command takes, for its help.
pub(crate) fn methods_help(takes: impl Fn(&MethodConfig) -> bool) -> String {
    let methods = MethodConfig::all().into_iter().filter(takes);
    let names = |method: &MethodConfig| match (method.name(), method.key()) {
        (name, key) if name != key && MethodConfig::by_name(key).as_ref() == Some(method) => {
            format!("{name}, {key}")
        }
        (name, _) => name.to_owned(),
    };
    let line = |method: MethodConfig| format!("\n  {:<20} {}", names(&method), method.summary());
    std::iter::once("Methods:".to_owned())
        .chain(methods.map(line))
        .collect()
}

/// A base with an adapter on it, with several and a router, or with soft prompts in front.
pub(crate) struct Loaded {
    /// The model; its trainable parameters are the adapter, adapters and router, or the prompts.
    pub(crate) model: Box<dyn LanguageModel>,
    /// The settings of a single adapter; none with a router or prompts.
    pub(crate) lora: Option<LoraConfig>,
}

/// Loads a base with what a directory holds, or with a fresh one of `fresh`, drawn from `seed`.
pub(crate) fn load(
    base: &Path,
    adapter: Option<&Path>,
    fresh: LoraConfig,
    compute: &Compute,
    seed: u64,
) -> Result<Loaded> {
    if let Some(dir) = adapter.filter(|dir| dir.join(PROMPTS_CONFIG_FILE).exists()) {
        let model = load_prompts(base, dir, compute)?;
        return Ok(Loaded { model, lora: None });
    }
    if let Some(dir) = adapter.filter(|dir| dir.join(ROUTING_CONFIG_FILE).exists()) {
        let model = load_routed(base, dir, compute)?;
        return Ok(Loaded { model, lora: None });
    }
    let stored = adapter
        .map(|dir| Adapter::read(dir).or_bad_input(|| format!("reading adapter {}", dir.display())))
        .transpose()?;
    let lora = stored
        .as_ref()
        .map_or(fresh, |adapter| adapter.config.clone());
    let config =
        ModelConfig::read(base).or_bad_input(|| format!("reading model {}", base.display()))?;
    // An adapter of another architecture is then refused by the names of its tensors.
    let lora = config.own_targets(lora);
    let options = model_options(compute, Trainable::Adapter(lora.clone()), seed);
    let mut model = kif_model::load(base, &options)
        .or_bad_input(|| format!("loading model {}", base.display()))?;
    if let (Some(stored), Some(dir)) = (stored, adapter) {
        let params = stored.into_params(model.layout());
        let params = params.or_bad_input(|| {
            format!(
                "fitting adapter {} to model {}",
                dir.display(),
                base.display()
            )
        })?;
        model
            .set_params(&params)
            .or_bad_input(|| format!("loading adapter {}", dir.display()))?;
    }
    Ok(Loaded {
        model,
        lora: Some(lora),
    })
}

/// Loads a base with the adapters and the router of a directory.
fn load_routed(base: &Path, dir: &Path, compute: &Compute) -> Result<Box<dyn LanguageModel>> {
    let stored = StoredRouted::read(dir)
        .or_bad_input(|| format!("reading adapters with a router {}", dir.display()))?;
    let trainable = Trainable::Routed(stored.lora.clone(), stored.routing);
    let mut model = kif_model::load(base, &model_options(compute, trainable, 1))
        .or_bad_input(|| format!("loading model {}", base.display()))?;
    let fitting = || {
        let (dir, base) = (dir.display(), base.display());
        format!("fitting adapters with a router {dir} to model {base}")
    };
    let params = stored.into_params(model.layout()).or_bad_input(fitting)?;
    model.set_params(&params).or_bad_input(fitting)?;
    Ok(model)
}

/// Loads a base with the soft prompts of a directory, those active that it says.
fn load_prompts(base: &Path, dir: &Path, compute: &Compute) -> Result<Box<dyn LanguageModel>> {
    let stored = StoredPrompts::read(dir)
        .or_bad_input(|| format!("reading soft prompts {}", dir.display()))?;
    let options = model_options(compute, Trainable::Prompts(stored.config), 1);
    let mut model = kif_model::load(base, &options)
        .or_bad_input(|| format!("loading model {}", base.display()))?;
    let fitting = || {
        let (dir, base) = (dir.display(), base.display());
        format!("fitting soft prompts {dir} to model {base}")
    };
    let active = stored.active.clone();
    let params = stored.into_params(model.layout()).or_bad_input(fitting)?;
    model.set_params(&params).or_bad_input(fitting)?;
    required(model.prompted_mut())
        .and_then(|model| model.activate_prompts(&active))
        .or_bad_input(fitting)?;
    Ok(model)
}

/// Prints results to stdout. A reader that has gone away (a pipe into `head`) is no failure.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other.context("writing to stdout"),
    }
}

/// Fails early where a folder to write into cannot be one.
pub(crate) fn check_out_folder(out: &Path) -> Result<()> {
    if out.exists() && !out.is_dir() {
        return Err(BadInput(format!(
            "--out {}: there is a file of that name",
            out.display()
        ))
        .into());
    }
    Ok(())
}

/// Parses a count that must not be 0.
pub(crate) fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if n >= 1 => Ok(n),
        Ok(_) => Err("expected at least 1".into()),
        Err(error) => Err(format!("{error}")),
    }
}
