//! Soft prompts on disk: what is written is read back, and what does not fit is refused by name.

use std::fs;

use kif_model::{
    Adapter, LanguageModel, ModelOptions, PROMPTS_CONFIG_FILE, PROMPTS_FILE, PromptConfig,
    PromptSelection, StoredPrompts, Trainable, from_parts, random_weights,
};
use tempfile::TempDir;

const POOL: PromptConfig = PromptConfig {
    n_prompts: 3,
    length: 2,
    selection: PromptSelection::Pool { top_k: 2 },
};

fn model(config: PromptConfig) -> Box<dyn LanguageModel> {
    let base = super::tiny(true);
    let options = ModelOptions::cpu(Trainable::Prompts(config));
    from_parts(&base, random_weights(&base, 1), &options).unwrap()
}

/// A directory with the pool of a model, of which two prompts are active.
fn written() -> (TempDir, Box<dyn LanguageModel>) {
    let (folder, model) = (tempfile::tempdir().unwrap(), model(POOL));
    let (layout, params) = (model.layout(), model.params());
    StoredPrompts::write(folder.path(), &POOL, &[2, 0], layout, params, "base").unwrap();
    (folder, model)
}

#[test]
fn what_is_written_is_read_back() {
    let (folder, model) = written();
    let stored = StoredPrompts::read(folder.path()).unwrap();
    assert_eq!(
        (stored.config, stored.active.as_slice()),
        (POOL, &[2, 0][..])
    );
    assert_eq!(stored.base_model.as_deref(), Some("base"));
    assert_eq!(stored.into_params(model.layout()).unwrap(), model.params());
}

#[test]
fn prompts_of_another_size_are_refused_by_name() {
    let (folder, _) = written();
    let refused = |config: PromptConfig| {
        let stored = StoredPrompts::read(folder.path()).unwrap();
        stored
            .into_params(model(config).layout())
            .unwrap_err()
            .to_string()
    };
    let longer = refused(PromptConfig { length: 4, ..POOL });
    assert!(
        longer.contains("prompts") && longer.contains("[3, 4, 8]"),
        "{longer}"
    );
    let selection = PromptSelection::Fixed;
    let without_keys = refused(PromptConfig { selection, ..POOL });
    assert!(without_keys.contains("prompt_keys"), "{without_keys}");
}

#[test]
fn broken_settings_are_refused_with_file_and_reason() {
    let (folder, _) = written();
    let path = folder.path().join(PROMPTS_CONFIG_FILE);
    let text = fs::read_to_string(&path).unwrap();
    for (from, to, reason) in [
        ("\"format\": 1", "\"format\": 2", "format 2, expected 1"),
        ("\"top_k\": 2", "\"top_k\": 4", "top_k: 4 is outside 1..=3"),
        ("\"active\"", "\"activ\"", "activ"),
        ("{", "", "expected"),
    ] {
        assert!(text.contains(from), "{text}");
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
        let error = StoredPrompts::read(folder.path()).unwrap_err().to_string();
        assert!(
            error.contains(reason) && error.contains("prompts.json"),
            "{error}"
        );
    }
    fs::write(&path, &text).unwrap();
    fs::remove_file(folder.path().join(PROMPTS_FILE)).unwrap();
    assert!(StoredPrompts::read(folder.path()).is_err());
}

#[test]
fn a_prompt_directory_is_no_adapter() {
    let (folder, _) = written();
    let error = Adapter::read(folder.path()).unwrap_err().to_string();
    assert!(error.contains("soft prompts"), "{error}");
}

#[test]
fn numbers_that_are_not_finite_are_not_written() {
    let (folder, model) = (tempfile::tempdir().unwrap(), model(POOL));
    let mut params = model.params().to_vec();
    params[5] = f32::NAN;
    let layout = model.layout();
    let error = StoredPrompts::write(folder.path(), &POOL, &[], layout, &params, "");
    assert!(error.unwrap_err().to_string().contains("prompts: value 5"));
    assert!(!folder.path().join(PROMPTS_CONFIG_FILE).exists());
}
