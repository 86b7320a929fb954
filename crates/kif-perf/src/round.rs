//! Rounds of Recurrent-KIF: what importance and fusion add to the steps.

use std::sync::Arc;
use std::time::Instant;

use crate::work::Work;
use anyhow::Result;
use kif_io::memory::peak_rss_mib;
use kif_methods::{MemoryOrder, MethodConfig, TaskView};
use serde_json::json;

/// Arguments of `kif-perf round`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    work: Work,
    /// Rounds of each kind that are measured, in turns, after one to warm up
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: usize,
}

/// Published: 8 steps on the task, 4 on the memory.
const INNER: usize = 8;
const OUTER: usize = 4;

/// Times `kif-paper` rounds against as many bare steps, in turns. All batches are the same rows, so
/// that only the method differs.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let Arguments { work, rounds } = arguments;
    let mut learner = work.learner()?;
    let rows = work.encoded(learner.model().vocab_size())?[..work.batch_size].to_vec();
    let batch = work.batch(&rows, 0);
    let rows = Arc::new(rows);
    let task = TaskView {
        index: 1,
        name: "measured".into(),
        rows: rows.clone(),
        memory: rows.clone(),
        memory_sizes: vec![rows.len()],
        all_rows: rows,
        batch_size: work.batch_size,
        seed: 1,
        memory_order: MemoryOrder::Cursor,
    };
    let kif = MethodConfig::by_name("kif-paper").expect("a method of this name");
    let mut kif = kif.build(learner.layout());
    kif.begin_task(&mut learner, &task)?;
    let (mut round_s, mut bare_s) = (Vec::new(), Vec::new());
    for i in 0..=*rounds {
        let start = Instant::now();
        for _ in 0..INNER {
            kif.observe(&mut learner, &batch)?;
        }
        let round = start.elapsed().as_secs_f64();
        // A multiple of the round's steps, so that the next one begins where the method expects it.
        let start = Instant::now();
        for _ in 0..2 * INNER {
            learner.step(&batch)?;
        }
        let bare = start.elapsed().as_secs_f64() * (INNER + OUTER) as f64 / (2 * INNER) as f64;
        if i > 0 {
            round_s.push(round);
            bare_s.push(bare);
        }
    }
    let line = json!({
        "threads": rayon::current_num_threads(),
        "round_s": round_s,
        "bare_s": bare_s,
        "peak_mib": peak_rss_mib(),
    });
    println!("{line}");
    Ok(())
}
