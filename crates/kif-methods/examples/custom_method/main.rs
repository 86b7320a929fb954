//! A method of one's own, outside of the workspace: two tasks on a tiny model with random weights.
//!
//! `anchor.rs` is the example of `docs/adding-a-method.md`. The same file in `src/methods` and a
//! line in the list there make it a method of `kif`.

// Its settings are public where they are part of a library.
#[allow(unreachable_pub)]
mod anchor;

use std::sync::Arc;

use anyhow::Result;
use kif_data::Encoded;
use kif_methods::methods::MethodSpec;
use kif_methods::{
    BatchOrder, Learner, LearnerConfig, MemoryOrder, Schedule, StepOutcome, TaskDuration,
    TaskTraining, TaskView, TrainingObserver, TrainingPlan,
};
use kif_model::{
    LoraConfig, ModelConfig, ModelOptions, T5Config, Trainable, from_parts, random_weights,
};

use crate::anchor::AnchorConfig;

/// Steps of a task.
const STEPS: u64 = 30;

/// Task `index` answers every text with the token `10 + index`.
fn task(index: usize) -> TaskView {
    let row = |i: u32| Encoded {
        input_ids: vec![3 + i, 4 + i, 5 + i],
        target_ids: vec![10 + index as u32, 1],
        cut: false,
    };
    TaskView {
        index,
        name: format!("task {}", index + 1),
        rows: Arc::new((0..16).map(row).collect()),
        memory: Arc::default(),
        memory_sizes: vec![0; index],
        all_rows: Arc::default(),
        batch_size: 8,
        seed: 1,
        memory_order: MemoryOrder::Drawn,
    }
}

/// Keeps the losses.
struct Losses(Vec<f64>);

impl TrainingObserver for Losses {
    fn before_step(&mut self, _: &TaskTraining<'_>) -> Result<()> {
        Ok(())
    }

    fn after_step(&mut self, _: &TaskTraining<'_>, outcome: StepOutcome) -> Result<()> {
        self.0.push(outcome.loss);
        Ok(())
    }
}

/// How far the parameters are after the second task from where the first one ended.
fn distance_after_both(config: AnchorConfig) -> Result<f64> {
    config.check()?;
    let base = ModelConfig::T5(T5Config {
        vocab_size: 40,
        d_model: 16,
        d_kv: 8,
        d_ff: 32,
        num_heads: 2,
        num_layers: 1,
        num_decoder_layers: 1,
        ..T5Config::default()
    });
    let options = ModelOptions::cpu(Trainable::Adapter(LoraConfig::default()));
    let model = from_parts(&base, random_weights(&base, 1), &options)?;
    let schedule = Schedule::warmed_up(1e-2, 3);
    let mut learner = Learner::new(model, LearnerConfig::default(), schedule);
    let mut method = config.build(learner.layout());
    let plan = TrainingPlan {
        schedule,
        duration: TaskDuration::Steps(STEPS),
        order: BatchOrder::Shuffled,
    };
    let mut ends = Vec::new();
    for task in [task(0), task(1)] {
        let mut losses = Losses(Vec::new());
        let mut training = TaskTraining::begin(&mut learner, method.as_mut(), &task, &plan)?;
        training.run(&mut losses)?;
        training.end()?;
        let (first, last) = (losses.0[0], losses.0[losses.0.len() - 1]);
        println!(
            "  {}: loss {first:.3} at first, {last:.3} at last",
            task.name
        );
        assert!(last < first, "{} was not learned", task.name);
        ends.push(learner.params().to_vec());
    }
    let pairs = ends[0].iter().zip(&ends[1]);
    let square: f64 = pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum();
    println!("  moved by {:.3} in the second task", square.sqrt());
    Ok(square.sqrt())
}

fn main() -> Result<()> {
    println!("without a pull");
    let free = distance_after_both(AnchorConfig { strength: 0.0 })?;
    println!("with the anchor at strength 20");
    let held = distance_after_both(AnchorConfig { strength: 20.0 })?;
    assert!(held < free, "the anchor holds nothing: {held} of {free}");
    Ok(())
}
