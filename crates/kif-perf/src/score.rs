//! Answers to the rows of a file.

use std::time::Instant;

use crate::rows::FirstRows;
use anyhow::Result;
use kif_io::memory::peak_rss_mib;
use kif_io::signal::StopFlag;
use kif_model::load;
use kif_protocol::{Precision, ScoreKind};
use kif_runner::evaluate::{EvaluationOptions, TestSet, batch_rows, evaluate};
use serde_json::json;

/// Arguments of `kif-perf score`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    first: FirstRows,
    /// Choose the likeliest label instead of writing an answer
    #[arg(long)]
    labels: bool,
    /// Longest answer in tokens
    #[arg(long, value_name = "N", default_value_t = 16)]
    max_new_tokens: usize,
    /// Prompt tokens of a batch
    #[arg(long, value_name = "N", default_value_t = 4096)]
    batch_tokens: usize,
    /// Number format of the frozen weights
    #[arg(long, value_enum, default_value = "f32")]
    precision: Precision,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let (rows, codec) = (arguments.first.read()?, arguments.first.codec()?);
    let base = &arguments.first.base;
    let model = load(&base.path()?, &base.options(arguments.precision)?)?;
    let score = if arguments.labels {
        ScoreKind::Labels
    } else {
        ScoreKind::Exact
    };
    let test = TestSet::new(&rows, &codec, arguments.first.limits(), score, None)?;
    let options = EvaluationOptions {
        score,
        max_new_tokens: arguments.max_new_tokens,
        batch_tokens: arguments.batch_tokens,
        batch_rows: batch_rows(score, arguments.max_new_tokens),
    };
    let start = Instant::now();
    let evaluation = evaluate(
        model.as_ref(),
        &codec,
        &test,
        &options,
        &StopFlag::default(),
        |_| {},
    )?;
    let line = json!({
        "threads": rayon::current_num_threads(),
        "total_s": start.elapsed().as_secs_f64(),
        "rows": rows.len(),
        "exact_match": evaluation.accuracy(),
        "peak_mib": peak_rss_mib(),
    });
    println!("{line}");
    Ok(())
}
