//! `kif learn`: one task, on top of an adapter if one is given.

use std::path::{Path, PathBuf};

use anyhow::Result;
use kif_data::{Limits, Row, read_rows};
use kif_io::failure::{BadInput, OrBadInput};
use kif_io::signal::StopFlag;
use kif_io::writer::Writer;
use kif_methods::methods::MethodConfig;
use kif_methods::{Accumulate, LearnerConfig, TaskDuration};
use kif_model::{LoraConfig, ModelConfig};
use kif_protocol::{Compute, TemplateSetting, known_methods};
use kif_runner::codec::{Codec, check_vocabulary};
use kif_runner::hub;
use kif_runner::learn::{LearnInputs, LearnRecord, LearnSettings, Sources, learn};

use super::common::{
    ComputeArguments, Loaded, TemplateArgument, at_least_one, check_out_folder, load, methods_help,
    print,
};

/// Arguments of `kif learn`.
#[derive(Debug, clap::Args)]
#[command(after_help = methods_help(|method| !method.needs_stream()))]
pub(crate) struct Arguments {
    /// Base model: a Hugging Face directory, a GGUF file, or a name in the hub's cache
    /// (ORG/NAME, ORG/NAME@REVISION)
    #[arg(long, value_name = "MODEL")]
    model: PathBuf,
    /// Rows of the task: JSON Lines or a JSON array
    #[arg(long, value_name = "FILE")]
    task: PathBuf,
    /// Where the adapter goes, in PEFT layout, with learn.json beside it
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Rows of earlier tasks; may be given several times
    #[arg(long, value_name = "FILE")]
    memory: Vec<PathBuf>,
    /// Adapter to build on; rank, alpha, targets and dropout are its own
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Method [default: kif with --memory, else seq_lora]
    #[arg(long, value_name = "NAME")]
    method: Option<String>,
    /// Settings of kif
    #[arg(long, value_enum)]
    preset: Option<Preset>,
    /// Passes over the rows [default: 10]
    #[arg(long, value_name = "N", conflicts_with = "steps", value_parser = clap::value_parser!(u64).range(1..))]
    epochs: Option<u64>,
    /// Optimizer steps on the task, instead of passes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    steps: Option<u64>,
    /// Peak learning rate
    #[arg(long, value_name = "X", default_value_t = 3e-4)]
    lr: f64,
    /// Steps of linear warm-up
    #[arg(long, value_name = "N", default_value_t = 50)]
    warmup: u64,
    /// Rows of a step, from the task as from the memory
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = at_least_one)]
    batch_size: usize,
    /// Longest prompt in tokens, end token included
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = at_least_one)]
    max_input: usize,
    /// Longest target in tokens, end token included
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = at_least_one)]
    max_target: usize,
    /// Share of the adapter's inputs that is dropped in training [default: the adapter's, or 0.05]
    #[arg(long, value_name = "X")]
    dropout: Option<f32>,
    /// Rank of a new adapter [default: 8]
    #[arg(long, value_name = "N")]
    rank: Option<usize>,
    /// Alpha of a new adapter [default: 32]
    #[arg(long, value_name = "X")]
    alpha: Option<f32>,
    /// Modules of a new adapter, by PEFT name; q, k, v and o are known to every model [default:
    /// q,v]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    targets: Option<Vec<String>>,
    /// Take rows in the order of the files, going on across steps and wrapping inside a batch
    #[arg(long)]
    no_shuffle: bool,
    /// Seed of adapter, shuffling and dropout
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    template: TemplateArgument,
    #[command(flatten)]
    compute: ComputeArguments,
}

/// Presets of kif.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Preset {
    /// As the paper states it.
    Paper,
    /// As the authors' code does it; it has one program for T5 and one for LLaMA.
    Released,
}

/// Learns the task and prints what became of the loss.
pub(crate) fn run(arguments: Arguments, stop: &StopFlag) -> Result<()> {
    check_out_folder(&arguments.out)?;
    let base = hub::resolve(&arguments.model)?;
    let method = arguments.method(&base)?;
    let compute = arguments.compute.apply(Compute::default())?;
    let codec = Codec::of_model(&base, &arguments.template.setting())?;
    let limits = Limits {
        max_input: arguments.max_input,
        max_target: arguments.max_target,
    };
    let task_rows = read_rows(&arguments.task)?;
    let rows = codec.encode_rows(&task_rows, limits)?;
    let memory_rows: Vec<Vec<Row>> = arguments
        .memory
        .iter()
        .map(|path| read_rows(path))
        .collect::<Result<_, _>>()?;
    let memory = memory_rows
        .iter()
        .map(|rows| codec.encode_rows(rows, limits))
        .collect::<Result<Vec<_>>>()?;
    let (adapter, fresh) = (arguments.adapter.as_deref(), arguments.fresh_adapter());
    fresh.validate()?;
    let Loaded { model, lora } = load(&base, adapter, fresh, &compute, arguments.seed)?;
    let Some(lora) = lora else {
        return bad(
            "--adapter holds soft prompts or adapters with a router, and kif learn goes on from one LoRA adapter".into(),
        );
    };
    check_vocabulary(&task_rows, &rows, model.vocab_size())?;
    for (rows, encoded) in memory_rows.iter().zip(&memory) {
        check_vocabulary(rows, encoded, model.vocab_size())?;
    }
    let lora = LoraConfig {
        dropout: arguments.dropout.unwrap_or(lora.dropout),
        ..lora
    };
    arguments.check_adapter(&lora)?;
    let settings = arguments.settings(method, lora, &compute)?;
    let mut base_files = kif_model::model_files(&base)
        .or_bad_input(|| format!("reading model {}", base.display()))?;
    if let TemplateSetting::File(path) = &settings.template {
        base_files.push(path.clone());
    }
    let base_name = hub::base_name(&arguments.model);
    let sources = Sources {
        model: arguments.model,
        adapter: arguments.adapter,
        task: arguments.task,
        memory: arguments.memory,
    };
    let mut writer = Writer::of_folder(&arguments.out)?;
    let _guard = writer.hold()?;
    let record = learn(
        model,
        &settings,
        LearnInputs {
            rows,
            memory,
            base_name,
            base_files,
            sources,
        },
        &arguments.out,
        stop,
    )?;
    print(&outcome(&record, &arguments.out))
}

impl Arguments {
    /// The method with its settings; nothing is accumulated here, so no loss is divided.
    fn method(&self, base: &Path) -> Result<MethodConfig> {
        let default = if self.memory.is_empty() {
            "seq_lora"
        } else {
            "kif"
        };
        let name = self.method.as_deref().unwrap_or(default);
        let name = match (name, self.preset) {
            ("kif", Some(Preset::Released)) if is_decoder(base) => "kif-released-llama",
            ("kif", Some(Preset::Released)) => "kif-released",
            ("kif", _) => "kif-paper",
            (name, None) => name,
            (name, Some(_)) => {
                return bad(format!("--preset belongs to the method kif, not to {name}"));
            }
        };
        let Some(method) = MethodConfig::by_name(name) else {
            return bad(format!("--method {name}: expected {}", known_methods()));
        };
        if method.needs_stream() {
            return bad(format!(
                "--method {name} needs all tasks of a stream: run it with `kif bench`"
            ));
        }
        Ok(method.without_accumulation())
    }

    /// The adapter to start with where none is given.
    fn fresh_adapter(&self) -> LoraConfig {
        let default = LoraConfig::default();
        LoraConfig {
            rank: self.rank.unwrap_or(default.rank),
            alpha: self.alpha.unwrap_or(default.alpha),
            dropout: self.dropout.unwrap_or(default.dropout),
            targets: self.targets.clone().unwrap_or(default.targets),
        }
    }

    /// Refuses flags that contradict the adapter that was given.
    fn check_adapter(&self, lora: &LoraConfig) -> Result<()> {
        // `q` is another name of `q_proj` where that is what the model has.
        let sorted = |targets: &[String]| {
            let full = |name: &String| match lora.targets.contains(name) {
                true => name.clone(),
                false => format!("{name}_proj"),
            };
            let mut sorted: Vec<String> = targets.iter().map(full).collect();
            sorted.sort();
            sorted
        };
        let differs = |flag: &str, given: String, own: String| {
            bad(format!(
                "{flag} {given} contradicts the adapter, which has {own}; leave it out with --adapter"
            ))
        };
        match self {
            Self {
                rank: Some(rank), ..
            } if *rank != lora.rank => differs("--rank", rank.to_string(), lora.rank.to_string()),
            Self {
                alpha: Some(alpha), ..
            } if *alpha != lora.alpha => {
                differs("--alpha", alpha.to_string(), lora.alpha.to_string())
            }
            Self {
                targets: Some(targets),
                ..
            } if sorted(targets) != sorted(&lora.targets) => {
                differs("--targets", targets.join(","), lora.targets.join(","))
            }
            _ => Ok(()),
        }
    }

    fn settings(
        &self,
        method: MethodConfig,
        adapter: LoraConfig,
        compute: &Compute,
    ) -> Result<LearnSettings> {
        let learner = LearnerConfig {
            accumulate: Accumulate::Tokens,
            dropout: adapter.dropout,
            seed: self.seed,
            ..LearnerConfig::default()
        };
        adapter.validate()?;
        let name = self
            .task
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let settings = LearnSettings {
            task: name,
            method,
            learner,
            lr: self.lr,
            warmup_steps: self.warmup,
            adapter,
            batch_size: self.batch_size,
            duration: match self.steps {
                Some(steps) => TaskDuration::Steps(steps),
                None => TaskDuration::Epochs(self.epochs.unwrap_or(10)),
            },
            no_shuffle: self.no_shuffle,
            max_input: self.max_input,
            max_target: self.max_target,
            template: self.template.setting(),
            device: compute.device,
            precision: compute.precision,
        };
        settings.check()?;
        Ok(settings)
    }
}

/// Whether the base is decoder-only; what is wrong with it is said where it is loaded.
fn is_decoder(base: &Path) -> bool {
    ModelConfig::read(base).is_ok_and(|config| config.is_decoder_only())
}

fn outcome(record: &LearnRecord, out: &Path) -> String {
    let n = record.losses.len();
    let tenth = (n / 10).max(1);
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len().max(1) as f64;
    let (first, last) = (
        mean(&record.losses[..tenth.min(n)]),
        mean(&record.losses[n - tenth.min(n)..]),
    );
    let ((rows, cut), (memory, memory_cut)) = (record.rows, record.memory_rows);
    let memories: String = record
        .forgetting
        .iter()
        .map(|change| {
            format!(
                "memory   {:.4} before, {:.4} after on {}\n",
                change.before,
                change.after,
                change.memory.display()
            )
        })
        .collect();
    format!(
        "method   {}\nrows     {rows} of the task, {memory} of the memory; {} cut at --max-input\nsteps    {n} in {:.1} s\n\
         loss     {first:.4} at first, {last:.4} at last (nats per token, means of a tenth of the steps)\n{memories}adapter  {}\n",
        record.settings.method.name(),
        cut + memory_cut,
        record.seconds,
        out.display(),
    )
}

fn bad<T>(problem: String) -> Result<T> {
    Err(BadInput(problem).into())
}
