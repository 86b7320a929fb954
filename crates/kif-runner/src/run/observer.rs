//! What a cell does between two steps: it notes losses and masks, saves itself, stops, and shows
//! how far it is.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use kif_io::memory::peak_rss_mib;
use kif_io::progress::Progress;
use kif_methods::{StepOutcome, TaskTraining, TrainingObserver};
use kif_report::record::FusionTrace;

use super::partial::Partial;
use crate::checkpoint;
use crate::pause::Pause;

/// Watches the training of one task of a cell.
pub(super) struct CellObserver<'a> {
    /// Position of the task in the order.
    pub(super) task_idx: usize,
    pub(super) partial: &'a mut Partial,
    /// Where the cell is saved.
    pub(super) checkpoints: &'a Path,
    pub(super) pause: Pause<'a>,
    pub(super) progress: &'a mut Progress,
    /// Units of progress, step by step.
    pub(super) shares: Shares,
    /// When the time that is not yet noted began.
    pub(super) clock: Instant,
}

impl CellObserver<'_> {
    /// Notes time and memory after the last step.
    pub(super) fn finish(&mut self) {
        self.note_time();
        self.partial.current_timing().peak_rss_mib = peak_rss_mib();
    }

    fn note_time(&mut self) {
        self.partial.current_timing().train_s += self.clock.elapsed().as_secs_f64();
    }
}

impl TrainingObserver for CellObserver<'_> {
    fn before_step(&mut self, training: &TaskTraining<'_>) -> Result<()> {
        let Some(pause) = self.pause.is_due() else {
            return Ok(());
        };
        self.note_time();
        checkpoint::save(self.checkpoints, self.partial, &training.state())?;
        self.clock = Instant::now();
        self.pause.end(pause)
    }

    fn after_step(&mut self, training: &TaskTraining<'_>, outcome: StepOutcome) -> Result<()> {
        self.partial.current_losses.push(outcome.loss);
        FusionTrace::note(
            &mut self.partial.fusion,
            training.learner().layout(),
            self.task_idx,
            outcome.regions.as_deref(),
        );
        self.progress.advance(self.shares.next());
        Ok(())
    }
}

/// Splits a number of units over a number of steps without losing any to rounding.
pub(super) struct Shares {
    units: u64,
    steps: u64,
    done: u64,
}

impl Shares {
    pub(super) fn new(units: u64, steps: u64) -> Self {
        Self {
            units,
            steps: steps.max(1),
            done: 0,
        }
    }

    /// Units of the steps before `step`; the next share is that of `step`.
    pub(super) fn upto(&mut self, step: u64) -> u64 {
        self.done = step;
        self.units * step / self.steps
    }

    fn next(&mut self) -> u64 {
        let before = self.units * self.done / self.steps;
        self.done += 1;
        self.units * self.done / self.steps - before
    }
}
