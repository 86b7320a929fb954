//! Progress of a whole run, with the time that is left, on stderr: a bar on a terminal, plain lines
//! elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a plain line is written.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Work done so far, in units: one unit is a row that went through a training step.
///
/// Evaluation is counted in the same units by weights that the caller chooses, so the time left
/// follows from the share of units done.
pub struct Progress {
    bar: Option<ProgressBar>,
    total: u64,
    done: u64,
    /// Units that a resumed run found done; they took no time.
    skipped: u64,
    started: Instant,
    last_line: Instant,
    label: String,
}

impl Progress {
    /// A run of `total` units.
    pub fn new(total: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar =
                ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(4));
            let style = ProgressStyle::with_template("{bar:30} {percent:>3}% {msg}")
                .expect("the template is valid");
            bar.set_style(style.progress_chars("=> "));
            bar
        });
        let now = Instant::now();
        Self {
            bar,
            total,
            done: 0,
            skipped: 0,
            started: now,
            last_line: now,
            label: String::new(),
        }
    }

    /// No output at all.
    pub fn hidden() -> Self {
        let mut progress = Self::new(0);
        progress.bar = Some(ProgressBar::hidden());
        progress
    }

    /// What is being done now.
    pub fn label(&mut self, label: impl Into<String>) {
        self.label = label.into();
        self.show(false);
    }

    /// Adds finished units.
    pub fn advance(&mut self, units: u64) {
        self.done += units;
        self.show(false);
    }

    /// Adds units that were finished by an earlier process.
    pub fn skip(&mut self, units: u64) {
        self.done += units;
        self.skipped += units;
        self.show(false);
    }

    /// Time until all units are done, from the pace so far; none before there is a pace.
    pub fn time_left(&self) -> Option<Duration> {
        let (worked, left) = (
            self.done - self.skipped,
            self.total.saturating_sub(self.done),
        );
        (worked > 0).then(|| self.started.elapsed().mul_f64(left as f64 / worked as f64))
    }

    /// Writes a line that stays, above the bar.
    pub fn line(&mut self, text: &str) {
        match &self.bar {
            Some(bar) if bar.is_hidden() => {}
            Some(bar) => bar.println(text),
            // Nobody may be listening; progress is no reason to fail.
            None => drop(writeln!(std::io::stderr(), "{text}")),
        }
    }

    /// Ends the display.
    pub fn finish(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn show(&mut self, force: bool) {
        let message = || {
            let left = self
                .time_left()
                .map_or("time left unknown".into(), |t| format!("{} left", span(t)));
            format!("{}, {left}", self.label)
        };
        match &self.bar {
            Some(bar) if bar.is_hidden() => {}
            Some(bar) => {
                bar.set_position(self.done.min(self.total));
                bar.set_message(message());
            }
            None if force || self.last_line.elapsed() >= LINE_EVERY => {
                let share = 100.0 * self.done.min(self.total) as f64 / self.total.max(1) as f64;
                let line = format!("{share:3.0}% {}", message());
                drop(writeln!(std::io::stderr(), "{line}"));
                self.last_line = Instant::now();
            }
            None => {}
        }
    }
}

/// A duration as people say it: `42 s`, `3 min 5 s`, `2 h 10 min`.
pub fn span(time: Duration) -> String {
    let s = time.as_secs();
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        _ => format!("{} h {} min", s / 3600, s % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_naturally() {
        let spans = [42, 185, 7800].map(|s| span(Duration::from_secs(s)));
        assert_eq!(spans, ["42 s", "3 min 5 s", "2 h 10 min"]);
    }

    #[test]
    fn skipped_units_do_not_count_as_pace() {
        let mut progress = Progress::hidden();
        progress.total = 100;
        progress.skip(50);
        assert_eq!(progress.time_left(), None);
        progress.advance(25);
        assert!(progress.time_left().unwrap() <= progress.started.elapsed());
    }
}
