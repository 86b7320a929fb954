//! What a method sees of the task it is about to learn.

use std::sync::Arc;

use kif_data::{Batch, Cursor, Encoded, cycled_batch, memory_batch};
use serde::{Deserialize, Serialize};

use crate::state::{State, StateError};

/// A task with the memory of those before it.
#[derive(Clone, Debug)]
pub struct TaskView {
    /// Position in the stream, from 0.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// Its training rows.
    pub rows: Arc<Vec<Encoded>>,
    /// Rows kept of all earlier tasks, oldest task first; empty on the first task.
    pub memory: Arc<Vec<Encoded>>,
    /// How many of these rows are of each earlier task.
    pub memory_sizes: Vec<usize>,
    /// Training rows of all tasks of the stream, for joint training.
    pub all_rows: Arc<Vec<Encoded>>,
    /// Rows of a batch, from the task as from the memory (published: 8).
    pub batch_size: usize,
    /// Seed of the run.
    pub seed: u64,
    /// How batches are taken from the memory.
    pub memory_order: MemoryOrder,
}

impl TaskView {
    /// The rows kept of each earlier task.
    pub fn memory_by_task(&self) -> impl Iterator<Item = &[Encoded]> {
        let mut rest = self.memory.as_slice();
        self.memory_sizes.iter().map(move |&n| {
            let (rows, of_later) = rest.split_at(n);
            rest = of_later;
            rows
        })
    }
}

/// How batches are taken from the memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryOrder {
    /// Every batch is the first of a fresh shuffle, as in the released code.
    #[default]
    Drawn,
    /// Shuffled passes over all rows, one after the other: every row once before any comes again.
    Cycled,
    /// In file order; goes on where the last batch ended and wraps inside a batch.
    Cursor,
}

/// Batches from a pool of rows, one after the other, without end.
#[derive(Clone, Debug)]
pub struct Sampler {
    rows: Arc<Vec<Encoded>>,
    batch_size: usize,
    seed: u64,
    task_idx: u64,
    order: MemoryOrder,
    n_draws: u64,
    cursor: Cursor,
}

impl Sampler {
    /// A sampler of the task's memory.
    pub fn of_memory(task: &TaskView) -> Self {
        Self::new(task, &task.memory)
    }

    /// A sampler of the task's own rows.
    pub fn of_task(task: &TaskView) -> Self {
        Self::new(task, &task.rows)
    }

    /// The same sampler in another order, unless file order was asked for.
    pub fn ordered(self, order: MemoryOrder) -> Self {
        match self.order {
            MemoryOrder::Cursor => self,
            MemoryOrder::Drawn | MemoryOrder::Cycled => Self { order, ..self },
        }
    }

    /// A sampler of rows that a method has from elsewhere, drawn as those of a memory.
    pub fn of_rows(task: &TaskView, rows: &Arc<Vec<Encoded>>) -> Self {
        Self::new(task, rows)
    }

    /// The same sampler over other rows: where these are part of a method's state.
    pub fn set_rows(&mut self, rows: &Arc<Vec<Encoded>>) {
        self.rows = rows.clone();
    }

    fn new(task: &TaskView, rows: &Arc<Vec<Encoded>>) -> Self {
        Self {
            rows: rows.clone(),
            batch_size: task.batch_size,
            seed: task.seed,
            task_idx: task.index as u64,
            order: task.memory_order,
            n_draws: 0,
            cursor: Cursor { position: 0 },
        }
    }

    /// The next batch. The pool must not be empty.
    pub fn draw(&mut self) -> Batch {
        self.draw_with_places().0
    }

    /// The next batch, and where its rows stand in the pool, which must not be empty.
    pub fn draw_with_places(&mut self) -> (Batch, Vec<usize>) {
        assert!(
            !self.rows.is_empty(),
            "a batch was drawn from an empty pool"
        );
        let n_rows = self.rows.len();
        let (size, seed, task_idx) = (self.batch_size, self.seed, self.task_idx);
        let chosen = match self.order {
            MemoryOrder::Drawn => memory_batch(n_rows, size, seed, task_idx, self.n_draws),
            MemoryOrder::Cycled => cycled_batch(n_rows, size, seed, task_idx, self.n_draws),
            MemoryOrder::Cursor => self.cursor.take(n_rows, size),
        };
        self.n_draws += 1;
        let batch = Batch::from_rows(chosen.iter().map(|&i| &self.rows[i]));
        (batch, chosen)
    }

    /// Writes how far it got.
    pub fn save_state(&self, state: &mut State) {
        state.put_counter("method.draws", self.n_draws);
        state.put_counter("method.cursor", self.cursor.position as u64);
    }

    /// Goes on from where [`save_state`](Self::save_state) was called.
    pub fn load_state(&mut self, state: &State) -> Result<(), StateError> {
        self.n_draws = state.counter("method.draws")?;
        self.cursor.position =
            state.counter_up_to("method.cursor", self.rows.len() as u64)? as usize;
        Ok(())
    }
}
