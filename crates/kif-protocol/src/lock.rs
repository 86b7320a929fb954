//! What a run was made of, so that it is never continued with something else.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use kif_io::failure::BadInput;
use kif_io::hash::hash_of;
use serde::{Deserialize, Serialize};

use crate::{Compute, EvaluationSettings, Protocol, TemplateSetting};

/// The content of `lock.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// The program.
    pub program: Program,
    /// What it computes on.
    pub compute: Compute,
    /// blake3 of every data file, by its path inside the data folder.
    pub data: BTreeMap<String, String>,
    /// blake3 of every file of the base, tokenizer included, by its path inside the model folder.
    pub model: BTreeMap<String, String>,
    /// Every setting that results depend on, as RON; methods, orders and seeds are not among them,
    /// since a run may grow.
    pub settings: BTreeMap<String, String>,
}

/// A program by its version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// Version of the package.
    pub version: String,
    /// Commit that it was built from, or `unknown`.
    pub git_commit: String,
    /// [`ARITHMETIC`] of the program.
    #[serde(default = "first_arithmetic")]
    pub arithmetic: u32,
}

/// Raised by every change that gives a result other bits, so that cells of two programs do not mix.
pub const ARITHMETIC: u32 = 1;

/// That of programs from before there was a number.
fn first_arithmetic() -> u32 {
    1
}

impl Program {
    /// This program.
    pub fn this() -> Self {
        let commit = std::env::var("KIF_GIT_COMMIT")
            .ok()
            .or_else(|| option_env!("KIF_GIT_COMMIT").map(str::to_owned));
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            git_commit: commit
                .filter(|c| !c.is_empty())
                .unwrap_or_else(|| "unknown".to_owned()),
            arithmetic: ARITHMETIC,
        }
    }
}

/// A run that was made of something else.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct LockChanged {
    /// The run's directory.
    pub run: PathBuf,
    /// What differs.
    pub differences: Vec<Difference>,
}

/// One thing that differs between a run and what it would be continued with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// What it is.
    pub what: String,
    /// As the run has it.
    pub was: Option<String>,
    /// As it would be now.
    pub now: Option<String>,
}

impl fmt::Display for LockChanged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "run {} was made of something else; use another --out, or remove it:",
            self.run.display()
        )?;
        for Difference { what, was, now } in &self.differences {
            let text =
                |side: &Option<String>| side.clone().unwrap_or_else(|| "not there".to_owned());
            write!(f, "\n  {what}: was {}, is {}", text(was), text(now))?;
        }
        Ok(())
    }
}

impl Lock {
    /// Reads all files and notes what they are.
    pub fn new(protocol: &Protocol, data: &Inventory, model: &Inventory) -> Result<Self> {
        Ok(Self {
            program: Program::this(),
            compute: protocol.compute,
            data: data.hashes()?,
            model: model.hashes()?,
            settings: settings(protocol),
        })
    }

    /// The lock of a run, if it has one.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        let lock = serde_json::from_str(&text)
            .map_err(|e| BadInput(format!("{}: {e}", path.display())))?;
        Ok(Some(lock))
    }

    /// What differs from `now` in a way that results depend on. Threads, recomputation and the
    /// commit are only noted.
    pub fn differences(&self, now: &Self) -> Vec<Difference> {
        let mut all = Vec::new();
        let mut compare = |what: String, was: Option<String>, now: Option<String>| {
            if was != now {
                all.push(Difference { what, was, now });
            }
        };
        let one = |lock: &Lock| {
            let Compute {
                device, precision, ..
            } = lock.compute;
            (
                device.name(),
                precision.name(),
                lock.program.version.clone(),
            )
        };
        let ((device, precision, version), (device_now, precision_now, version_now)) =
            (one(self), one(now));
        compare("program version".into(), Some(version), Some(version_now));
        compare(
            "arithmetic".into(),
            Some(self.program.arithmetic.to_string()),
            Some(now.program.arithmetic.to_string()),
        );
        compare(
            "device".into(),
            Some(device.into()),
            Some(device_now.into()),
        );
        compare(
            "precision".into(),
            Some(precision.into()),
            Some(precision_now.into()),
        );
        // A run that grows by an order may read more data: only files that both know are compared.
        // A base has the same files, whatever is run on it.
        for (name, hash) in &self.data {
            if let Some(hash_now) = now.data.get(name) {
                let what = format!("data file {name}");
                compare(what, Some(hash.clone()), Some(hash_now.clone()));
            }
        }
        let names: BTreeSet<&String> = self.model.keys().chain(now.model.keys()).collect();
        for name in names {
            let (was, is) = (self.model.get(name), now.model.get(name));
            compare(format!("model file {name}"), was.cloned(), is.cloned());
        }
        for name in self.settings.keys().chain(
            now.settings
                .keys()
                .filter(|k| !self.settings.contains_key(*k)),
        ) {
            let (was, is) = (self.settings.get(name), now.settings.get(name));
            // Methods may be added; those that both know must agree.
            if name.starts_with("method ") && (was.is_none() || is.is_none()) {
                continue;
            }
            // A base in a folder, or a lock from before there were two others: the files tell them
            // apart.
            if name == EMBEDDED_BASE && (was.is_none() || is.is_none()) {
                continue;
            }
            compare(name.clone(), was.cloned(), is.cloned());
        }
        all
    }

    /// This lock with what only `earlier` knows: data of other orders and settings of other
    /// methods.
    pub fn merged_with(mut self, earlier: Self) -> Self {
        let keep = |mine: &mut BTreeMap<String, String>, theirs: BTreeMap<String, String>| {
            for (name, value) in theirs {
                mine.entry(name).or_insert(value);
            }
        };
        keep(&mut self.data, earlier.data);
        keep(&mut self.settings, earlier.settings);
        self
    }
}

/// Files that belong together, by their path inside a root.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    root: PathBuf,
    files: Vec<PathBuf>,
}

impl Inventory {
    /// `files` lie under `root`.
    pub fn new(root: &Path, files: Vec<PathBuf>) -> Self {
        Self {
            root: root.to_owned(),
            files,
        }
    }

    fn hashes(&self) -> Result<BTreeMap<String, String>> {
        let mut hashes = BTreeMap::new();
        for path in &self.files {
            let name = path.strip_prefix(&self.root).unwrap_or(path);
            hashes.insert(name.to_string_lossy().replace('\\', "/"), hash_of(path)?);
        }
        Ok(hashes)
    }
}

/// The setting that says which of the bases inside the program it is.
const EMBEDDED_BASE: &str = "embedded base";

/// Settings that results depend on, by name.
fn settings(protocol: &Protocol) -> BTreeMap<String, String> {
    fn text(value: &impl Serialize) -> String {
        ron::to_string(value).expect("settings have nothing that RON lacks")
    }
    let p = protocol;
    let mut all = BTreeMap::from([
        ("stream".to_owned(), text(&p.stream)),
        ("training".to_owned(), text(&p.training)),
        ("adapter".to_owned(), text(&p.adapter)),
        ("memory".to_owned(), text(&p.memory)),
        ("limits".to_owned(), text(&p.limits)),
    ]);
    if let Some(arch) = p.embedded_base() {
        all.insert(EMBEDDED_BASE.to_owned(), arch.to_string());
    }
    // Runs from before there were templates have plain prompts.
    if p.template != TemplateSetting::Plain {
        all.insert("template".to_owned(), text(&p.template));
    }
    // Batches of an evaluation change nothing but its speed.
    let evaluation = EvaluationSettings {
        batch_tokens: 0,
        ..p.evaluation.clone()
    };
    all.insert("evaluation".to_owned(), text(&evaluation));
    for name in &p.methods {
        if let Some(config) = p.method(name) {
            let lr = p.lr_of.get(name).map(|lr| format!(", lr {lr}"));
            let settings = text(&config) + &lr.unwrap_or_default();
            all.insert(format!("method {name}"), settings);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Precision;

    #[test]
    fn results_that_cannot_change_are_not_compared() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.json");
        std::fs::write(&file, "[]").unwrap();
        let inventory = Inventory::new(folder.path(), vec![file.clone()]);
        let mut protocol = Protocol::load("quick").unwrap();
        let lock = |p: &Protocol| Lock::new(p, &inventory, &Inventory::default()).unwrap();
        let was = lock(&protocol);
        protocol.compute.threads = Some(7);
        protocol.seeds.push(99);
        protocol.methods.pop();
        protocol.methods.push("halve".into());
        assert_eq!(was.differences(&lock(&protocol)), []);
        protocol.lr_of.insert("seq_lora".into(), 0.5);
        assert_eq!(was.differences(&lock(&protocol))[0].what, "method seq_lora");
        protocol.lr_of.clear();
        protocol.training.lr = 0.5;
        protocol.compute.precision = Precision::Bf16;
        std::fs::write(&file, "[1]").unwrap();
        let changed: Vec<String> = was
            .differences(&lock(&protocol))
            .into_iter()
            .map(|d| d.what)
            .collect();
        assert_eq!(changed, ["precision", "data file a.json", "training"]);
    }

    #[test]
    fn a_run_of_another_arithmetic_is_not_continued() {
        let protocol = Protocol::load("quick").unwrap();
        let nothing = Inventory::default();
        let mut lock = Lock::new(&protocol, &nothing, &nothing).unwrap();
        let now = lock.clone();
        lock.program.arithmetic = 0;
        assert_eq!(lock.differences(&now)[0].what, "arithmetic");
        let mut text = serde_json::to_value(&now).unwrap();
        text["program"]
            .as_object_mut()
            .unwrap()
            .remove("arithmetic");
        let old: Lock = serde_json::from_value(text).unwrap();
        assert_eq!(old.program.arithmetic, 1);
    }

    #[test]
    fn a_base_in_one_file_is_not_continued_with_another() {
        let folder = tempfile::tempdir().unwrap();
        let protocol = Protocol::load("quick").unwrap();
        let lock = |name: &str| {
            let file = folder.path().join(name);
            std::fs::write(&file, name).unwrap();
            let model = Inventory::new(folder.path(), vec![file]);
            Lock::new(&protocol, &Inventory::default(), &model).unwrap()
        };
        let (was, now) = (lock("a.gguf"), lock("b.gguf"));
        let changed = was.differences(&now).into_iter().map(|d| d.what);
        let changed: Vec<String> = changed.collect();
        assert_eq!(changed, ["model file a.gguf", "model file b.gguf"]);
        assert_eq!(was.differences(&was), []);
        assert_eq!(was.clone().merged_with(now), was);
    }
}
