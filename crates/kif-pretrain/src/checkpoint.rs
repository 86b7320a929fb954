//! What a stopped run goes on from: one file, replaced as a whole.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use kif_io::atomic;
use kif_io::failure::{BadInput, OrBadInput};
use kif_methods::State;

use super::relative::RelativeAdamW;

/// Weights, moments and the step of a run.
pub struct Checkpoint {
    path: PathBuf,
    /// What the run is: configuration, corpus and tokenizer. A checkpoint of another run is
    /// refused.
    identity: blake3::Hash,
}

impl Checkpoint {
    /// The checkpoint of the run `identity` in `folder`; nothing is read or written yet.
    pub fn new(folder: &Path, identity: blake3::Hash) -> Self {
        Self {
            path: folder.join("checkpoint.safetensors"),
            identity,
        }
    }

    /// Saves the state after `step` steps.
    pub fn save(&self, step: u64, params: &[f32], optimizer: &RelativeAdamW) -> Result<()> {
        let mut state = State::default();
        state.put("params", params);
        state.put_counter("step", step);
        optimizer.save(&mut state);
        for (word, name) in self.identity_words() {
            state.put_counter(name, word);
        }
        atomic::write(&self.path, &state.to_bytes()?)
    }

    /// The step and weights of the saved state, its moments put into `optimizer`; none where
    /// nothing was saved.
    pub fn load(
        &self,
        n_params: usize,
        steps: u64,
        optimizer: &mut RelativeAdamW,
    ) -> Result<Option<(u64, Vec<f32>)>> {
        let bytes = match std::fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e).with_context(|| format!("reading {}", self.path.display())),
        };
        let reading = || format!("reading {}", self.path.display());
        let state = State::from_bytes(&bytes).or_bad_input(reading)?;
        for (word, name) in self.identity_words() {
            if state.counter(&name).or_bad_input(reading)? != word {
                let path = self.path.display();
                bail!(BadInput(format!(
                    "{path} is of another configuration, corpus or tokenizer; remove it to start anew"
                )));
            }
        }
        let step = state.counter_up_to("step", steps).or_bad_input(reading)?;
        let params = state
            .tensor("params", n_params)
            .or_bad_input(reading)?
            .to_vec();
        optimizer.load(&state).or_bad_input(reading)?;
        Ok(Some((step, params)))
    }

    /// Removes the file once the run is done.
    pub fn remove(&self) -> Result<()> {
        match std::fs::remove_file(&self.path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(e).with_context(|| format!("removing {}", self.path.display()))
            }
            _ => Ok(()),
        }
    }

    fn identity_words(&self) -> impl Iterator<Item = (u64, String)> {
        let words = self
            .identity
            .as_bytes()
            .as_chunks()
            .0
            .iter()
            .map(|bytes| u64::from_le_bytes(*bytes));
        words
            .zip((0..).map(|i| format!("identity.{i}")))
            .collect::<Vec<_>>()
            .into_iter()
    }
}
