//! The model that is measured, and what makes ids of rows for it.

use std::convert::Infallible;
use std::path::PathBuf;

use anyhow::Result;
use kif_model::{LoraConfig, ModelConfig, ModelOptions, Trainable};
use kif_protocol::{Compute, Precision, TemplateSetting};
use kif_runner::codec::Codec;
use kif_runner::hub;
use kif_runner::run::model_options;

/// A base, and what prompts look like to it.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Base {
    /// A base: a Hugging Face directory, a GGUF file, or a name in the hub's cache; `kif-perf base`
    /// makes one with random weights
    #[arg(long, value_name = "MODEL")]
    model: PathBuf,
    /// plain: prompts as the files have them; alpaca: under Alpaca's preamble; or a minijinja file
    #[arg(long, value_name = "NAME|FILE", default_value = "plain", value_parser = template)]
    template: TemplateSetting,
}

fn template(name: &str) -> Result<TemplateSetting, Infallible> {
    Ok(TemplateSetting::named(name))
}

impl Base {
    /// Where it is.
    pub(crate) fn path(&self) -> Result<PathBuf> {
        hub::resolve(&self.model)
    }

    /// What makes ids of rows.
    pub(crate) fn codec(&self) -> Result<Codec> {
        Codec::of_model(&self.path()?, &self.template)
    }

    /// On the CPU with a fresh LoRA r 8 on q and v, as published: the base itself.
    pub(crate) fn options(&self, precision: Precision) -> Result<ModelOptions> {
        let compute = Compute {
            precision,
            ..Compute::default()
        };
        let lora = ModelConfig::read(&self.path()?)?.own_targets(LoraConfig::default());
        Ok(model_options(&compute, Trainable::Adapter(lora), 1))
    }
}
