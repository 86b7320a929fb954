//! `kif score`: answers for the rows of a file, and how good they are.

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::Result;
use kif_data::{Row, read_rows};
use kif_io::atomic;
use kif_io::failure::BadInput;
use kif_io::progress::Progress;
use kif_io::signal::StopFlag;
use kif_protocol::{Compute, ScoreKind};
use kif_runner::codec::check_vocabulary;
use kif_runner::evaluate::{Evaluation, EvaluationOptions, TestSet, evaluate};
use serde::Serialize;

use super::common::{
    Answer, ComputeArguments, ModelAndRows, TemplateArgument, UNCUT, at_least_one, print,
};

/// Arguments of `kif score`.
#[derive(Debug, clap::Args)]
#[command(mut_arg("adapter", |arg| arg.help("Adapter in PEFT layout, adapters with a router, or soft prompts; without one, the base alone")))]
pub(crate) struct Arguments {
    #[command(flatten)]
    input: ModelAndRows,
    /// Where answers go, a JSON line a row
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Longest answer in tokens
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = at_least_one)]
    max_new_tokens: usize,
    /// exact: what the model writes; labels: the likeliest label
    #[arg(long, value_enum, default_value_t = Answer::Exact)]
    score: Answer,
    /// Labels to choose among [default: all first references of the file]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    labels: Option<Vec<String>>,
    /// Rows that go through the model at once; results do not depend on it
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = at_least_one)]
    batch_size: usize,
    #[command(flatten)]
    template: TemplateArgument,
    #[command(flatten)]
    compute: ComputeArguments,
}

/// A line of the output file.
#[derive(Serialize)]
struct Line<'a> {
    id: &'a str,
    prediction: &'a str,
    references: &'a [String],
    exact: bool,
    rouge_l: f64,
}

/// Evaluates all rows, writes the answers, prints the totals.
pub(crate) fn run(arguments: Arguments, stop: &StopFlag) -> Result<()> {
    let compute = arguments.compute.apply(Compute::default())?;
    let input = &arguments.input;
    let rows = read_rows(&input.data)?;
    let codec = input.codec(&arguments.template)?;
    let score = ScoreKind::from(arguments.score);
    if arguments.labels.is_some() && score != ScoreKind::Labels {
        return Err(BadInput("--labels needs --score labels".into()).into());
    }
    let test = TestSet::new(&rows, &codec, UNCUT, score, arguments.labels)?;
    let model = input.load(&compute)?;
    check_vocabulary(&rows, &test.encoded, model.vocab_size())?;
    let options = EvaluationOptions {
        score,
        max_new_tokens: arguments.max_new_tokens,
        batch_tokens: usize::MAX,
        batch_rows: arguments.batch_size,
    };
    let mut progress = Progress::new(rows.len() as u64);
    progress.label(format!("scoring {}", input.data.display()));
    let evaluation = evaluate(model.as_ref(), &codec, &test, &options, stop, |n| {
        progress.advance(n as u64)
    })?;
    progress.finish();
    if let Some(out) = &arguments.out {
        atomic::write(out, lines(&rows, &test, &evaluation)?.as_bytes())?;
    }
    print(&totals(&evaluation))
}

fn lines(rows: &[Row], test: &TestSet, evaluation: &Evaluation) -> Result<String> {
    let mut text = String::new();
    for (i, row) in rows.iter().enumerate() {
        let line = Line {
            id: &row.id,
            prediction: &evaluation.predictions[i],
            references: &test.references[i],
            exact: evaluation.correct[i],
            rouge_l: evaluation.rouge_l[i],
        };
        writeln!(text, "{}", serde_json::to_string(&line)?)?;
    }
    Ok(text)
}

fn totals(evaluation: &Evaluation) -> String {
    let right = evaluation.correct.iter().filter(|&&c| c).count();
    format!(
        "rows     {}\nexact    {:.4} ({right} right)\nrouge_l  {:.4}\n",
        evaluation.correct.len(),
        evaluation.accuracy(),
        evaluation.mean_rouge_l(),
    )
}
