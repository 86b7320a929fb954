//! Adapters that a router chooses between, on disk: `routing.json`, `routing.safetensors`, and
//! every adapter by itself in `adapters/<n>`.
//!
//! No PEFT directory: PEFT would add all adapters up, which is another function. Each of the
//! folders inside is one, and PEFT loads the base with that adapter alone.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::adapter::Adapter;
use super::atomic::create_folder;
use super::params::{
    FORMAT, ROUTING_CONFIG_FILE, by_name, check_count, known_base, read_params, read_settings,
    settings_text, write_with_settings,
};
use super::weights::Weights;
use crate::{LORA_A, LoraConfig, ModelError, ParamGroup, ParamLayout, ParamSpec, Routing};

/// The file of what the router has learned.
pub const ROUTING_FILE: &str = "routing.safetensors";
/// The folder of the adapters, by number.
pub const ROUTED_ADAPTERS: &str = "adapters";

/// Adapters with a router as they are stored.
#[derive(Clone, Debug)]
pub struct StoredRouted {
    /// The settings of all adapters together.
    pub lora: LoraConfig,
    /// What chooses between them.
    pub routing: Routing,
    /// The base that they were trained on, as the file says.
    pub base_model: Option<String>,
    adapters: Vec<Adapter>,
    router: Weights,
}

/// The content of `routing.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    format: u64,
    base_model_name_or_path: Option<String>,
    routing: Routing,
}

impl StoredRouted {
    /// Reads a directory that [`write`](Self::write) made. Values are f32, f16 or bf16 and must be
    /// finite; whether they are those of a model is seen in [`into_params`](Self::into_params).
    pub fn read(dir: &Path) -> Result<Self, ModelError> {
        let path: PathBuf = dir.join(ROUTING_CONFIG_FILE);
        let malformed = |problem: String| ModelError::malformed(&path, problem);
        let settings = read_settings(&path, |settings: &Settings| settings.format)?;
        let mut adapters: Vec<Adapter> = Vec::new();
        for slot in 0..settings.routing.n_slots {
            let adapter = Adapter::read(&adapter_folder(dir, slot))?;
            if adapters
                .first()
                .is_some_and(|first| first.config != adapter.config)
            {
                return Err(malformed(format!(
                    "adapter {slot} has other settings than adapter 0"
                )));
            }
            adapters.push(adapter);
        }
        let Some(first) = adapters.first() else {
            return Err(malformed("n_slots 0, expected at least 1".to_owned()));
        };
        let lora = first.config.clone().side_by_side(adapters.len());
        settings
            .routing
            .check(&lora)
            .map_err(|error| malformed(error.to_string()))?;
        Ok(Self {
            lora,
            routing: settings.routing,
            base_model: settings.base_model_name_or_path,
            adapters,
            router: Weights::read_file(&dir.join(ROUTING_FILE))?,
        })
    }

    /// The flat parameter vector, `[P]`: exactly the tensors of `layout`, which has as many slots;
    /// the error lists every missing or unexpected name and every other shape.
    pub fn into_params(self, layout: &ParamLayout) -> Result<Vec<f32>, ModelError> {
        let mut params = vec![0.0; layout.n_params()];
        read_params(self.router, &of_router(layout), &mut params)?;
        for (slot, adapter) in self.adapters.into_iter().enumerate() {
            let values = adapter.into_params(&one_slot(layout))?;
            let mut rest = values.as_slice();
            for range in layout.slot(slot) {
                let (run, behind) = rest.split_at(range.len());
                params[range].copy_from_slice(run);
                rest = behind;
            }
        }
        Ok(params)
    }

    /// Writes `params`, `[P]`, in f32; `lora` is that of all adapters together. `base_model_name`
    /// may be empty. The settings are written last: a folder that has them is complete.
    pub fn write(
        dir: &Path,
        lora: &LoraConfig,
        routing: &Routing,
        layout: &ParamLayout,
        params: &[f32],
        base_model_name: &str,
    ) -> Result<(), ModelError> {
        routing.check(lora)?;
        check_count(layout, params)?;
        let n_slots = routing.n_slots;
        assert_eq!(
            layout.n_slots(),
            n_slots,
            "adapters of the layout and the router"
        );
        create_folder(dir)?;
        create_folder(&dir.join(ROUTED_ADAPTERS))?;
        let config = LoraConfig {
            rank: lora.rank / n_slots,
            alpha: lora.alpha / n_slots as f32,
            ..lora.clone()
        };
        for slot in 0..n_slots {
            let values: Vec<f32> = (layout.slot(slot).into_iter())
                .flat_map(|range| &params[range])
                .copied()
                .collect();
            let at = adapter_folder(dir, slot);
            Adapter::write(&at, &config, &one_slot(layout), &values, base_model_name)?;
        }
        let text = settings_text(&Settings {
            format: FORMAT,
            base_model_name_or_path: known_base(base_model_name),
            routing: *routing,
        });
        let settings = (ROUTING_CONFIG_FILE, text.as_str());
        write_with_settings(dir, ROUTING_FILE, &of_router(layout), params, settings)
    }
}

fn adapter_folder(dir: &Path, slot: usize) -> PathBuf {
    dir.join(ROUTED_ADAPTERS).join(slot.to_string())
}

fn of_router(layout: &ParamLayout) -> Vec<&ParamSpec> {
    by_name(layout, |spec| {
        matches!(spec.group, ParamGroup::Router | ParamGroup::SlotKeys)
    })
}

/// The layout of one of the adapters. Its flat vector is what lies in [`ParamLayout::slot`], run
/// after run.
fn one_slot(layout: &ParamLayout) -> ParamLayout {
    let mut one = ParamLayout::default();
    for spec in layout
        .specs()
        .iter()
        .filter(|spec| spec.group == ParamGroup::Lora)
    {
        let rank = spec.rank().expect("LoRA matrices have a rank") / layout.n_slots();
        let shape = if spec.name.ends_with(LORA_A) {
            vec![rank, spec.shape[1]]
        } else {
            vec![spec.shape[0], rank]
        };
        one.push(spec.name.clone(), shape);
    }
    one
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Router;

    fn written(dir: &Path) -> (ParamLayout, Vec<f32>) {
        let name =
            |side| format!("base_model.model.decoder.block.0.layer.0.SelfAttention.q.{side}");
        let mut layout = ParamLayout::default();
        layout.push(name("lora_A.weight"), vec![4, 3]);
        layout.push(name("lora_B.weight"), vec![5, 4]);
        layout.push_to(ParamGroup::Router, "router.query".into(), vec![2, 3]);
        layout.push_to(ParamGroup::SlotKeys, "slot_keys".into(), vec![2, 3]);
        let layout = layout.with_slots(2).unwrap();
        let params: Vec<f32> = (0..layout.n_params()).map(|i| i as f32).collect();
        let lora = LoraConfig {
            rank: 2,
            ..LoraConfig::default()
        };
        let routing = Routing {
            n_slots: 2,
            open_slots: 1,
            router: Router::Instance { hidden: 2 },
        };
        let lora = lora.side_by_side(2);
        StoredRouted::write(dir, &lora, &routing, &layout, &params, "base").unwrap();
        (layout, params)
    }

    #[test]
    fn what_was_written_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let (layout, params) = written(folder.path());
        let read = StoredRouted::read(folder.path()).unwrap();
        assert_eq!((read.lora.rank, read.lora.scale()), (4, 16.0));
        assert_eq!((read.routing.n_slots, read.routing.open_slots), (2, 1));
        assert_eq!(read.base_model.as_deref(), Some("base"));
        assert_eq!(read.into_params(&layout).unwrap(), params);
    }

    #[test]
    fn each_adapter_is_one_of_peft_and_all_together_are_none() {
        let folder = tempfile::tempdir().unwrap();
        let (layout, params) = written(folder.path());
        let second = Adapter::read(&adapter_folder(folder.path(), 1)).unwrap();
        assert_eq!((second.config.rank, second.config.alpha), (2, 32.0));
        let values = second.into_params(&one_slot(&layout)).unwrap();
        // Rows 2 and 3 of A; columns 2 and 3 of B.
        assert_eq!(values[..6], params[6..12]);
        assert_eq!(
            values[6..10],
            [params[14], params[15], params[18], params[19]]
        );
        let error = Adapter::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("adapters with a router"), "{error}");
    }

    #[test]
    fn directories_that_do_not_fit_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (layout, _) = written(folder.path());
        let mut other = layout.clone();
        other.push_to(ParamGroup::Router, "router.more".into(), vec![1, 1]);
        let read = StoredRouted::read(folder.path()).unwrap();
        let error = read.into_params(&other).unwrap_err().to_string();
        assert!(error.contains("router.more"), "{error}");
        let path = folder.path().join(ROUTING_CONFIG_FILE);
        let text = std::fs::read_to_string(&path).unwrap();
        for (what, instead, expected) in [
            ("\"format\": 1", "\"format\": 2", "format 2, expected 1"),
            (
                "\"open_slots\": 1",
                "\"open_slots\": 3",
                "open_slots 3 is outside 1..=2",
            ),
            ("\"n_slots\": 2", "\"n_slots\": 3", "adapters/2"),
            ("\"n_slots\": 2", "\"n_slots\": 0", "n_slots 0"),
        ] {
            assert!(text.contains(what), "{text}");
            std::fs::write(&path, text.replace(what, instead)).unwrap();
            let error = StoredRouted::read(folder.path()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
