//! When a training is saved between two steps, and when it stops there.

use std::time::{Duration, Instant};

use anyhow::Result;
use kif_io::signal::{StopFlag, Stopped};

/// Why a training pauses; it is saved either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The last save is long ago.
    Time,
    /// A signal asks it to stop.
    Stop,
}

/// The pauses of a training.
pub(crate) struct Pause<'a> {
    stop: &'a StopFlag,
    save_every: Duration,
    last_save: Instant,
}

impl<'a> Pause<'a> {
    /// Pauses at least so often.
    pub(crate) fn new(stop: &'a StopFlag, save_every: Duration) -> Self {
        Self {
            stop,
            save_every,
            last_save: Instant::now(),
        }
    }

    /// Why to save now, if there is a reason. Asked once before every step.
    pub(crate) fn is_due(&self) -> Option<Reason> {
        if self.stop.is_raised() {
            return Some(Reason::Stop);
        }
        (self.last_save.elapsed() >= self.save_every).then_some(Reason::Time)
    }

    /// Notes that everything was saved; an error where the training is to stop.
    pub(crate) fn end(&mut self, reason: Reason) -> Result<()> {
        self.last_save = Instant::now();
        match reason {
            Reason::Time => Ok(()),
            Reason::Stop => Err(Stopped.into()),
        }
    }
}
