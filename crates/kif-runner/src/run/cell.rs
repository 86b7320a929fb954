//! One cell: a method learns a stream in one order with one seed, and is evaluated after every
//! task.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kif_data::{Encoded, MemoryPolicy, highest_loss};
use kif_io::atomic;
use kif_io::failure::OrBadInput;
use kif_io::memory::{peak_rss_mib, reset_peak_rss};
use kif_io::progress::Progress;
use kif_io::signal::{StopFlag, Stopped};
use kif_methods::methods::{Method, Parts, Regime, id_bytes};
use kif_methods::{Learner, State, TaskTraining, TaskView};
use kif_model::{Adapter, ParamLayout, StoredPrompts, StoredRouted, Trainable, required};
use kif_protocol::Protocol;
use kif_report::record::{Kept, LossCurve, Record, Settings, TaskTiming, Timing};

use super::base_scores::BaseScores;
use super::observer::{CellObserver, Shares};
use super::partial::Partial;
use super::phases::{self, Phase};
use super::{Cell, Inputs, PreparedTask, load_base};
use crate::checkpoint::{self, Checkpoint};
use crate::evaluate::{Evaluation, EvaluationOptions, batch_rows, evaluate, nll_per_row};
use crate::hub;
use crate::pause::Pause;

/// What a cell works with.
pub(super) struct CellContext<'a> {
    pub(super) protocol: &'a Protocol,
    pub(super) inputs: &'a Inputs,
    pub(super) folder: PathBuf,
    pub(super) stop: &'a StopFlag,
    /// What the base's answers to every task are made of.
    pub(super) base_answers: &'a BTreeMap<String, String>,
}

/// How a task is evaluated.
pub(super) fn evaluation_options(protocol: &Protocol, task: &PreparedTask) -> EvaluationOptions {
    EvaluationOptions {
        score: task.score,
        max_new_tokens: protocol.evaluation.max_new_tokens,
        batch_tokens: protocol.evaluation.batch_tokens,
        batch_rows: batch_rows(task.score, protocol.evaluation.max_new_tokens),
    }
}

/// Learns all tasks, or goes on from the newest checkpoint, and writes adapter and record.
pub(super) fn run(
    context: &CellContext<'_>,
    cell: &Cell,
    title: &str,
    base: &mut BaseScores,
    progress: &mut Progress,
) -> Result<()> {
    reset_peak_rss();
    let order = context.inputs.order(cell.order);
    let parts = cell.config.parts(order.len());
    let protocol = context.protocol;
    let model = load_base(protocol, &context.inputs.model, cell.seed, &parts)?;
    let (learner, method) = cell.config.start(
        model,
        protocol.learner_config(cell.seed),
        protocol.training_of(&cell.method).schedule(),
        order.len(),
    )?;
    let mut session = Session {
        context,
        cell,
        title,
        order,
        regime: cell.config.regime(),
        parts,
        learner,
        method,
        partial: Partial::new(order.len()),
        progress,
    };
    session.evaluate_base(base)?;
    session.learn_all()?;
    session.finish()
}

/// A cell at work.
struct Session<'a> {
    context: &'a CellContext<'a>,
    cell: &'a Cell,
    title: &'a str,
    order: &'a [String],
    regime: Regime,
    parts: Parts,
    learner: Learner,
    method: Box<dyn Method>,
    partial: Partial,
    progress: &'a mut Progress,
}

impl Session<'_> {
    /// Enters row 0, making the answers that no cell has made yet.
    fn evaluate_base(&mut self, base: &mut BaseScores) -> Result<()> {
        for (i, name) in self.order.iter().enumerate() {
            if base.get(name).is_none() {
                self.progress
                    .label(format!("{}: base on {name}", self.title));
                let evaluation = self.evaluated(i)?;
                base.keep(name, self.context.base_answers[name].clone(), evaluation)?;
            }
            if let Some(evaluation) = base.get(name) {
                self.partial
                    .enter(0, i, self.context.inputs.task(name).score, evaluation);
            }
        }
        Ok(())
    }

    /// All phases that are not done yet.
    fn learn_all(&mut self) -> Result<()> {
        let cells = self.context.protocol.evaluation.cells;
        let phases = phases::phases(self.regime, self.order.len(), cells);
        let mut saved = Checkpoint::<Partial>::newest(&self.checkpoints())?;
        let first = saved
            .as_ref()
            .map_or(0, |checkpoint| checkpoint.position.phase);
        for phase in &phases[..first.min(phases.len())] {
            let evaluation = phases::evaluation_units(self.context.inputs, self.cell, phase);
            self.progress.skip(self.training_units(phase) + evaluation);
        }
        for (i, phase) in phases.iter().enumerate().skip(first) {
            let view = phases::view(
                self.context.protocol,
                self.context.inputs,
                self.cell,
                self.regime,
                phase,
                saved.as_ref().map_or(&self.partial.highest, |checkpoint| {
                    &checkpoint.position.highest
                }),
            );
            let trained = self.train(i, phase, &view, saved.take())?;
            self.choose_memory(phase, &trained)?;
            self.evaluate(phase, &trained)?;
            self.save(&trained)?;
            let losses = std::mem::take(&mut self.partial.current_losses);
            self.partial
                .losses
                .push(LossCurve::new(&view.name, &losses));
        }
        Ok(())
    }

    /// Learns the task of a phase, from its first step or from where `saved` was; returns the state
    /// after the last step.
    fn train(
        &mut self,
        phase_idx: usize,
        phase: &Phase,
        view: &TaskView,
        saved: Option<Checkpoint<Partial>>,
    ) -> Result<State> {
        let units = self.training_units(phase);
        let protocol = self.context.protocol;
        let checkpoints = self.checkpoints();
        let number = match self.regime {
            Regime::Joint => String::new(),
            _ => format!(" ({}/{})", phase.task_idx + 1, self.order.len()),
        };
        let label = format!("{}: learning {}{number}", self.title, view.name);
        let plan = protocol.training_of(&self.cell.method).plan();
        let (learner, method) = (&mut self.learner, self.method.as_mut());
        let mut training = TaskTraining::begin(learner, method, view, &plan)?;
        if let Some(Checkpoint { position, state }) = saved {
            let n_done = position.current_losses.len() as u64;
            training
                .resume(&state, n_done)
                .or_bad_input(|| format!("resuming from {}", checkpoints.display()))?;
            self.partial = position;
            self.partial.timing.resumed += 1;
        } else {
            self.partial.timing.tasks.push(TaskTiming::default());
            self.partial.phase = phase_idx;
        }
        let mut shares = Shares::new(units, training.total_steps());
        self.progress.skip(shares.upto(training.n_done()));
        self.progress.label(label);
        let mut observer = CellObserver {
            task_idx: phase.task_idx,
            partial: &mut self.partial,
            checkpoints: &checkpoints,
            pause: Pause::new(self.context.stop, save_every(protocol)),
            progress: self.progress,
            shares,
            clock: Instant::now(),
        };
        training.run(&mut observer)?;
        observer.finish();
        // A method may drop its state at the end of a task, so a resumed run repeats `end` from
        // here.
        let trained = training.state();
        checkpoint::save(&checkpoints, observer.partial, &trained)?;
        training.end()?;
        Ok(trained)
    }

    /// The rows of the highest loss, in nats per target token and without dropout, where that is
    /// the policy.
    fn choose_memory(&mut self, phase: &Phase, trained: &State) -> Result<()> {
        let CellContext {
            protocol, inputs, ..
        } = self.context;
        let is_known = self.partial.highest.len() > phase.task_idx;
        let is_wanted = protocol.memory.policy == MemoryPolicy::HighestLoss;
        if self.regime != Regime::Stream || is_known || !is_wanted {
            return Ok(());
        }
        let task = inputs.task(&self.order[phase.task_idx]);
        let (model, tokens) = (self.learner.model(), protocol.evaluation.batch_tokens);
        let mut losses = match nll_per_row(model, &task.train, tokens, self.context.stop) {
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

    /// The evaluations of a phase that are not done yet; `trained` is what to save if they are
    /// stopped.
    fn evaluate(&mut self, phase: &Phase, trained: &State) -> Result<()> {
        for &task in &phase.evaluated {
            let name = &self.order[task];
            let prepared = self.context.inputs.task(name);
            if self.partial.has(phase.after, task) {
                self.progress.skip(prepared.test.n_rows() as u64);
                continue;
            }
            let clock = Instant::now();
            self.progress.label(format!(
                "{}: evaluated on {name} after task {}",
                self.title, phase.after
            ));
            self.method.before_evaluation(&mut self.learner, task)?;
            let evaluation = match self.evaluated(task) {
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
            let timing = self.partial.current_timing();
            timing.evaluate_s += clock.elapsed().as_secs_f64();
            timing.peak_rss_mib = peak_rss_mib();
        }
        Ok(())
    }

    /// What the model answers on a task now.
    fn evaluated(&mut self, task: usize) -> Result<Evaluation> {
        let inputs = self.context.inputs;
        let task = inputs.task(&self.order[task]);
        let options = evaluation_options(self.context.protocol, task);
        let progress = &mut *self.progress;
        let model = self.learner.model();
        evaluate(
            model,
            &inputs.codec,
            &task.test,
            &options,
            self.context.stop,
            |n| progress.advance(n as u64),
        )
    }

    /// Writes adapter and record, then drops the checkpoint.
    fn finish(mut self) -> Result<()> {
        let n_tasks = self.order.len();
        if self.regime == Regime::PerTask {
            // Nothing is learned after a task's own training: what it scored then is what it scores
            // in the end.
            for task in 0..n_tasks {
                if let Some(score) = self.partial.scores.get(task + 1, task) {
                    self.partial.scores.set(n_tasks, task, score);
                }
            }
        }
        let adapter = self.context.folder.join("adapter");
        let protocol = self.context.protocol;
        let base_name = match &protocol.model {
            Some(model) => hub::base_name(model),
            None => protocol.arch.unwrap_or_default().base_name().to_owned(),
        };
        atomic::write_folder(&adapter, |at| {
            let (layout, params) = (self.learner.layout(), self.learner.params());
            match self.parts.trainable(self.context.protocol.lora_config()) {
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
        let (path, checkpoints) = (self.context.folder.join("record.json"), self.checkpoints());
        self.record().write(&path)?;
        atomic::remove_folder(&checkpoints)
    }

    fn record(self) -> Record {
        let protocol = self.context.protocol;
        let Cell { order, seed, .. } = *self.cell;
        let inputs = self.context.inputs;
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
            metrics: kif_report::report::metrics_of(&self.partial.scores),
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

    /// What is kept after the last task; `memory` has the positions of the rows that each task
    /// leaves in it.
    fn carried(&self, memory: &[Vec<usize>]) -> Kept {
        let mut kept = Kept {
            state_bytes: self.method.kept_bytes() + frozen_slot_bytes(self.learner.layout()),
            ..Kept::default()
        };
        for (name, positions) in self.order.iter().zip(memory) {
            let train = &self.context.inputs.task(name).train;
            let rows: Vec<&Encoded> = match self.regime {
                Regime::Joint => train.iter().collect(),
                _ if self.cell.config.keeps_memory() => {
                    positions.iter().map(|&i| &train[i]).collect()
                }
                _ => Vec::new(),
            };
            kept.rows += rows.len() as u64;
            kept.row_bytes += rows.into_iter().map(id_bytes).sum::<u64>();
        }
        kept
    }

    fn save(&mut self, state: &State) -> Result<()> {
        checkpoint::save(&self.checkpoints(), &self.partial, state)?;
        Ok(())
    }

    fn training_units(&self, phase: &Phase) -> u64 {
        phases::training_units(
            self.context.protocol,
            self.context.inputs,
            self.cell,
            phase,
            self.regime,
        )
    }

    fn checkpoints(&self) -> PathBuf {
        self.context.folder.join("checkpoint")
    }
}

fn save_every(protocol: &Protocol) -> Duration {
    Duration::from_secs_f64(protocol.save_minutes * 60.0)
}

/// Bytes of all parameters but those of one slot.
fn frozen_slot_bytes(layout: &ParamLayout) -> u64 {
    let of_one: usize = layout.slot(0).iter().map(ExactSizeIterator::len).sum();
    ((layout.n_params() - of_one) * size_of::<f32>()) as u64
}
