//! The base and the stream that the program brings along, for what methods claim on a real model.

use std::path::PathBuf;
use std::sync::Arc;

use kif_data::{Encoded, Limits, load_task};
use kif_model::{
    DecoderConfig, Dtype, Family, LoraConfig, ModelConfig, ModelOptions, Rope, Trainable,
    random_weights, write_model,
};
use kif_runner::codec::{Codec, TemplateSetting};
use kif_runner::{Learner, LearnerConfig, MemoryOrder, Method, MethodConfig, TaskView, embedded};
use tempfile::TempDir;

use super::learn;

/// Tasks that are taken.
pub const N_TASKS: usize = 3;
/// Rank of one adapter.
pub const RANK: usize = 4;

/// The embedded base and the first tasks of its stream.
pub struct Quick {
    pub folder: TempDir,
    pub model: PathBuf,
    pub tasks: Vec<TaskView>,
}

impl Quick {
    /// `n_rows` rows of every task; 8 of them are kept.
    pub fn new(n_rows: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = embedded::unpack_base(folder.path()).unwrap();
        Self::on(folder, model, n_rows)
    }

    /// One of every architecture: the embedded base, and a decoder of random weights with its tokenizer.
    pub fn of_all_architectures(n_rows: usize) -> [Self; 2] {
        let folder = tempfile::tempdir().unwrap();
        let base = embedded::unpack_base(folder.path()).unwrap();
        let decoder = folder.path().join("decoder");
        let config = ModelConfig::Decoder(DecoderConfig {
            family: Family::Qwen3,
            vocab_size: ModelConfig::read(&base).unwrap().vocab_size(),
            hidden_size: 32,
            intermediate_size: 48,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: 8,
            max_position_embeddings: 128,
            rms_norm_eps: 1e-6,
            rope: Rope {
                theta: 1e4,
                scaling: None,
            },
            tie_word_embeddings: true,
            bos_token_id: None,
            eos_token_id: vec![1],
            initializer_range: 0.2,
        });
        write_model(&decoder, &config, &random_weights(&config, 1), Dtype::F32).unwrap();
        std::fs::copy(base.join("tokenizer.json"), decoder.join("tokenizer.json")).unwrap();
        [Self::new(n_rows), Self::on(folder, decoder, n_rows)]
    }

    fn on(folder: TempDir, model: PathBuf, n_rows: usize) -> Self {
        let (stream, root) = embedded::unpack_stream(folder.path()).unwrap();
        let codec = Codec::of_model(&model, &TemplateSetting::Plain).unwrap();
        let limits = Limits {
            max_input: 64,
            max_target: 8,
        };
        let rows_of = |name: &String| {
            let task = load_task(stream.layout, &root, name).unwrap();
            codec.encode_rows(&task.train[..n_rows], limits).unwrap()
        };
        let names = &stream.orders[0][..N_TASKS];
        let rows: Vec<Vec<Encoded>> = names.iter().map(rows_of).collect();
        let all_rows = Arc::new(rows.concat());
        let view = |k: usize| TaskView {
            index: k,
            name: names[k].clone(),
            rows: Arc::new(rows[k].clone()),
            memory: Arc::new(
                rows[..k]
                    .iter()
                    .flat_map(|rows| rows[..8].to_vec())
                    .collect(),
            ),
            memory_sizes: vec![8; k],
            all_rows: all_rows.clone(),
            batch_size: 8,
            seed: 3,
            memory_order: MemoryOrder::Drawn,
        };
        let tasks = (0..N_TASKS).map(view).collect();
        Self {
            folder,
            model,
            tasks,
        }
    }

    fn one_lora() -> LoraConfig {
        LoraConfig {
            rank: RANK,
            alpha: 16.0,
            ..LoraConfig::default()
        }
    }

    pub fn lora(config: &MethodConfig) -> LoraConfig {
        Self::one_lora().side_by_side(config.parts(N_TASKS).n_slots)
    }

    /// What the model trains for `config`.
    pub fn trainable(config: &MethodConfig) -> Trainable {
        config.parts(N_TASKS).trainable(Self::one_lora())
    }

    /// A fresh learner for `config` and the method itself.
    pub fn start(&self, config: &MethodConfig, dropout: f32) -> (Learner, Box<dyn Method>) {
        let mut trainable = Self::trainable(config);
        if let Trainable::Adapter(lora) | Trainable::Routed(lora, _) = &mut trainable {
            let base = ModelConfig::read(&self.model).unwrap();
            *lora = base.own_targets(lora.clone());
        }
        let options = ModelOptions::cpu(trainable);
        let model = kif_model::load(&self.model, &options).unwrap();
        let mut settings = LearnerConfig {
            dropout,
            ..LearnerConfig::default()
        };
        settings.optimizer.lr = config.peak_rate().unwrap_or(3e-3);
        settings.optimizer.warmup_steps = 2;
        let learner = Learner::new(model, settings);
        let learner = learner.with_slots(config.parts(N_TASKS).n_slots).unwrap();
        let method = config.build(learner.layout());
        (learner, method)
    }

    /// The learner after the first `n_tasks` tasks.
    pub fn learned(&self, config: &MethodConfig, n_tasks: usize, epochs: u64) -> Learner {
        let (mut learner, mut method) = self.start(config, 0.0);
        for task in &self.tasks[..n_tasks] {
            learn(&mut learner, method.as_mut(), task, epochs);
        }
        learner
    }
}
