//! One cell: a method learns a stream in one order with one seed, and is examined after every task.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kif_data::{Batch, Encoded, MemoryPolicy, epoch_order, highest_loss};
use kif_model::{Adapter, ParamLayout, StoredPrompts, StoredRouted, Trainable, required};

use super::base_scores::BaseScores;
use super::partial::Partial;
use super::phases::{self, Phase};
use super::{Cell, Inputs, load_base};
use crate::atomic;
use crate::checkpoint::{self, Checkpoint};
use crate::evaluate::{Evaluation, EvaluationOptions, evaluate, nll_per_row};
use crate::failure::OrBadInput;
use crate::learner::Learner;
use crate::methods::{self, Method, Parts, Regime, id_bytes};
use crate::progress::Progress;
use crate::protocol::Protocol;
use crate::record::{
    FusionTrace, Kept, LossCurve, Record, Settings, TaskTiming, Timing, peak_rss_mib,
    reset_peak_rss,
};
use crate::schedule::Schedule;
use crate::signal::{StopFlag, Stopped};
use crate::state::State;
use crate::task_view::TaskView;

/// Most rows that are answered at once.
const BATCH_ROWS: usize = 64;

/// What a cell works with.
pub(super) struct Place<'a> {
    pub(super) protocol: &'a Protocol,
    pub(super) inputs: &'a Inputs,
    pub(super) folder: PathBuf,
    pub(super) stop: &'a StopFlag,
}

/// Learns all tasks, or goes on from the newest checkpoint, and writes adapter and record.
pub(super) fn run(
    place: &Place<'_>,
    cell: &Cell,
    title: &str,
    base: &mut BaseScores,
    progress: &mut Progress,
) -> Result<()> {
    reset_peak_rss();
    let order = place.inputs.order(cell.order);
    let parts = cell.config.parts(order.len());
    let model = load_base(place.protocol, &place.inputs.model, cell.seed, &parts)?;
    let learner = Learner::new(
        model,
        place.protocol.learner_config(&cell.method, cell.seed),
    );
    let learner = learner.with_slots(parts.n_slots)?;
    let method = cell.config.build(learner.layout());
    let mut session = Session {
        place,
        cell,
        title,
        order,
        regime: method.regime(),
        parts,
        learner,
        method,
        partial: Partial::new(order.len()),
        last_save: Instant::now(),
        progress,
    };
    session.examine_base(base)?;
    session.learn_all()?;
    session.finish()
}

/// A cell at work.
struct Session<'a> {
    place: &'a Place<'a>,
    cell: &'a Cell,
    title: &'a str,
    order: &'a [String],
    regime: Regime,
    parts: Parts,
    learner: Learner,
    method: Box<dyn Method>,
    partial: Partial,
    last_save: Instant,
    progress: &'a mut Progress,
}

impl Session<'_> {
    /// Enters row 0, making the answers that no cell has made yet.
    fn examine_base(&mut self, base: &mut BaseScores) -> Result<()> {
        for (i, name) in self.order.iter().enumerate() {
            if base.get(name).is_none() {
                self.progress
                    .label(format!("{}: base on {name}", self.title));
                let evaluation = self.answer(i)?;
                base.keep(name, evaluation)?;
            }
            if let Some(evaluation) = base.get(name) {
                self.partial
                    .enter(0, i, self.place.inputs.task(name).score, evaluation);
            }
        }
        Ok(())
    }

    /// All phases that are not done yet.
    fn learn_all(&mut self) -> Result<()> {
        let phases = phases::phases(self.regime, self.order.len());
        let mut saved = Checkpoint::<Partial>::newest(&self.checkpoints())?;
        let first = saved
            .as_ref()
            .map_or(0, |checkpoint| checkpoint.position.phase);
        for phase in &phases[..first.min(phases.len())] {
            let evaluation = phases::evaluation_units(self.place.inputs, self.cell, phase);
            self.progress.skip(self.training_units(phase) + evaluation);
        }
        for (i, phase) in phases.iter().enumerate().skip(first) {
            let view = phases::view(
                self.place.protocol,
                self.place.inputs,
                self.cell,
                self.regime,
                phase,
                saved.as_ref().map_or(&self.partial.highest, |checkpoint| {
                    &checkpoint.position.highest
                }),
            );
            self.begin(i, &view, saved.take())?;
            self.train(phase, &view)?;
            // A method may drop its state at the end of a task, so a resumed run repeats `end_task` from here.
            let trained = methods::save(&self.learner, self.method.as_ref());
            self.save(&trained)?;
            self.method.end_task(&mut self.learner, &view)?;
            self.choose_memory(phase, &trained)?;
            self.examine(phase, &trained)?;
            self.save(&trained)?;
            let losses = std::mem::take(&mut self.partial.current_losses);
            self.partial
                .losses
                .push(LossCurve::new(&view.name, &losses));
        }
        Ok(())
    }

    /// Prepares learner and method for a phase, and goes to where `saved` was.
    fn begin(
        &mut self,
        phase_idx: usize,
        view: &TaskView,
        saved: Option<Checkpoint<Partial>>,
    ) -> Result<()> {
        let training = self.place.protocol.training_of(&self.cell.method);
        let n_rows = self.method.training_rows(view).len() as u64;
        let total_steps = training.epochs * n_rows.div_ceil(training.batch_size as u64);
        let schedule = Schedule::Linear {
            peak: training.lr,
            warmup_steps: training.warmup_steps,
            total_steps,
        };
        self.learner.begin_task(view.index, &view.name, schedule);
        self.method.begin_task(&mut self.learner, view)?;
        if let Some(Checkpoint { position, state }) = saved {
            methods::resume(&mut self.learner, self.method.as_mut(), &state)
                .or_bad_input(|| format!("resuming from {}", self.checkpoints().display()))?;
            self.partial = position;
            self.partial.timing.resumed += 1;
        } else {
            self.partial.timing.tasks.push(TaskTiming::default());
            (self.partial.phase, self.partial.epoch, self.partial.batch) = (phase_idx, 0, 0);
        }
        Ok(())
    }

    /// Epochs of shuffled batches, from the one that comes next on.
    fn train(&mut self, phase: &Phase, view: &TaskView) -> Result<()> {
        let rows = self.method.training_rows(view);
        let training = &self.place.protocol.training;
        let n_batches = rows.len().div_ceil(training.batch_size) as u64;
        let mut shares = Shares::new(self.training_units(phase), training.epochs * n_batches);
        self.progress
            .skip(shares.upto(self.partial.epoch * n_batches + self.partial.batch as u64));
        let place = match self.regime {
            Regime::Joint => String::new(),
            _ => format!(" ({}/{})", phase.task_idx + 1, self.order.len()),
        };
        self.progress
            .label(format!("{}: learning {}{place}", self.title, view.name));
        let mut clock = Instant::now();
        while self.partial.epoch < training.epochs {
            let order = epoch_order(rows.len(), view.seed, view.index as u64, self.partial.epoch);
            for chosen in order.chunks(training.batch_size).skip(self.partial.batch) {
                let stopped = self.place.stop.is_raised();
                if stopped || self.save_is_due() {
                    self.timing().train_s += clock.elapsed().as_secs_f64();
                    self.save(&methods::save(&self.learner, self.method.as_ref()))?;
                    clock = Instant::now();
                }
                if stopped {
                    return Err(Stopped.into());
                }
                let batch = Batch::from_rows(chosen.iter().map(|&i| &rows[i]));
                let loss = self.method.observe(&mut self.learner, &batch)?;
                self.partial.current_losses.push(loss);
                if let Some(regions) = self.method.take_regions() {
                    let layout = self.learner.layout();
                    let trace = &mut self.partial.fusion;
                    trace
                        .get_or_insert_with(|| FusionTrace::new(layout))
                        .add(phase.task_idx, &regions);
                }
                self.partial.batch += 1;
                self.progress.advance(shares.next());
            }
            (self.partial.epoch, self.partial.batch) = (self.partial.epoch + 1, 0);
        }
        let timing = self.timing();
        timing.train_s += clock.elapsed().as_secs_f64();
        timing.peak_rss_mib = peak_rss_mib();
        Ok(())
    }

    /// The rows of the highest loss, in nats per target token and without dropout, where that is the policy.
    fn choose_memory(&mut self, phase: &Phase, trained: &State) -> Result<()> {
        let Place {
            protocol, inputs, ..
        } = self.place;
        let is_known = self.partial.highest.len() > phase.task_idx;
        let is_wanted = protocol.memory.policy == MemoryPolicy::HighestLoss;
        if self.regime != Regime::Stream || is_known || !is_wanted {
            return Ok(());
        }
        let task = inputs.task(&self.order[phase.task_idx]);
        let (model, tokens) = (self.learner.model(), protocol.evaluation.batch_tokens);
        let mut losses = match nll_per_row(model, &task.train, tokens, self.place.stop) {
            Err(error) if error.is::<Stopped>() => {
                self.save(trained)?;
                return Err(error);
            }
            other => other?,
        };
        for (loss, row) in losses.iter_mut().zip(task.train.iter()) {
            *loss /= row.target_ids.len().max(1) as f64;
        }
        let highest = highest_loss(&losses, task.budget(protocol));
        self.partial.highest.push(highest);
        Ok(())
    }

    /// The evaluations of a phase that are not done yet; `trained` is what to save if they are stopped.
    fn examine(&mut self, phase: &Phase, trained: &State) -> Result<()> {
        for &task in &phase.evaluated {
            let name = &self.order[task];
            let prepared = self.place.inputs.task(name);
            if self.partial.has(phase.after, task) {
                self.progress.skip(prepared.test.n_rows() as u64);
                continue;
            }
            let clock = Instant::now();
            self.progress.label(format!(
                "{}: examined on {name} after task {}",
                self.title, phase.after
            ));
            self.method.before_examining(&mut self.learner, task)?;
            let evaluation = match self.answer(task) {
                Err(error) if error.is::<Stopped>() => {
                    self.save(trained)?;
                    return Err(error);
                }
                other => other?,
            };
            self.partial
                .enter(phase.after, task, prepared.score, &evaluation);
            if phase.after == self.order.len() || self.regime == Regime::PerTask {
                self.partial
                    .predictions
                    .insert(name.clone(), evaluation.predictions);
            }
            let timing = self.timing();
            timing.evaluate_s += clock.elapsed().as_secs_f64();
            timing.peak_rss_mib = peak_rss_mib();
        }
        Ok(())
    }

    /// What the model answers on a task now.
    fn answer(&mut self, task: usize) -> Result<Evaluation> {
        let inputs = self.place.inputs;
        let task = inputs.task(&self.order[task]);
        let settings = &self.place.protocol.evaluation;
        let options = EvaluationOptions {
            score: task.score,
            max_new_tokens: settings.max_new_tokens,
            batch_tokens: settings.batch_tokens,
            batch_rows: BATCH_ROWS,
        };
        let progress = &mut *self.progress;
        let model = self.learner.model();
        evaluate(
            model,
            &inputs.codec,
            &task.test,
            &options,
            self.place.stop,
            |n| progress.advance(n as u64),
        )
    }

    /// Writes adapter and record, then drops the checkpoint.
    fn finish(mut self) -> Result<()> {
        let n_tasks = self.order.len();
        if self.regime == Regime::PerTask {
            // Nothing is learned after a task's own training: what it scored then is what it scores in the end.
            for task in 0..n_tasks {
                if let Some(score) = self.partial.scores.get(task + 1, task) {
                    self.partial.scores.set(n_tasks, task, score);
                }
            }
        }
        let adapter = self.place.folder.join("adapter");
        let protocol = self.place.protocol;
        let base_name = match &protocol.model {
            Some(model) => model.display().to_string(),
            None => protocol.arch.unwrap_or_default().base_name().to_owned(),
        };
        atomic::write_folder(&adapter, |at| {
            let (layout, params) = (self.learner.layout(), self.learner.params());
            match self.parts.trainable(self.place.protocol.lora_config()) {
                Trainable::Prompts(config) => {
                    let active = required(self.learner.model().prompted())?.active_prompts();
                    StoredPrompts::write(at, &config, active, layout, params, &base_name)
                }
                Trainable::Adapter(config) => {
                    Adapter::write(at, &config, layout, params, &base_name)
                }
                Trainable::Routed(config, routing) => {
                    let routed = self.learner.model().slot_routed();
                    let routing = routed.map_or(routing, |routed| routed.routing());
                    StoredRouted::write(at, &config, &routing, layout, params, &base_name)
                }
                Trainable::All => unreachable!("the base is frozen"),
            }
            .with_context(|| format!("writing adapter {}", adapter.display()))
        })?;
        let (path, checkpoints) = (self.place.folder.join("record.json"), self.checkpoints());
        self.record().write(&path)?;
        atomic::remove_folder(&checkpoints)
    }

    fn record(self) -> Record {
        let protocol = self.place.protocol;
        let Cell { order, seed, .. } = *self.cell;
        let inputs = self.place.inputs;
        let highest = &self.partial.highest;
        let kept = inputs.kept(protocol, (order, seed), self.order.len(), highest);
        let carried = self.carried(&kept);
        let task_notes = (self.order.iter().zip(kept))
            .map(|(name, kept)| inputs.task(name).note(kept))
            .collect();
        Record {
            format: Record::format(),
            protocol: protocol.name.clone(),
            method: self.cell.method.clone(),
            order: self.cell.order,
            seed: self.cell.seed,
            tasks: self.order.to_vec(),
            settings: Settings::new(protocol, &self.cell.method, self.cell.config.clone()),
            metrics: crate::report::metrics_of(&self.partial.scores),
            scores: self.partial.scores,
            task_notes,
            correctness: self.partial.correctness,
            predictions: self.partial.predictions,
            losses: self.partial.losses,
            cost: self.learner.counters(),
            kept: Some(carried),
            fusion: self.partial.fusion,
            n_params: self.learner.layout().n_params(),
            timing: Timing {
                threads: rayon::current_num_threads(),
                ..self.partial.timing
            },
        }
    }

    /// What is kept behind the last task; `memory` has the positions of the rows that each task leaves in it.
    fn carried(&self, memory: &[Vec<usize>]) -> Kept {
        let mut kept = Kept {
            state_bytes: self.method.kept_bytes() + frozen_slot_bytes(self.learner.layout()),
            ..Kept::default()
        };
        for (name, positions) in self.order.iter().zip(memory) {
            let train = &self.place.inputs.task(name).train;
            let rows: Vec<&Encoded> = match self.regime {
                Regime::Joint => train.iter().collect(),
                _ if self.method.keeps_memory() => positions.iter().map(|&i| &train[i]).collect(),
                _ => Vec::new(),
            };
            kept.rows += rows.len() as u64;
            kept.row_bytes += rows.into_iter().map(id_bytes).sum::<u64>();
        }
        kept
    }

    fn save(&mut self, state: &State) -> Result<()> {
        checkpoint::save(&self.checkpoints(), &self.partial, state)?;
        self.last_save = Instant::now();
        Ok(())
    }

    /// Times of the phase that is being worked on.
    fn timing(&mut self) -> &mut TaskTiming {
        self.partial
            .timing
            .tasks
            .last_mut()
            .expect("a phase has begun")
    }

    fn save_is_due(&self) -> bool {
        self.last_save.elapsed() >= Duration::from_secs_f64(self.place.protocol.save_minutes * 60.0)
    }

    fn training_units(&self, phase: &Phase) -> u64 {
        phases::training_units(
            self.place.protocol,
            self.place.inputs,
            self.cell,
            phase,
            self.regime,
        )
    }

    fn checkpoints(&self) -> PathBuf {
        self.place.folder.join("checkpoint")
    }
}

/// Splits a number of units over a number of steps without losing any to rounding.
struct Shares {
    units: u64,
    steps: u64,
    done: u64,
}

impl Shares {
    fn new(units: u64, steps: u64) -> Self {
        Self {
            units,
            steps: steps.max(1),
            done: 0,
        }
    }

    /// Units of the steps before `step`; the next share is that of `step`.
    fn upto(&mut self, step: u64) -> u64 {
        self.done = step;
        self.units * step / self.steps
    }

    fn next(&mut self) -> u64 {
        let before = self.units * self.done / self.steps;
        self.done += 1;
        self.units * self.done / self.steps - before
    }
}

/// Bytes of all parameters but those of one slot.
fn frozen_slot_bytes(layout: &ParamLayout) -> u64 {
    let of_one: usize = layout.slot(0).iter().map(ExactSizeIterator::len).sum();
    ((layout.n_params() - of_one) * size_of::<f32>()) as u64
}
