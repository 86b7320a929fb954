//! Stopping on SIGINT and SIGTERM: a flag that every loop polls.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};

/// Asks whether to stop. Clones share the flag.
#[derive(Clone, Debug, Default)]
pub struct StopFlag {
    raised: Arc<AtomicBool>,
    /// Polls left until the flag raises itself; 0 is never. For tests that stop a run at an exact
    /// place.
    countdown: Arc<AtomicU64>,
}

/// A command that was stopped by a signal, after saving what it saves.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("stopped by a signal; the same command goes on from what is saved")]
pub struct Stopped;

impl StopFlag {
    /// A flag that the first SIGINT or SIGTERM raises; the second one ends the process at once,
    /// with the shell's code for it (128 and its number): what has been done since the last save is
    /// lost.
    pub fn on_signals() -> std::io::Result<Self> {
        let flag = Self::default();
        for signal in [SIGINT, SIGTERM] {
            // In this order: the first signal finds the flag down and only raises it.
            signal_hook::flag::register_conditional_shutdown(
                signal,
                128 + signal,
                Arc::clone(&flag.raised),
            )?;
            signal_hook::flag::register(signal, Arc::clone(&flag.raised))?;
        }
        Ok(flag)
    }

    /// A flag that raises itself at the `polls`-th poll from now (1 is the next one).
    pub fn after_polls(polls: u64) -> Self {
        let flag = Self::default();
        flag.raise_after_polls(polls);
        flag
    }

    /// Lets this flag raise itself at the `polls`-th poll from now.
    pub fn raise_after_polls(&self, polls: u64) {
        self.countdown.store(polls, Ordering::Relaxed);
    }

    /// Raises the flag.
    pub fn raise(&self) {
        self.raised.store(true, Ordering::Relaxed);
    }

    /// Whether to stop now.
    pub fn is_raised(&self) -> bool {
        if self.countdown.load(Ordering::Relaxed) > 0
            && self.countdown.fetch_sub(1, Ordering::Relaxed) == 1
        {
            self.raise();
        }
        self.raised.load(Ordering::Relaxed)
    }

    /// An error once the flag is up.
    pub fn check(&self) -> Result<(), Stopped> {
        if self.is_raised() {
            Err(Stopped)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_raises_itself_at_the_chosen_poll() {
        let flag = StopFlag::after_polls(3);
        assert_eq!(
            [
                flag.is_raised(),
                flag.is_raised(),
                flag.is_raised(),
                flag.is_raised()
            ],
            [false, false, true, true]
        );
    }
}
