//! How a command ends: which failures are the input's, which the training's, and the exit codes for them.

use kif_data::DataError;
use kif_model::ModelError;

use crate::error::{NonFinite, SettingError};
use crate::lock::LockChanged;
use crate::protocol::ProtocolError;
use crate::signal::Stopped;

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

/// The exit code of a failure.
pub fn exit_of(error: &anyhow::Error) -> Exit {
    let has = |test: fn(&(dyn std::error::Error + 'static)) -> bool| error.chain().any(test);
    if has(|e| e.is::<Stopped>()) {
        return Exit::Stopped;
    }
    if has(|e| e.is::<NonFinite>()) {
        return Exit::Diverged;
    }
    let marked = error.downcast_ref::<BadInput>().is_some();
    if marked || has(|e| e.is::<DataError>() || e.is::<ProtocolError>() || e.is::<LockChanged>()) {
        return Exit::BadInput;
    }
    if has(|e| e.is::<SettingError>()) {
        return Exit::BadInput;
    }
    match error.chain().find_map(|e| e.downcast_ref::<ModelError>()) {
        // Loading is marked as input, so this number was computed.
        Some(ModelError::NonFinite { .. }) => Exit::Diverged,
        Some(
            ModelError::Io { .. }
            | ModelError::Device(_)
            | ModelError::OutOfDeviceMemory
            | ModelError::ParamCount { .. },
        )
        | None => Exit::Other,
        Some(_) => Exit::BadInput,
    }
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    use super::*;

    #[test]
    fn the_kind_of_failure_decides_wherever_it_stands_in_the_chain() {
        let wrapped = |e: anyhow::Error| exit_of(&e.context("running cell x").context("benchmark"));
        assert_eq!(wrapped(Stopped.into()), Exit::Stopped);
        assert_eq!(
            wrapped(BadInput("no such file".into()).into()),
            Exit::BadInput
        );
        assert_eq!(wrapped(anyhow!("disk full")), Exit::Other);
        let nan = || ModelError::NonFinite {
            name: "shared.weight".into(),
            index: 3,
            value: f32::NAN,
        };
        assert_eq!(wrapped(nan().into()), Exit::Diverged);
        let loading = Err::<(), _>(nan())
            .or_bad_input(|| "loading model m".into())
            .unwrap_err();
        assert_eq!(wrapped(loading), Exit::BadInput);
        let plain = Err::<(), _>(std::io::Error::other("x"))
            .context("writing")
            .unwrap_err();
        assert_eq!(wrapped(plain), Exit::Other);
    }
}
