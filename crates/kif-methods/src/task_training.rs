//! The training of one task: its batches in their order, from the first one or from where it was
//! saved.

use anyhow::Result;
use kif_data::{Batch, Cursor, Encoded, epoch_order};
use kif_fusion::Regions;
use serde::{Deserialize, Serialize};

use crate::learner::Learner;
use crate::methods::{self, Method};
use crate::schedule::Schedule;
use crate::state::State;
use crate::task_view::TaskView;

/// How long a task is learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskDuration {
    /// Passes over the rows.
    Epochs(u64),
    /// Optimizer steps on the task.
    Steps(u64),
}

/// In which order rows make batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchOrder {
    /// Every epoch is a shuffle of its own, keyed by seed, task and epoch; its last batch may be
    /// smaller.
    Shuffled,
    /// As the rows stand; goes on where the last batch ended and wraps inside a batch.
    Given,
}

/// What a training is, beside its rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainingPlan {
    /// The rates; over how many steps, rows and duration decide.
    pub schedule: Schedule,
    /// How long.
    pub duration: TaskDuration,
    /// In which order rows make batches.
    pub order: BatchOrder,
}

/// What one step was.
#[derive(Clone, Debug, PartialEq)]
pub struct StepOutcome {
    /// Mean loss of the batch before the update, in nats per target token.
    pub loss: f64,
    /// Mean losses of the memory steps that came with it, unscaled.
    pub memory_losses: Vec<f64>,
    /// What masks chose of every tensor, where the step ended in a fusion under masks.
    pub regions: Option<Vec<Regions>>,
}

/// Who watches a training, saves it and stops it.
pub trait TrainingObserver {
    /// Called before every step. An error ends the training there.
    fn before_step(&mut self, training: &TaskTraining<'_>) -> Result<()>;

    /// Called after every step.
    fn after_step(&mut self, training: &TaskTraining<'_>, outcome: StepOutcome) -> Result<()>;
}

/// A task that is being learned: [`begin`](Self::begin), then perhaps [`resume`](Self::resume),
/// [`run`](Self::run), [`end`](Self::end).
pub struct TaskTraining<'a> {
    learner: &'a mut Learner,
    method: &'a mut dyn Method,
    view: &'a TaskView,
    rows: Vec<Encoded>,
    order: BatchOrder,
    total_steps: u64,
    n_done: u64,
    /// The shuffle of the epoch that is being learned, with its number.
    shuffle: Option<(u64, Vec<usize>)>,
}

impl<'a> TaskTraining<'a> {
    /// Begins the task with learner and method: a fresh optimizer, the schedule over all steps.
    pub fn begin(
        learner: &'a mut Learner,
        method: &'a mut dyn Method,
        view: &'a TaskView,
        plan: &TrainingPlan,
    ) -> Result<Self> {
        let rows = method.training_rows(view);
        let total_steps = match plan.duration {
            TaskDuration::Epochs(epochs) => epochs * rows.len().div_ceil(view.batch_size) as u64,
            TaskDuration::Steps(steps) => steps,
        };
        let schedule = plan.schedule.over(total_steps);
        learner.begin_task(view.index, &view.name, schedule);
        method.begin_task(learner, view)?;
        Ok(Self {
            learner,
            method,
            view,
            rows,
            order: plan.order,
            total_steps,
            n_done: 0,
            shuffle: None,
        })
    }

    /// Goes on after `n_done` steps from the `state` that was saved there.
    pub fn resume(&mut self, state: &State, n_done: u64) -> Result<()> {
        methods::resume(self.learner, self.method, state)?;
        self.n_done = n_done;
        Ok(())
    }

    /// The steps that are not done yet.
    pub fn run(&mut self, observer: &mut dyn TrainingObserver) -> Result<()> {
        while self.n_done < self.total_steps {
            observer.before_step(self)?;
            let batch = self.next_batch();
            let loss = self.method.observe(self.learner, &batch)?;
            self.n_done += 1;
            let outcome = StepOutcome {
                loss,
                memory_losses: self.learner.take_memory_losses(),
                regions: self.method.take_regions(),
            };
            observer.after_step(self, outcome)?;
        }
        Ok(())
    }

    /// Ends the task, after its last step.
    pub fn end(self) -> Result<()> {
        self.method.end_task(self.learner, self.view)
    }

    /// Learner and method as they are now.
    pub fn state(&self) -> State {
        methods::save(self.learner, self.method)
    }

    /// The learner.
    pub fn learner(&self) -> &Learner {
        self.learner
    }

    /// Steps that are done.
    pub fn n_done(&self) -> u64 {
        self.n_done
    }

    /// Steps of the whole training.
    pub fn total_steps(&self) -> u64 {
        self.total_steps
    }

    fn next_batch(&mut self) -> Batch {
        let (n_rows, size) = (self.rows.len(), self.view.batch_size);
        let chosen = match self.order {
            BatchOrder::Given => {
                let position = (self.n_done as u128 * size as u128 % n_rows as u128) as usize;
                Cursor { position }.take(n_rows, size)
            }
            BatchOrder::Shuffled => {
                let n_batches = n_rows.div_ceil(size) as u64;
                let (epoch, batch) = (self.n_done / n_batches, self.n_done % n_batches);
                let (_, order) = match self.shuffle.take() {
                    Some(shuffle) if shuffle.0 == epoch => self.shuffle.insert(shuffle),
                    _ => self.shuffle.insert((epoch, self.shuffled(epoch))),
                };
                let start = batch as usize * size;
                order[start..(start + size).min(n_rows)].to_vec()
            }
        };
        Batch::from_rows(chosen.into_iter().map(|i| &self.rows[i]))
    }

    fn shuffled(&self, epoch: u64) -> Vec<usize> {
        let view = self.view;
        epoch_order(self.rows.len(), view.seed, view.index as u64, epoch)
    }
}
