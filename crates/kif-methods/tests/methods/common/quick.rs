//! The bases and the stream that the program brings along, for what methods claim on a real model.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kif_data::{Encoded, Format, Limits, Stream, Template, Tokenizer, load_task};
use kif_methods::{Learner, LearnerConfig, MemoryOrder, Method, MethodConfig, Schedule, TaskView};
use kif_model::{LoraConfig, ModelConfig, ModelOptions, Trainable};

use super::learn;

/// The bases in `fixtures/quick`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arch {
    T5,
    Decoder,
}

/// Tests that hold on every base that the program brings along, an encoder-decoder and a
/// decoder-only model: functions of a [`Quick`], and how many rows of every task it has.
macro_rules! on_every_base {
    ($($test:ident: $n_rows:expr,)*) => {
        on_every_base!(@on t5, T5; $($test: $n_rows,)*);
        on_every_base!(@on decoder, Decoder; $($test: $n_rows,)*);
    };
    (@on $base:ident, $arch:ident; $($test:ident: $n_rows:expr,)*) => {
        mod $base {
            use crate::common::quick::{Arch, Quick};

            $(
                #[test]
                fn $test() {
                    crate::common::quick::on_one_thread(|| {
                        super::$test(&Quick::of(Arch::$arch, $n_rows));
                    });
                }
            )*
        }
    };
}
pub(crate) use on_every_base;

/// The harness fills the processor with tests. Were each product shared between threads as well,
/// they would spend a third of their time waiting for each other; no bit depends on it.
pub(crate) fn on_one_thread(test: impl FnOnce() + Send) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1);
    pool.build().unwrap().install(test);
}

/// Tasks that are taken.
pub(crate) const N_TASKS: usize = 3;
/// Rank of one adapter.
pub(crate) const RANK: usize = 4;

/// A base and the first tasks of the stream.
pub(crate) struct Quick {
    pub(crate) arch: Arch,
    pub(crate) model: PathBuf,
    pub(crate) tasks: Vec<TaskView>,
}

impl Quick {
    /// `n_rows` rows of every task; 8 of them are kept.
    pub(crate) fn of(arch: Arch, n_rows: usize) -> Self {
        let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/quick"));
        let model = root.join(match arch {
            Arch::T5 => "base",
            Arch::Decoder => "base-decoder",
        });
        let list = fs::read_to_string(root.join("stream.ron")).unwrap();
        let stream = Stream::from_ron(&list, &root.join("stream.ron")).unwrap();
        let config = ModelConfig::read(&model).unwrap();
        let tokenizer = Tokenizer::from_file(&model.join("tokenizer.json")).unwrap();
        let format = Format {
            template: Template::Plain,
            end_id: config.is_decoder_only().then(|| config.end_ids()[0]),
        };
        let limits = Limits {
            max_input: 64,
            max_target: 8,
        };
        let rows_of = |name: &String| -> Vec<Encoded> {
            let task = load_task(stream.layout, &root.join("stream"), name).unwrap();
            let rows = task.train[..n_rows].iter();
            rows.map(|row| tokenizer.encode_row_as(row, limits, &format).unwrap())
                .collect()
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
        Self { arch, model, tasks }
    }

    fn one_lora(&self) -> LoraConfig {
        let lora = LoraConfig {
            rank: RANK,
            alpha: 16.0,
            ..LoraConfig::default()
        };
        ModelConfig::read(&self.model).unwrap().own_targets(lora)
    }

    pub(crate) fn lora(&self, config: &MethodConfig) -> LoraConfig {
        self.one_lora().side_by_side(config.parts(N_TASKS).n_slots)
    }

    /// A bound that is another number on either base.
    pub(crate) fn bound(&self, t5: f64, decoder: f64) -> f64 {
        match self.arch {
            Arch::T5 => t5,
            Arch::Decoder => decoder,
        }
    }

    /// What the model trains for `config`.
    pub(crate) fn trainable(&self, config: &MethodConfig) -> Trainable {
        config.parts(N_TASKS).trainable(self.one_lora())
    }

    /// A fresh learner for `config` and the method itself.
    pub(crate) fn start(&self, config: &MethodConfig, dropout: f32) -> (Learner, Box<dyn Method>) {
        let options = ModelOptions::cpu(self.trainable(config));
        let model = kif_model::load(&self.model, &options).unwrap();
        let settings = LearnerConfig {
            dropout,
            ..LearnerConfig::default()
        };
        let schedule = Schedule::warmed_up(config.peak_rate().unwrap_or(3e-3), 2);
        config.start(model, settings, schedule, N_TASKS).unwrap()
    }

    /// The learner after the first `n_tasks` tasks.
    pub(crate) fn learned(&self, config: &MethodConfig, n_tasks: usize, epochs: u64) -> Learner {
        let (mut learner, mut method) = self.start(config, 0.0);
        for task in &self.tasks[..n_tasks] {
            learn(&mut learner, method.as_mut(), task, epochs);
        }
        learner
    }
}
