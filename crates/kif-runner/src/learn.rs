//! One task on top of an adapter: what `kif learn` does.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kif_data::Encoded;
use kif_io::atomic;
use kif_io::failure::{BadInput, OrBadInput};
use kif_io::hash::hash_of;
use kif_io::memory::peak_rss_mib;
use kif_io::progress::Progress;
use kif_io::signal::StopFlag;
use kif_methods::{
    BatchOrder, LearnerConfig, MemoryOrder, MethodConfig, Schedule, SettingError, StepOutcome,
    TaskDuration, TaskTraining, TaskView, TrainingObserver, TrainingPlan,
};
use kif_model::{Adapter, LanguageModel, LoraConfig};
use kif_protocol::{Device, Precision, TemplateSetting};
use kif_report::record::FusionTrace;
use serde::{Deserialize, Serialize};

use crate::checkpoint::{self, Checkpoint};
use crate::evaluate::nll_per_row;
use crate::pause::Pause;

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
    /// Learning rate at the end of the warm-up.
    pub lr: f64,
    /// Steps of linear warm-up.
    pub warmup_steps: u64,
    /// The adapter.
    pub adapter: LoraConfig,
    /// Rows of a batch, from the task as from the memory.
    pub batch_size: usize,
    /// How long.
    pub duration: TaskDuration,
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
    /// What the masks of a method that fuses under masks have chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fusion: Option<FusionTrace>,
    /// What became of each memory file.
    pub forgetting: Vec<MemoryChange>,
    /// Seconds of training.
    pub seconds: f64,
    /// Largest resident memory of the process, in MiB.
    pub peak_rss_mib: Option<u64>,
}

/// Mean loss on the rows of one memory file, in nats per target token, without dropout.
///
/// A method that rehearses the memory has trained on these very rows: what it forgot of the rest
/// can only be more.
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
    /// blake3 of all rows, of the base's files and of the parameters that the training started
    /// from.
    inputs_blake3: String,
    /// Mean loss on each memory file before the first step.
    memory_before: Vec<f64>,
    losses: Vec<f64>,
    memory_losses: Vec<f64>,
    fusion: Option<FusionTrace>,
    seconds: f64,
}

/// Learns the task and writes the adapter with `learn.json` into `out`.
///
/// A raised `stop` leaves `out/checkpoint` and ends with [`Stopped`](kif_io::signal::Stopped); the
/// same call goes on from there with the same bits.
pub fn learn(
    model: Box<dyn LanguageModel>,
    settings: &LearnSettings,
    inputs: LearnInputs,
    out: &Path,
    stop: &StopFlag,
) -> Result<LearnRecord> {
    let inputs_blake3 = fingerprint(&inputs, model.params())?;
    let n_cut = |rows: &[Encoded]| (rows.len(), rows.iter().filter(|row| row.cut).count());
    let (rows, memory_rows) = (n_cut(&inputs.rows), n_cut(&inputs.memory.concat()));
    let view = view(settings, inputs.rows, &inputs.memory);
    let plan = settings.plan();
    let (mut learner, mut method) =
        (settings.method).start(model, settings.learner, settings.schedule(), 1)?;
    let checkpoints = out.join("checkpoint");
    let saved = Checkpoint::<Position>::newest(&checkpoints)?;
    let mut position = Position::new(settings, inputs_blake3);
    if saved.is_none() {
        position.memory_before = mean_losses(learner.model(), &inputs.memory, stop)?;
    }
    let mut training = TaskTraining::begin(&mut learner, method.as_mut(), &view, &plan)?;
    if let Some(saved) = saved {
        position = position.resumed(saved.position, &checkpoints)?;
        training
            .resume(&saved.state, position.losses.len() as u64)
            .or_bad_input(|| format!("resuming from {}", checkpoints.display()))?;
    }
    let mut progress = Progress::new(training.total_steps());
    progress.label(format!("learning {}", view.name));
    progress.skip(training.n_done());
    let mut observer = LearnObserver {
        task_idx: view.index,
        position: &mut position,
        checkpoints: &checkpoints,
        pause: Pause::new(stop, SAVE_EVERY),
        progress: &mut progress,
        clock: Instant::now(),
    };
    training.run(&mut observer)?;
    observer.note_time();
    progress.finish();
    training.end()?;

    // Nothing is saved between here and the end: a signal waits.
    let after = mean_losses(learner.model(), &inputs.memory, &StopFlag::default())?;
    let Position {
        memory_before,
        losses,
        memory_losses,
        fusion,
        seconds,
        ..
    } = position;
    Adapter::write(
        out,
        &settings.adapter,
        learner.layout(),
        learner.params(),
        &inputs.base_name,
    )
    .with_context(|| format!("writing adapter {}", out.display()))?;
    let (settings, sources) = (settings.clone(), inputs.sources);
    let forgetting = changes(&sources.memory, &memory_before, &after);
    let peak_rss_mib = peak_rss_mib();
    let record = LearnRecord {
        settings,
        sources,
        rows,
        memory_rows,
        losses,
        memory_losses,
        fusion,
        forgetting,
        seconds,
        peak_rss_mib,
    };
    atomic::write_json(&out.join("learn.json"), &record)?;
    atomic::remove_folder(&checkpoints)?;
    Ok(record)
}

impl LearnSettings {
    /// The rates; over how many steps, rows and duration decide.
    fn schedule(&self) -> Schedule {
        Schedule::warmed_up(self.lr, self.warmup_steps)
    }

    /// Whether every value is in its range.
    pub fn check(&self) -> Result<(), SettingError> {
        self.learner.check().and(self.schedule().check())
    }

    fn plan(&self) -> TrainingPlan {
        TrainingPlan {
            schedule: self.schedule(),
            duration: self.duration,
            order: if self.no_shuffle {
                BatchOrder::Given
            } else {
                BatchOrder::Shuffled
            },
        }
    }
}

impl Position {
    fn new(settings: &LearnSettings, inputs_blake3: String) -> Self {
        Self {
            settings: settings.clone(),
            inputs_blake3,
            memory_before: Vec::new(),
            losses: Vec::new(),
            memory_losses: Vec::new(),
            fusion: None,
            seconds: 0.0,
        }
    }

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

/// Notes losses and masks, saves the training, and stops it.
struct LearnObserver<'a> {
    task_idx: usize,
    position: &'a mut Position,
    checkpoints: &'a Path,
    pause: Pause<'a>,
    progress: &'a mut Progress,
    /// When the time that is not yet noted began.
    clock: Instant,
}

impl LearnObserver<'_> {
    fn note_time(&mut self) {
        self.position.seconds += self.clock.elapsed().as_secs_f64();
    }
}

impl TrainingObserver for LearnObserver<'_> {
    fn before_step(&mut self, training: &TaskTraining<'_>) -> Result<()> {
        let Some(pause) = self.pause.is_due() else {
            return Ok(());
        };
        self.note_time();
        checkpoint::save(self.checkpoints, self.position, &training.state())?;
        self.clock = Instant::now();
        self.pause.end(pause)
    }

    fn after_step(&mut self, training: &TaskTraining<'_>, outcome: StepOutcome) -> Result<()> {
        self.position.losses.push(outcome.loss);
        self.position.memory_losses.extend(outcome.memory_losses);
        FusionTrace::note(
            &mut self.position.fusion,
            training.learner().layout(),
            self.task_idx,
            outcome.regions.as_deref(),
        );
        self.progress.advance(1);
        Ok(())
    }
}

/// What became of each memory file.
fn changes(files: &[PathBuf], before: &[f64], after: &[f64]) -> Vec<MemoryChange> {
    let losses = before.iter().zip(after);
    let change = |(memory, (&before, &after)): (&PathBuf, (&f64, &f64))| MemoryChange {
        memory: memory.clone(),
        before,
        after,
    };
    files.iter().zip(losses).map(change).collect()
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
