//! How a command ends, and the failures that are the input's.

/// A command's end as the shell sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All done.
    Done = 0,
    /// A failure of none of the kinds below, such as a full disk.
    Other = 1,
    /// Bad input or configuration.
    BadInput = 2,
    /// Training diverged.
    Diverged = 3,
    /// Stopped by a signal, with everything saved.
    Stopped = 75,
}

/// Input that cannot be used, or what was being read when it turned out so.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadInput(pub String);

/// Marks failures as the input's.
pub trait OrBadInput<T> {
    /// Adds what was being done; the command will end with the exit code of bad input.
    fn or_bad_input(self, doing: impl FnOnce() -> String) -> anyhow::Result<T>;
}

impl<T, E> OrBadInput<T> for Result<T, E>
where
    Result<T, E>: anyhow::Context<T, E>,
{
    fn or_bad_input(self, doing: impl FnOnce() -> String) -> anyhow::Result<T> {
        anyhow::Context::with_context(self, || BadInput(doing()))
    }
}
