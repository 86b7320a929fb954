//! Adapters as PEFT stores them: `adapter_model.safetensors` and `adapter_config.json`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::adapter_config::read_config;
use super::json::shortest;
use super::params::{
    PROMPTS_CONFIG_FILE, ROUTING_CONFIG_FILE, by_name, check_count, known_base, read_params,
    write_with_settings,
};
use super::weights::{Tensor, Weights};
use crate::{LoraConfig, ModelError, ParamLayout};

/// The file of an adapter's settings.
pub const ADAPTER_CONFIG_FILE: &str = "adapter_config.json";
/// The file of an adapter's values.
pub const ADAPTER_FILE: &str = "adapter_model.safetensors";

/// What PEFT puts before the name of every module of the base.
pub const PEFT_PREFIX: &str = "base_model.model.";

/// A LoRA adapter as it is stored: settings and named matrices.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    /// Rank, scale, dropout, targets (sorted).
    pub config: LoraConfig,
    /// A and B of every module, under PEFT's names.
    pub tensors: BTreeMap<String, Tensor>,
    /// The base that it was trained on, as its file says.
    pub base_model: Option<String>,
    origin: PathBuf,
}

impl Adapter {
    /// An adapter made by a program.
    pub fn new(config: LoraConfig, tensors: BTreeMap<String, Tensor>) -> Self {
        Self {
            config,
            tensors,
            base_model: None,
            origin: "adapter in memory".into(),
        }
    }

    /// An adapter from a flat parameter vector, `[P]`.
    pub fn from_params(
        config: LoraConfig,
        layout: &ParamLayout,
        params: &[f32],
    ) -> Result<Self, ModelError> {
        check_count(layout, params)?;
        let tensors = layout.specs().iter().map(|spec| {
            let values = params[spec.range.clone()].to_vec();
            (
                spec.name.clone(),
                Tensor {
                    shape: spec.shape.clone(),
                    values,
                },
            )
        });
        Ok(Self::new(config, tensors.collect()))
    }

    /// Reads a PEFT directory. Options that are set and not implemented are refused by name; values
    /// are f32, f16 or bf16 and must be finite. Whether the tensors are those of a model is seen in
    /// [`into_params`](Self::into_params).
    pub fn read(dir: &Path) -> Result<Self, ModelError> {
        for (file, found) in [
            (PROMPTS_CONFIG_FILE, "soft prompts"),
            (ROUTING_CONFIG_FILE, "adapters with a router"),
        ] {
            if dir.join(file).exists() {
                let dir = dir.display();
                let what = format!("{dir} in the place of a LoRA adapter: {found}");
                return Err(ModelError::Unsupported { what });
            }
        }
        let (config, base_model) = read_config(&dir.join(ADAPTER_CONFIG_FILE))?;
        let origin = dir.join(ADAPTER_FILE);
        let mut weights = Weights::read_file(&origin)?;
        let names: Vec<String> = weights.names().map(str::to_owned).collect();
        let mut tensors = BTreeMap::new();
        for name in names {
            let shape = weights
                .shape(&name)
                .map(<[usize]>::to_vec)
                .unwrap_or_default();
            let values = weights.take(&name)?;
            tensors.insert(name, Tensor { shape, values });
        }
        Ok(Self {
            config,
            tensors,
            base_model,
            origin,
        })
    }

    /// The file that the tensors came from, for messages.
    pub fn origin(&self) -> &Path {
        &self.origin
    }

    /// The flat parameter vector, `[P]`: exactly the tensors of `layout`; the error lists every
    /// missing or unexpected name and every other shape.
    pub fn into_params(self, layout: &ParamLayout) -> Result<Vec<f32>, ModelError> {
        let weights = Weights::from_tensors(&self.origin, self.tensors);
        let mut params = vec![0.0; layout.n_params()];
        read_params(weights, &by_name(layout, |_| true), &mut params)?;
        Ok(params)
    }

    /// Writes `params`, `[P]`, as a PEFT directory that Python's `PeftModel.from_pretrained` loads.
    ///
    /// Values are f32. `base_model_name` may be empty. The settings are written last: a folder that
    /// has them is complete.
    pub fn write(
        dir: &Path,
        config: &LoraConfig,
        layout: &ParamLayout,
        params: &[f32],
        base_model_name: &str,
    ) -> Result<(), ModelError> {
        config.validate()?;
        check_count(layout, params)?;
        let specs = by_name(layout, |_| true);
        let text = config_text(config, base_model_name, task_type(layout));
        let settings = (ADAPTER_CONFIG_FILE, text.as_str());
        write_with_settings(dir, ADAPTER_FILE, &specs, params, settings)
    }
}

/// What PEFT needs to know to wrap the base for generation: encoder-decoders name their two stacks.
fn task_type(layout: &ParamLayout) -> &'static str {
    let of_stack = |name: &str| {
        name.strip_prefix(PEFT_PREFIX)
            .is_some_and(|rest| rest.starts_with("decoder.block."))
    };
    if layout.specs().iter().any(|spec| of_stack(&spec.name)) {
        "SEQ_2_SEQ_LM"
    } else {
        "CAUSAL_LM"
    }
}

/// Only keys that every PEFT since 0.4 knows: an older one fails on any key that it has not heard
/// of.
fn config_text(config: &LoraConfig, base_model_name: &str, task_type: &str) -> String {
    // PEFT's own files have whole numbers; f32 decimals are written as short as they were given.
    let alpha = if config.alpha.fract() == 0.0 {
        json!(config.alpha as i64)
    } else {
        shortest(config.alpha)
    };
    let fields = json!({
        "auto_mapping": null,
        "base_model_name_or_path": known_base(base_model_name),
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "layers_pattern": null,
        "layers_to_transform": null,
        "lora_alpha": alpha,
        "lora_dropout": shortest(config.dropout),
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": config.rank,
        "revision": null,
        "target_modules": config.targets,
        "task_type": task_type,
    });
    format!("{fields:#}\n")
}
