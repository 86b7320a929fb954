//! KIF against PyTorch: 27 steps with three fusion rounds on a small T5, in both presets
//! (`fixtures/golden/make_golden.py`).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::common::distance;
use kif_data::{Batch, Encoded};
use kif_methods::methods::KifConfig;
use kif_methods::{
    Learner, LearnerConfig, MemoryOrder, Method, MethodConfig, Schedule, State, TaskView, methods,
};
use kif_model::{LoraConfig, ModelOptions, Trainable};
use safetensors::SafeTensors;

const N_STEPS: usize = 27;
const N_MEMORY_STEPS: usize = 12;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fixtures/golden")
        .join(name)
}

/// A trajectory as PyTorch made it.
struct Trajectory(Vec<u8>);

impl Trajectory {
    fn read(name: &str) -> Self {
        Self(std::fs::read(golden(&format!("trajectory-{name}.safetensors"))).unwrap())
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        SafeTensors::deserialize(&self.0)
            .unwrap()
            .tensor(name)
            .unwrap()
            .data()
            .to_vec()
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        self.bytes(name)
            .as_chunks()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect()
    }

    fn ids(&self, name: &str) -> Vec<i64> {
        self.bytes(name)
            .as_chunks()
            .0
            .iter()
            .map(|b| i64::from_le_bytes(*b))
            .collect()
    }

    fn ragged(&self, name: &str) -> Vec<Vec<u32>> {
        let ids: Vec<u32> = self
            .ids(&format!("{name}.ids"))
            .iter()
            .map(|&id| u32::try_from(id).unwrap())
            .collect();
        let offsets = self.ids(&format!("{name}.offsets"));
        offsets
            .windows(2)
            .map(|w| ids[w[0] as usize..w[1] as usize].to_vec())
            .collect()
    }

    fn rows(&self, name: &str) -> Vec<Encoded> {
        let (inputs, targets) = (
            self.ragged(&format!("{name}.input")),
            self.ragged(&format!("{name}.target")),
        );
        let pairs = inputs.into_iter().zip(targets);
        pairs
            .map(|(input_ids, target_ids)| Encoded {
                input_ids,
                target_ids,
                cut: false,
            })
            .collect()
    }

    /// The adapter at one point, in the order of the flat vector.
    fn params(&self, at: &str, learner: &Learner) -> Vec<f32> {
        let specs = learner.layout().specs();
        specs
            .iter()
            .flat_map(|spec| self.floats(&format!("{at}.{}", spec.name)))
            .collect()
    }
}

/// A learner at the start of a trajectory: peak rate 3e-3, 5 steps of warm-up, 40 steps in all.
fn learner(trajectory: &Trajectory, clip: f32) -> Learner {
    let lora = LoraConfig {
        dropout: 0.0,
        ..LoraConfig::default()
    };
    let options = ModelOptions::cpu(Trainable::Adapter(lora));
    let model = kif_model::load(&golden("trajectory-base"), &options).unwrap();
    let mut config = LearnerConfig {
        dropout: 0.0,
        ..LearnerConfig::default()
    };
    config.optimizer.clip = clip;
    let mut learner = Learner::new(model, config, Schedule::warmed_up(3e-4, 50));
    let start = trajectory.params("start", &learner);
    learner.set_params(&start).unwrap();
    let schedule = Schedule::Linear {
        peak: 3e-3,
        warmup_steps: 5,
        total_steps: 40,
    };
    learner.begin_task(1, "trajectory", schedule);
    learner
}

/// The second task of a stream whose memory batches are the trajectory's, one after the other.
fn task(trajectory: &Trajectory) -> TaskView {
    let rows = |what: &str, n: usize| -> Arc<Vec<Encoded>> {
        Arc::new(
            (0..n)
                .flat_map(|i| trajectory.rows(&format!("{what}.{i}")))
                .collect(),
        )
    };
    TaskView {
        index: 1,
        name: "trajectory".into(),
        rows: rows("current", N_STEPS),
        memory: rows("memory", N_MEMORY_STEPS),
        memory_sizes: vec![rows("memory", N_MEMORY_STEPS).len()],
        all_rows: Arc::default(),
        batch_size: 4,
        seed: 0,
        memory_order: MemoryOrder::Cursor,
    }
}

fn follow(name: &str, config: KifConfig, clip: f32) {
    let trajectory = Trajectory::read(name);
    let task = task(&trajectory);
    let mut learner = learner(&trajectory, clip);
    let config = MethodConfig::Kif(config);
    let mut method = config.build(learner.layout());
    method.begin_task(&mut learner, &task).unwrap();
    let (mut losses, mut memory_losses) = (Vec::new(), Vec::new());
    for i in 0..N_STEPS {
        let batch = Batch::from_rows(&task.rows[4 * i..4 * i + 4]);
        losses.push(method.observe(&mut learner, &batch).unwrap() as f32);
        memory_losses.extend(learner.take_memory_losses().iter().map(|&loss| loss as f32));
        if (i + 1) % 8 == 0 {
            let round = trajectory.params(&format!("round{}", (i + 1) / 8), &learner);
            let worst = distance(learner.params(), &round);
            println!(
                "{name}, round {}: parameters differ by at most {worst:.1e}",
                (i + 1) / 8
            );
            assert!(worst < 5e-5, "{name}, step {i}: {worst}");
        }
        if i == 18 {
            method = restarted(&config, &task, &mut learner, method.as_ref());
        }
    }
    let worst = distance(learner.params(), &trajectory.params("end", &learner));
    assert!(worst < 5e-5, "{name}, end: {worst}");
    for (what, ours) in [("losses", losses), ("memory_losses", memory_losses)] {
        let theirs = trajectory.floats(what);
        assert_eq!(ours.len(), theirs.len(), "{name}, {what}");
        let worst = distance(&ours, &theirs);
        println!("{name}: {what} differ by at most {worst:.1e}");
        assert!(worst < 1e-4, "{name}, {what}: {worst}");
    }
}

/// A new method that has only the saved state of `method`, in the middle of a round.
fn restarted(
    config: &MethodConfig,
    task: &TaskView,
    learner: &mut Learner,
    method: &dyn Method,
) -> Box<dyn Method> {
    let bytes = methods::save(learner, method).to_bytes().unwrap();
    let mut fresh = config.build(learner.layout());
    fresh.begin_task(learner, task).unwrap();
    methods::resume(learner, fresh.as_mut(), &State::from_bytes(&bytes).unwrap()).unwrap();
    fresh
}

#[test]
fn the_paper_is_followed() {
    follow("paper", KifConfig::paper(), 1.0);
}

#[test]
fn the_released_code_is_followed() {
    follow("released", KifConfig::released(), 1.0);
}

#[test]
fn the_released_code_is_followed_where_nothing_is_clipped() {
    follow("released-noclip", KifConfig::released(), 1e9);
}
