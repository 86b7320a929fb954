//! The exit code of a failure: the input's, the training's, a signal's, or another.

use kif_data::DataError;
use kif_io::failure::{BadInput, Exit};
use kif_io::signal::Stopped;
use kif_methods::{NonFinite, SettingError, TooManyTasks};
use kif_model::ModelError;
use kif_protocol::ProtocolError;
use kif_protocol::lock::LockChanged;

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
    if has(|e| e.is::<SettingError>() || e.is::<TooManyTasks>()) {
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
    use kif_io::failure::OrBadInput;

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
