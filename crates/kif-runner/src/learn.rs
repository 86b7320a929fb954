//! One task on top of an adapter: what `kif learn` does.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kif_data::{Batch, Cursor, Encoded, epoch_order};
use kif_io::atomic;
use kif_io::failure::{BadInput, OrBadInput};
use kif_io::hash::hash_of;
use kif_io::memory::peak_rss_mib;
use kif_io::progress::Progress;
use kif_io::signal::{StopFlag, Stopped};
use kif_methods::methods::{self, Method, MethodConfig};
use kif_methods::{Learner, LearnerConfig, MemoryOrder, Schedule, TaskView};
use kif_model::{Adapter, LanguageModel, LoraConfig};
use kif_protocol::{Device, Precision, TemplateSetting};
use serde::{Deserialize, Serialize};

use crate::checkpoint::{self, Checkpoint};
use crate::evaluate::nll_per_row;

/// How often a long training is saved.
const SAVE_EVERY: Duration = Duration::from_secs(600);
/// Tokens that go through the model at once where only the loss is wanted.
const BATCH_TOKENS: usize = 8192;

/// Every setting of a learned task, as `learn.json` has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LearnSettings {
    /// Name of the task, for messages and records.
    pub task: String,
    /// The method and its settings.
    pub method: MethodConfig,
    /// How it learns; the seed is that of dropout, shuffling and memory draws.
    pub learner: LearnerConfig,
    /// The adapter.
    pub adapter: LoraConfig,
    /// Rows of a batch, from the task as from the memory.
    pub batch_size: usize,
    /// How long.
    pub duration: DurationSetting,
    /// Whether batches follow the files instead of a shuffle.
    pub no_shuffle: bool,
    /// Longest prompt in tokens, end token included.
    pub max_input: usize,
    /// Longest target in tokens, end token included.
    pub max_target: usize,
    /// What prompts look like to the model.
    #[serde(default)]
    pub template: TemplateSetting,
    /// What it is computed on.
    pub device: Device,
    /// Number format of the frozen base.
    pub precision: Precision,
}

/// How long a training is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DurationSetting {
    /// Passes over the rows.
    Epochs(u64),
    /// Optimizer steps on the task.
    Steps(u64),
}

/// What there is to learn from.
pub struct LearnInputs {
    /// Rows of the task.
    pub rows: Vec<Encoded>,
    /// Rows of earlier tasks, in the order of [`Sources::memory`].
    pub memory: Vec<Vec<Encoded>>,
    /// What the base is called in the adapter's configuration.
    pub base_name: String,
    /// The base's files, which a training that goes on must find as they were.
    pub base_files: Vec<PathBuf>,
    /// Where everything came from, for `learn.json`.
    pub sources: Sources,
}

/// Files that a task was learned from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sources {
    /// Directory of the base.
    pub model: PathBuf,
    /// Directory of the adapter that was built on.
    pub adapter: Option<PathBuf>,
    /// File of the task's rows.
    pub task: PathBuf,
    /// Files of the memory.
    pub memory: Vec<PathBuf>,
}

/// The content of `learn.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LearnRecord {
    /// All settings.
    pub settings: LearnSettings,
    /// Where the rows came from.
    pub sources: Sources,
    /// Rows of the task, and how many of them lost tokens at `max_input`.
    pub rows: (usize, usize),
    /// Rows of the memory, and how many of them lost tokens.
    pub memory_rows: (usize, usize),
    /// Mean loss of every step on the task before its update, in nats per target token.
    pub losses: Vec<f64>,
    /// Mean loss of every step on the memory before its update, unscaled.
    pub memory_losses: Vec<f64>,
    /// What became of each memory file.
    pub forgetting: Vec<MemoryChange>,
    /// Seconds of training.
    pub seconds: f64,
    /// Largest resident memory of the process, in MiB.
    pub peak_rss_mib: Option<u64>,
}

/// Mean loss on the rows of one memory file, in nats per target token, without dropout.
///
/// A method that rehearses the memory has trained on these very rows: what it forgot of the rest can only be more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryChange {
    /// The file.
    pub memory: PathBuf,
    /// Before the task was learned.
    pub before: f64,
    /// After it.
    pub after: f64,
}

/// Where a stopped training stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Position {
    settings: LearnSettings,
    /// blake3 of all rows, of the base's files and of the parameters that the training started from.
    inputs_blake3: String,
    /// Mean loss on each memory file before the first step.
    memory_before: Vec<f64>,
    losses: Vec<f64>,
    memory_losses: Vec<f64>,
    cursor: usize,
    seconds: f64,
}

/// Learns the task and writes the adapter with `learn.json` into `out`.
///
/// A raised `stop` leaves `out/checkpoint` and ends with [`Stopped`]; the same call goes on from there with the same
/// bits.
pub fn learn(
    model: Box<dyn LanguageModel>,
    settings: &LearnSettings,
    inputs: LearnInputs,
    out: &Path,
    stop: &StopFlag,
) -> Result<LearnRecord> {
    let inputs_blake3 = fingerprint(&inputs, model.params())?;
    let n_cut = |rows: &[Encoded]| (rows.len(), rows.iter().filter(|row| row.cut).count());
    let joined = inputs.memory.concat();
    let (rows, memory_rows) = (n_cut(&inputs.rows), n_cut(&joined));
    let view = view(settings, inputs.rows, &inputs.memory);
    let mut learner = Learner::new(model, settings.learner);
    let mut method = settings.method.build(learner.layout());
    let training_rows = method.training_rows(&view);
    let total_steps = settings.total_steps(training_rows.len());
    let peak = settings.learner.optimizer.lr;
    let warmup_steps = settings.learner.optimizer.warmup_steps;
    learner.begin_task(
        view.index,
        &view.name,
        Schedule::Linear {
            peak,
            warmup_steps,
            total_steps,
        },
    );
    method.begin_task(&mut learner, &view)?;

    let checkpoints = out.join("checkpoint");
    let mut position = Position {
        settings: settings.clone(),
        inputs_blake3,
        memory_before: Vec::new(),
        losses: Vec::new(),
        memory_losses: Vec::new(),
        cursor: 0,
        seconds: 0.0,
    };
    if let Some(saved) = Checkpoint::<Position>::newest(&checkpoints)? {
        position = position.resumed(saved.position, &checkpoints)?;
        methods::resume(&mut learner, method.as_mut(), &saved.state)
            .or_bad_input(|| format!("resuming from {}", checkpoints.display()))?;
    } else {
        position.memory_before = mean_losses(learner.model(), &inputs.memory, stop)?;
    }
    let mut training = Training {
        settings,
        view: &view,
        rows: &training_rows,
        total_steps,
        position,
        stop,
    };
    training.run(&mut learner, method.as_mut(), &checkpoints)?;
    method.end_task(&mut learner, &view)?;

    // Nothing is saved between here and the end: a signal waits.
    let after = mean_losses(learner.model(), &inputs.memory, &StopFlag::default())?;
    let Position {
        memory_before,
        losses,
        memory_losses,
        seconds,
        ..
    } = training.position;
    Adapter::write(
        out,
        &settings.adapter,
        learner.layout(),
        learner.params(),
        &inputs.base_name,
    )
    .with_context(|| format!("writing adapter {}", out.display()))?;
    let (settings, sources) = (settings.clone(), inputs.sources);
    let forgetting = sources
        .memory
        .iter()
        .zip(memory_before.iter().zip(after))
        .map(|(memory, (&before, after))| MemoryChange {
            memory: memory.clone(),
            before,
            after,
        })
        .collect();
    let peak_rss_mib = peak_rss_mib();
    let record = LearnRecord {
        settings,
        sources,
        rows,
        memory_rows,
        losses,
        memory_losses,
        forgetting,
        seconds,
        peak_rss_mib,
    };
    atomic::write_json(&out.join("learn.json"), &record)?;
    atomic::remove_folder(&checkpoints)?;
    Ok(record)
}

impl LearnSettings {
    /// Steps of the whole training, for `n_rows` rows in an epoch.
    pub fn total_steps(&self, n_rows: usize) -> u64 {
        match self.duration {
            DurationSetting::Epochs(epochs) => epochs * n_rows.div_ceil(self.batch_size) as u64,
            DurationSetting::Steps(steps) => steps,
        }
    }
}

impl Position {
    /// The saved position, if it belongs to the same training as this one.
    fn resumed(self, saved: Self, folder: &Path) -> Result<Self> {
        if saved.settings != self.settings || saved.inputs_blake3 != self.inputs_blake3 {
            let what = if saved.settings == self.settings {
                "rows, base or adapter"
            } else {
                "settings"
            };
            let folder = folder.display();
            let problem = format!(
                "{folder} belongs to a training with other {what}; remove it, or use another --out"
            );
            return Err(BadInput(problem).into());
        }
        Ok(saved)
    }
}

/// The steps of a training.
struct Training<'a> {
    settings: &'a LearnSettings,
    view: &'a TaskView,
    rows: &'a [Encoded],
    total_steps: u64,
    position: Position,
    stop: &'a StopFlag,
}

impl Training<'_> {
    fn run(
        &mut self,
        learner: &mut Learner,
        method: &mut dyn Method,
        checkpoints: &Path,
    ) -> Result<()> {
        let mut progress = Progress::new(self.total_steps);
        progress.label(format!("learning {}", self.view.name));
        progress.skip(self.position.losses.len() as u64);
        let (mut clock, mut last_save) = (Instant::now(), Instant::now());
        while (self.position.losses.len() as u64) < self.total_steps {
            let stopped = self.stop.is_raised();
            if stopped || last_save.elapsed() >= SAVE_EVERY {
                self.position.seconds += clock.elapsed().as_secs_f64();
                checkpoint::save(checkpoints, &self.position, &methods::save(learner, method))?;
                (clock, last_save) = (Instant::now(), Instant::now());
            }
            if stopped {
                return Err(Stopped.into());
            }
            let batch = self.next_batch();
            let loss = method.observe(learner, &batch)?;
            self.position.losses.push(loss);
            self.position
                .memory_losses
                .extend(learner.take_memory_losses());
            progress.advance(1);
        }
        self.position.seconds += clock.elapsed().as_secs_f64();
        progress.finish();
        Ok(())
    }

    /// The batch of the next step: of the epoch's shuffle, or where the cursor stands.
    fn next_batch(&mut self) -> Batch {
        let (n_rows, batch_size) = (self.rows.len(), self.settings.batch_size);
        let chosen = if self.settings.no_shuffle {
            let mut cursor = Cursor {
                position: self.position.cursor,
            };
            let chosen = cursor.take(n_rows, batch_size);
            self.position.cursor = cursor.position;
            chosen
        } else {
            let n_batches = n_rows.div_ceil(batch_size);
            let step = self.position.losses.len();
            let order = epoch_order(
                n_rows,
                self.view.seed,
                self.view.index as u64,
                (step / n_batches) as u64,
            );
            order
                .chunks(batch_size)
                .nth(step % n_batches)
                .expect("the batch lies in the epoch")
                .to_vec()
        };
        Batch::from_rows(chosen.into_iter().map(|i| &self.rows[i]))
    }
}

/// Mean loss on the rows of each file, in nats per target token.
fn mean_losses(
    model: &dyn LanguageModel,
    files: &[Vec<Encoded>],
    stop: &StopFlag,
) -> Result<Vec<f64>> {
    let mean = |rows: &Vec<Encoded>| {
        let n_tokens: usize = rows.iter().map(|row| row.target_ids.len()).sum();
        let nll = nll_per_row(model, rows, BATCH_TOKENS, stop)?;
        Ok(nll.iter().sum::<f64>() / n_tokens.max(1) as f64)
    };
    files.iter().map(mean).collect()
}

/// The task as the method sees it: not the first one if there is a memory.
fn view(settings: &LearnSettings, rows: Vec<Encoded>, memory: &[Vec<Encoded>]) -> TaskView {
    let memory_sizes = memory.iter().map(Vec::len).collect();
    let memory = memory.concat();
    TaskView {
        index: usize::from(!memory.is_empty()),
        name: settings.task.clone(),
        rows: Arc::new(rows),
        memory: Arc::new(memory),
        memory_sizes,
        all_rows: Arc::default(),
        batch_size: settings.batch_size,
        seed: settings.learner.seed,
        memory_order: if settings.no_shuffle {
            MemoryOrder::Cursor
        } else {
            MemoryOrder::Drawn
        },
    }
}

/// blake3 of all rows, of the base's files and of the parameters, in hexadecimal digits.
fn fingerprint(inputs: &LearnInputs, params: &[f32]) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    for rows in std::iter::once(&inputs.rows).chain(&inputs.memory) {
        hasher.update(&(rows.len() as u64).to_le_bytes());
        for ids in rows
            .iter()
            .flat_map(|row| [&row.input_ids, &row.target_ids])
        {
            hasher.update(&(ids.len() as u64).to_le_bytes());
            for id in ids {
                hasher.update(&id.to_le_bytes());
            }
        }
    }
    for x in params {
        hasher.update(&x.to_le_bytes());
    }
    for file in &inputs.base_files {
        hasher.update(hash_of(file)?.as_bytes());
    }
    Ok(hasher.finalize().to_hex().to_string())
}
