//! Parts of the flat parameter vector in a safetensors file of their own: what adapters, prompts and routers share on disk.

use std::path::Path;

use super::save::{Dtype, write_tensors};
use super::weights::Weights;
use crate::error::check_finite;
use crate::{ModelError, ParamLayout, ParamSpec};

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
pub(super) fn check_values(specs: &[&ParamSpec], params: &[f32]) -> Result<(), ModelError> {
    let check = |spec: &&ParamSpec| check_finite(&spec.name, &params[spec.range.clone()]);
    specs.iter().try_for_each(check)
}

/// Writes what `params`, `[P]`, has of `specs`, which are in the order of [`by_name`], in f32.
pub(super) fn write_params(
    path: &Path,
    specs: &[&ParamSpec],
    params: &[f32],
) -> Result<(), ModelError> {
    let tensors: Vec<(&str, &[usize])> =
        (specs.iter().map(|s| (s.name.as_str(), s.shape.as_slice()))).collect();
    // One after the other, in the order of the tensors.
    let mut values = specs.iter().map(|spec| params[spec.range.clone()].to_vec());
    write_tensors(path, &tensors, Dtype::F32, |_| {
        Ok(values.next().expect("a tensor for every spec"))
    })
}

/// Puts the tensors of a file into their places in `params`, `[P]`. They must be exactly those of `specs`: the error lists
/// every missing or unexpected name and every other shape.
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
