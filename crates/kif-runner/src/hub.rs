//! Models by the names that they have on the Hugging Face hub: found in the hub's cache on this
//! machine, never over the network.
//!
//! The cache has a folder `models--ORG--NAME` for each, in which `refs/REVISION` holds a commit,
//! and `snapshots/COMMIT` the files.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use kif_io::failure::BadInput;

/// The largest file of `refs` that is read, in bytes: a commit has 40.
const MAX_REF: u64 = 256;

/// A model on the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
struct HubName {
    /// `ORG/NAME`.
    name: String,
    /// A branch, a tag or a commit.
    revision: Option<String>,
}

/// Where a model is: `given` itself if something is there or it is no name that the hub could have;
/// else the folder in the hub's cache, or the only GGUF file in it. A model that is in neither
/// place, or only in part, is an error with the command that downloads it, and a folder without
/// `config.json` is no model.
pub fn resolve(given: &Path) -> Result<PathBuf> {
    resolve_in(
        given,
        cache_folder(|name| std::env::var_os(name)).as_deref(),
    )
}

/// What an adapter calls its base: what was given, of a model on the hub its name without revision,
/// by which PEFT finds it, too.
pub fn base_name(given: &Path) -> String {
    match HubName::of(given) {
        Some(hub) if !given.exists() => hub.name,
        _ => given.display().to_string(),
    }
}

fn resolve_in(given: &Path, cache: Option<&Path>) -> Result<PathBuf> {
    let Some(hub) = HubName::of(given).filter(|_| !given.exists()) else {
        if given.is_dir() && !given.join("config.json").exists() {
            bail!(BadInput(format!(
                "model {}: has {}",
                given.display(),
                match &files_called(given, "gguf")[..] {
                    [] =>
                        "no config.json, expected a Hugging Face directory, a GGUF file or org/name"
                            .to_owned(),
                    several => name_one(several),
                }
            )));
        }
        return Ok(given.to_owned());
    };
    if let Some(found) = cache.and_then(|cache| hub.snapshot(cache)) {
        return hub.model_in(found, given);
    }
    let place = match cache {
        Some(cache) => format!("in the hub's cache {}", cache.display()),
        None => "in a cache of the hub, of which there is none".to_owned(),
    };
    bail!(BadInput(format!(
        "model {}: neither a folder or file nor {place}; this downloads it: {}",
        given.display(),
        hub.download()
    )))
}

/// The hub's cache as its own programs look for it.
fn cache_folder(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |name: &str| {
        variable(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    set("HF_HUB_CACHE")
        .or_else(|| set("HUGGINGFACE_HUB_CACHE"))
        .or_else(|| Some(set("HF_HOME")?.join("hub")))
        .or_else(|| Some(set("XDG_CACHE_HOME")?.join("huggingface/hub")))
        .or_else(|| Some(set("HOME")?.join(".cache/huggingface/hub")))
}

/// The files of a folder with this extension, in order; links that lead nowhere are none.
fn files_called(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut files: Vec<PathBuf> = paths
        .filter(|path| path.extension().is_some_and(|e| e == extension) && path.is_file())
        .collect();
    files.sort();
    files
}

/// What is said of GGUF files of which none was named.
fn name_one(files: &[PathBuf]) -> String {
    let names = files.iter().filter_map(|path| path.file_name());
    let names: Vec<_> = names.map(|name| name.to_string_lossy()).collect();
    let which = if names.len() == 1 { "it" } else { "one" };
    format!("{}: name {which} by its path", names.join(", "))
}

impl HubName {
    /// `ORG/NAME` or `ORG/NAME@REVISION`.
    fn of(given: &Path) -> Option<Self> {
        let given = given.to_str()?;
        let (name, revision) = match given.split_once('@') {
            Some((name, revision)) => (name, Some(revision)),
            None => (given, None),
        };
        let is_word = |word: &str| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
            word.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
                && word.len() <= 96
                && word.chars().all(allowed)
                && !word.contains("..")
                && !word.contains("--")
        };
        let (org, model) = name.split_once('/')?;
        let is_name = is_word(org) && is_word(model);
        let is_revision = |revision: &str| revision.split('/').all(is_word);
        (is_name && revision.is_none_or(is_revision)).then(|| Self {
            name: name.to_owned(),
            revision: revision.map(str::to_owned),
        })
    }

    /// The command that downloads it.
    fn download(&self) -> String {
        let revision = self.revision.as_ref();
        let revision = revision.map(|revision| format!(" --revision {revision}"));
        format!("hf download {}{}", self.name, revision.unwrap_or_default())
    }

    /// The model in its snapshot, which may hold only some of the files.
    fn model_in(&self, snapshot: PathBuf, given: &Path) -> Result<PathBuf> {
        let is_there = |name: &str| snapshot.join(name).is_file();
        let missing = if !is_there("config.json") {
            match &files_called(&snapshot, "gguf")[..] {
                [] => "config.json",
                [only] => return Ok(only.clone()),
                several => bail!(BadInput(format!(
                    "model {}: {} has {}",
                    given.display(),
                    snapshot.display(),
                    name_one(several)
                ))),
            }
        } else if is_there("model.safetensors") || is_there("model.safetensors.index.json") {
            return Ok(snapshot);
        } else {
            "model.safetensors"
        };
        bail!(BadInput(format!(
            "model {}: {} is incomplete, it has no {missing}; this downloads the rest: {}",
            given.display(),
            snapshot.display(),
            self.download()
        )))
    }

    /// The folder of its files in a cache, if there is one.
    fn snapshot(&self, cache: &Path) -> Option<PathBuf> {
        let folder = cache.join(format!("models--{}", self.name.replace('/', "--")));
        let revision = self.revision.as_deref().unwrap_or("main");
        let commit = read_ref(&folder.join("refs").join(revision));
        // A commit may be named itself.
        let commit = commit.unwrap_or_else(|| revision.to_owned());
        let is_commit = commit.bytes().all(|byte| byte.is_ascii_hexdigit());
        let snapshot = folder.join("snapshots").join(&commit);
        (is_commit && !commit.is_empty() && snapshot.is_dir()).then_some(snapshot)
    }
}

/// The commit that a file of `refs` holds.
fn read_ref(path: &Path) -> Option<String> {
    let length = std::fs::metadata(path).ok()?.len();
    let text = (length <= MAX_REF).then(|| std::fs::read_to_string(path).ok())??;
    Some(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn write_all(folder: &Path, names: &[&str]) {
        for name in names {
            fs::write(folder.join(name), "{}").unwrap();
        }
    }

    /// A cache with one model, whose `main` and tag `v1.0` are the commit above.
    fn cache() -> tempfile::TempDir {
        let cache = tempfile::tempdir().unwrap();
        let model = cache.path().join("models--org--some.model_1");
        fs::create_dir_all(model.join("snapshots").join(COMMIT)).unwrap();
        fs::create_dir_all(model.join("refs/pr")).unwrap();
        for name in ["main", "v1.0", "pr/2"] {
            fs::write(model.join("refs").join(name), format!("{COMMIT}\n")).unwrap();
        }
        fs::write(model.join("refs/odd"), "../../elsewhere").unwrap();
        cache
    }

    fn resolved(given: &str, cache: &Path) -> Result<PathBuf, String> {
        resolve_in(Path::new(given), Some(cache)).map_err(|error| error.to_string())
    }

    #[test]
    fn names_lead_to_the_snapshot_of_their_revision() {
        let cache = cache();
        let snapshot = cache
            .path()
            .join("models--org--some.model_1/snapshots")
            .join(COMMIT);
        write_all(&snapshot, &["config.json", "model.safetensors"]);
        for revision in ["", "@main", "@v1.0", "@pr/2", &format!("@{COMMIT}")] {
            let given = format!("org/some.model_1{revision}");
            assert_eq!(
                resolved(&given, cache.path()),
                Ok(snapshot.clone()),
                "{given}"
            );
        }
        write_all(&snapshot, &["model-q8.gguf"]);
        assert_eq!(
            resolved("org/some.model_1", cache.path()),
            Ok(snapshot.clone())
        );
        fs::remove_file(snapshot.join("config.json")).unwrap();
        let only = snapshot.join("model-q8.gguf");
        assert_eq!(resolved("org/some.model_1", cache.path()), Ok(only));
    }

    #[test]
    fn a_snapshot_that_is_incomplete_or_has_several_files_says_so() {
        let cache = cache();
        let model = cache.path().join("models--org--some.model_1/snapshots");
        let snapshot = model.join(COMMIT);
        let said = |given: &str| resolved(given, cache.path()).unwrap_err();
        let error = said("org/some.model_1@v1.0");
        let end = "is incomplete, it has no config.json; this downloads the rest: \
                   hf download org/some.model_1 --revision v1.0";
        assert!(error.ends_with(end), "{error}");
        write_all(&snapshot, &["b.gguf", "a.gguf"]);
        let error = said("org/some.model_1");
        let end = "has a.gguf, b.gguf: name one by its path";
        assert!(error.ends_with(end), "{error}");
        write_all(&snapshot, &["config.json"]);
        let error = said("org/some.model_1");
        assert!(error.contains("it has no model.safetensors;"), "{error}");
    }

    #[test]
    fn a_folder_without_a_configuration_is_no_model() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let given = at.display().to_string();
        let said = format!(
            "model {given}: has no config.json, expected a Hugging Face directory, a GGUF file or \
             org/name"
        );
        assert_eq!(resolved(&given, at), Err(said));
        write_all(at, &["a.gguf"]);
        let said = format!("model {given}: has a.gguf: name it by its path");
        assert_eq!(resolved(&given, at), Err(said));
        write_all(at, &["config.json"]);
        assert_eq!(resolved(&given, at), Ok(at.to_owned()));
    }

    #[test]
    fn what_is_not_there_is_an_error_with_the_command_that_brings_it() {
        let cache = cache();
        for (given, command) in [
            ("org/other", "hf download org/other"),
            ("org/other@v2", "hf download org/other --revision v2"),
            (
                "org/some.model_1@odd",
                "hf download org/some.model_1 --revision odd",
            ),
        ] {
            let error = resolved(given, cache.path()).unwrap_err();
            assert!(error.ends_with(command), "{error}");
            assert!(
                error.contains(&cache.path().display().to_string()),
                "{error}"
            );
        }
        let error = resolve_in(Path::new("org/other"), None).unwrap_err();
        assert!(
            error.to_string().contains("hf download org/other"),
            "{error}"
        );
    }

    #[test]
    fn paths_that_exist_or_cannot_be_names_stay_as_they_are() {
        let cache = cache();
        for given in [
            "src/hub.rs",
            "/org/name",
            "./org/name",
            "org",
            "a/b/c",
            "a/..",
            "org/na--me",
            "org/name@",
        ] {
            assert_eq!(resolved(given, cache.path()), Ok(given.into()), "{given}");
        }
        assert_eq!(base_name(Path::new("org/name@v1")), "org/name");
        assert_eq!(base_name(Path::new("src/run")), "src/run");
        assert_eq!(base_name(Path::new("/models/some")), "/models/some");
    }

    #[test]
    fn the_cache_is_where_the_variables_say_the_nearest_first() {
        let all = [
            ("HF_HUB_CACHE", "/a", "/a"),
            ("HUGGINGFACE_HUB_CACHE", "/b", "/b"),
            ("HF_HOME", "/c", "/c/hub"),
            ("XDG_CACHE_HOME", "/d", "/d/huggingface/hub"),
            ("HOME", "/e", "/e/.cache/huggingface/hub"),
        ];
        for n_unset in 0..all.len() {
            let variable = |name: &str| {
                let found = all[n_unset..].iter().find(|(key, ..)| *key == name);
                found.map(|(_, value, _)| OsString::from(value))
            };
            assert_eq!(cache_folder(variable), Some(all[n_unset].2.into()));
        }
        assert_eq!(cache_folder(|_| None), None);
        assert_eq!(cache_folder(|_| Some(OsString::new())), None);
    }
}
