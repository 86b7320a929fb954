//! The weights of a directory, in one file or spread over several with an index.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::config::ModelConfig;
use super::gguf::{Gguf, is_gguf};
use super::header::MAX_HEADER;
use super::json::{parse_object, read_limited};
use super::weights::{WEIGHTS_FILE, Weights};
use crate::ModelError;

/// The file that says which shard holds which tensor.
pub const INDEX_FILE: &str = "model.safetensors.index.json";

impl Weights {
    /// Opens the weights of a Hugging Face directory: `model.safetensors`, else the shards of its
    /// index; or those of a GGUF file, under Hugging Face's names. Its quantised values are widened
    /// tensor by tensor, when they are asked for.
    pub fn read(dir: &Path) -> Result<Self, ModelError> {
        if is_gguf(dir) {
            return Self::of_gguf(&Gguf::open(dir)?);
        }
        let (single, index) = (dir.join(WEIGHTS_FILE), dir.join(INDEX_FILE));
        if !single.exists() && index.exists() {
            read_shards(dir, &index)
        } else {
            Self::read_file(&single)
        }
    }
}

/// Opens every shard that the index names; each must hold exactly the tensors that the index puts
/// there.
fn read_shards(dir: &Path, index: &Path) -> Result<Weights, ModelError> {
    let mut all = Weights {
        origin: index.to_owned(),
        tensors: BTreeMap::new(),
    };
    let place = shard_of(index)?;
    for name in shard_names(&place) {
        let path = dir.join(name);
        for (tensor, source) in Weights::read_file(&path)?.tensors {
            if place.get(&tensor).map(String::as_str) != Some(name) {
                let problem = format!("{tensor:?} is stored in {name}, the index says otherwise");
                return Err(ModelError::malformed(index, problem));
            }
            all.tensors.insert(tensor, source);
        }
    }
    match place
        .iter()
        .find(|(tensor, _)| !all.tensors.contains_key(*tensor))
    {
        None => Ok(all),
        Some((tensor, shard)) => Err(ModelError::malformed(
            index,
            format!("{tensor:?} is not in {shard}"),
        )),
    }
}

/// The index: tensor name to shard.
fn shard_of(index: &Path) -> Result<BTreeMap<String, String>, ModelError> {
    let bytes = read_limited(index, MAX_HEADER)?;
    let entries = parse_object::<serde_json::Value>(index, &bytes)?;
    let Some((_, map)) = entries.into_iter().find(|(key, _)| key == "weight_map") else {
        return Err(ModelError::malformed(index, "has no weight_map"));
    };
    let place: BTreeMap<String, String> = serde_json::from_value(map).map_err(|e| {
        ModelError::malformed(index, format!("weight_map: expected names of files: {e}"))
    })?;
    for shard in place.values() {
        let plain = Path::new(shard)
            .file_name()
            .is_some_and(|name| name == shard.as_str());
        if !plain || !shard.ends_with(".safetensors") {
            let problem = format!(
                "weight_map: {shard:?} is not the name of a safetensors file beside the index"
            );
            return Err(ModelError::malformed(index, problem));
        }
    }
    Ok(place)
}

fn shard_names(place: &BTreeMap<String, String>) -> BTreeSet<&str> {
    place.values().map(String::as_str).collect()
}

/// Every file that a model is read from: configurations, weights, and the tokenizer if there is
/// one; of a GGUF file itself.
pub fn model_files(dir: &Path) -> Result<Vec<PathBuf>, ModelError> {
    if is_gguf(dir) {
        return Ok(vec![dir.to_owned()]);
    }
    let (single, index) = (dir.join(WEIGHTS_FILE), dir.join(INDEX_FILE));
    let mut files = vec![dir.join("config.json")];
    if !single.exists() && index.exists() {
        let place = shard_of(&index)?;
        files.push(index);
        files.extend(shard_names(&place).into_iter().map(|name| dir.join(name)));
    } else {
        files.push(single);
    }
    let mut others = vec![dir.join("tokenizer.json")];
    // Both have end tokens, of decoder-only models alone.
    if ModelConfig::read(dir).is_ok_and(|config| config.is_decoder_only()) {
        others.insert(0, dir.join("generation_config.json"));
        others.push(dir.join("tokenizer_config.json"));
    }
    files.extend(others.into_iter().filter(|path| path.exists()));
    Ok(files)
}
