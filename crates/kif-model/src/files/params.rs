//! Parts of the flat parameter vector in a safetensors file of their own: what adapters, prompts
//! and routers share on disk.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::atomic::{create_folder, write_atomic};
use super::json::read_limited;
use super::save::{Dtype, write_tensors};
use super::weights::Weights;
use crate::error::check_finite;
use crate::{ModelError, ParamLayout, ParamSpec};

/// The file of the settings of soft prompts.
pub const PROMPTS_CONFIG_FILE: &str = "prompts.json";
/// The file of the settings of adapters with a router.
pub const ROUTING_CONFIG_FILE: &str = "routing.json";

/// The format of settings of our own that is written.
pub(super) const FORMAT: u64 = 1;
/// Largest file of such settings that is read.
const MAX_BYTES: u64 = 1 << 20;

/// Refuses a vector of another length than the layout's.
pub(super) fn check_count(layout: &ParamLayout, params: &[f32]) -> Result<(), ModelError> {
    if params.len() == layout.n_params() {
        return Ok(());
    }
    Err(ModelError::ParamCount {
        got: params.len(),
        expected: layout.n_params(),
    })
}

/// The parameters of a layout that are `wanted`, by name: the order of files and messages.
pub(super) fn by_name(
    layout: &ParamLayout,
    wanted: impl Fn(&ParamSpec) -> bool,
) -> Vec<&ParamSpec> {
    let mut specs: Vec<_> = layout.specs().iter().filter(|spec| wanted(spec)).collect();
    specs.sort_by(|a, b| a.name.cmp(&b.name));
    specs
}

/// Refuses values of `specs` that are not finite, by name.
fn check_values(specs: &[&ParamSpec], params: &[f32]) -> Result<(), ModelError> {
    let check = |spec: &&ParamSpec| check_finite(&spec.name, &params[spec.range.clone()]);
    specs.iter().try_for_each(check)
}

/// Writes what `params`, `[P]`, has of `specs`, which are in the order of [`by_name`], to the file
/// `values` of a folder, and then the `settings`, a file and its text: a folder that has them is
/// complete. Refuses values that are not finite.
pub(super) fn write_with_settings(
    dir: &Path,
    values: &str,
    specs: &[&ParamSpec],
    params: &[f32],
    settings: (&str, &str),
) -> Result<(), ModelError> {
    check_values(specs, params)?;
    create_folder(dir)?;
    write_params(&dir.join(values), specs, params)?;
    let (file, text) = settings;
    write_atomic(&dir.join(file), text.as_bytes())
}

/// The name of the base as settings have it, where there is one.
pub(super) fn known_base(name: &str) -> Option<String> {
    Some(name.to_owned()).filter(|name| !name.is_empty())
}

/// The text of settings.
pub(super) fn settings_text(settings: &impl Serialize) -> String {
    let text = serde_json::to_string_pretty(settings).expect("numbers and names are JSON");
    format!("{text}\n")
}

/// Reads settings, of which `format_of` says which format they have.
pub(super) fn read_settings<T: DeserializeOwned>(
    path: &Path,
    format_of: impl Fn(&T) -> u64,
) -> Result<T, ModelError> {
    let malformed = |problem: String| ModelError::malformed(path, problem);
    let bytes = read_limited(path, MAX_BYTES)?;
    let settings: T =
        serde_json::from_slice(&bytes).map_err(|error| malformed(error.to_string()))?;
    match format_of(&settings) {
        FORMAT => Ok(settings),
        format => Err(malformed(format!("format {format}, expected {FORMAT}"))),
    }
}

/// In f32.
fn write_params(path: &Path, specs: &[&ParamSpec], params: &[f32]) -> Result<(), ModelError> {
    let tensors: Vec<(&str, &[usize])> =
        (specs.iter().map(|s| (s.name.as_str(), s.shape.as_slice()))).collect();
    // One after the other, in the order of the tensors.
    let mut values = specs.iter().map(|spec| params[spec.range.clone()].to_vec());
    write_tensors(path, &tensors, Dtype::F32, |_| {
        Ok(values.next().expect("a tensor for every spec"))
    })
}

/// Puts the tensors of a file into their places in `params`, `[P]`. They must be exactly those of
/// `specs`: the error lists every missing or unexpected name and every other shape.
pub(super) fn read_params(
    mut weights: Weights,
    specs: &[&ParamSpec],
    params: &mut [f32],
) -> Result<(), ModelError> {
    let expected = specs.iter().map(|s| (s.name.clone(), s.shape.clone()));
    weights.expect(&expected.collect::<Vec<_>>(), &[])?;
    for spec in specs {
        params[spec.range.clone()].copy_from_slice(&weights.take(&spec.name)?);
    }
    Ok(())
}
