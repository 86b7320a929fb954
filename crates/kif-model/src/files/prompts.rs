//! Soft prompts on disk: `prompts.safetensors` and `prompts.json`.
//!
//! No PEFT directory: PEFT's prompt tuning knows one prompt for all texts, but no pool and no
//! several prompts of which the caller chooses, and must not take the one for the other.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::params::{
    FORMAT, PROMPTS_CONFIG_FILE, by_name, check_count, known_base, read_params, read_settings,
    settings_text, write_with_settings,
};
use super::weights::Weights;
use crate::{ModelError, ParamLayout, PromptConfig};

/// The file of the values: `prompts`, `[n_prompts, length, D]`, and `prompt_keys`,
/// `[n_prompts, D]`, of a pool.
pub const PROMPTS_FILE: &str = "prompts.safetensors";

/// Soft prompts as they are stored.
#[derive(Clone, Debug)]
pub struct StoredPrompts {
    /// Number, length, selection.
    pub config: PromptConfig,
    /// The prompts that take part, in order.
    pub active: Vec<usize>,
    /// The base that they were trained on, as the file says.
    pub base_model: Option<String>,
    weights: Weights,
}

/// The content of `prompts.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    format: u64,
    base_model_name_or_path: Option<String>,
    prompts: PromptConfig,
    active: Vec<usize>,
}

impl StoredPrompts {
    /// Reads a directory that [`write`](Self::write) made. Values are f32, f16 or bf16 and must be
    /// finite; whether they are those of a model is seen in [`into_params`](Self::into_params).
    pub fn read(dir: &Path) -> Result<Self, ModelError> {
        let path: PathBuf = dir.join(PROMPTS_CONFIG_FILE);
        let settings = read_settings(&path, |settings: &Settings| settings.format)?;
        settings
            .prompts
            .validate()
            .map_err(|error| ModelError::malformed(&path, error.to_string()))?;
        Ok(Self {
            config: settings.prompts,
            active: settings.active,
            base_model: settings.base_model_name_or_path,
            weights: Weights::read_file(&dir.join(PROMPTS_FILE))?,
        })
    }

    /// The flat parameter vector, `[P]`: exactly the tensors of `layout`; the error lists every
    /// missing or unexpected name and every other shape.
    pub fn into_params(self, layout: &ParamLayout) -> Result<Vec<f32>, ModelError> {
        let mut params = vec![0.0; layout.n_params()];
        read_params(self.weights, &by_name(layout, |_| true), &mut params)?;
        Ok(params)
    }

    /// Writes `params`, `[P]`, in f32. `base_model_name` may be empty. The settings are written
    /// last: a folder that has them is complete.
    pub fn write(
        dir: &Path,
        config: &PromptConfig,
        active: &[usize],
        layout: &ParamLayout,
        params: &[f32],
        base_model_name: &str,
    ) -> Result<(), ModelError> {
        config.validate()?;
        check_count(layout, params)?;
        let text = settings_text(&Settings {
            format: FORMAT,
            base_model_name_or_path: known_base(base_model_name),
            prompts: *config,
            active: active.to_vec(),
        });
        let specs = by_name(layout, |_| true);
        let settings = (PROMPTS_CONFIG_FILE, text.as_str());
        write_with_settings(dir, PROMPTS_FILE, &specs, params, settings)
    }
}
