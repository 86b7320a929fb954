//! Training steps.

use std::time::Instant;

use crate::work::Work;
use anyhow::Result;
use kif_io::memory::peak_rss_mib;
use serde_json::json;

/// Arguments of `kif-perf step`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    work: Work,
    /// Steps that are measured
    #[arg(long, value_name = "N", default_value_t = 20)]
    steps: usize,
    /// Steps before the first that counts
    #[arg(long, value_name = "N", default_value_t = 2)]
    warm_up: usize,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let Arguments {
        work,
        steps,
        warm_up,
    } = arguments;
    let mut learner = work.learner()?;
    let loaded_mib = peak_rss_mib();
    let encoded = work.encoded(learner.model().vocab_size())?;
    let (mut seconds, mut losses, mut tokens) = (Vec::new(), Vec::new(), 0);
    for k in 0..warm_up + steps {
        let batch = work.batch(&encoded, k);
        let start = Instant::now();
        losses.push(learner.step(&batch)?);
        if k >= *warm_up {
            seconds.push(start.elapsed().as_secs_f64());
            tokens += batch.inputs.n_tokens();
        }
    }
    let line = json!({
        "threads": rayon::current_num_threads(),
        "step_s": seconds,
        "input_tokens": tokens,
        "losses": losses,
        "loaded_mib": loaded_mib,
        "peak_mib": peak_rss_mib(),
    });
    println!("{line}");
    Ok(())
}
