//! Whole runs for the tests, and what two equal ones share.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::kit::{arg, files, succeed};

pub(crate) fn bench(protocol: &Path, out: &Path, more: &[&str]) -> String {
    succeed(&[&["bench", arg(protocol), "--out", arg(out)], more].concat())
}

/// A record without what differs between two runs.
pub(crate) fn record(path: &Path) -> Value {
    let mut record: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    record.as_object_mut().unwrap().remove("timing").unwrap();
    record
}

/// All bits that two equal runs must share, by file name.
pub(crate) fn bits(out: &Path) -> Vec<(PathBuf, String)> {
    let keep = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        let content = match name {
            "record.json" => record(path).to_string(),
            "adapter_model.safetensors" => blake3_of(path),
            _ => return None,
        };
        Some((path.strip_prefix(out).unwrap().to_owned(), content))
    };
    files(out).iter().filter_map(keep).collect()
}

pub(crate) fn blake3_of(path: &Path) -> String {
    kif_io::hash::hash_of(path).unwrap()
}
