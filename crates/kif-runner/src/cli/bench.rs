//! `kif bench`: methods x orders x seeds on a stream of tasks.

use std::path::{Path, PathBuf};

use anyhow::Result;
use kif_io::signal::StopFlag;
use kif_methods::methods::MethodConfig;
use kif_protocol::{Arch, EvaluatedCells, Protocol};
use kif_report::report;
use kif_runner::run as runs;

use super::common::{
    Answer, ComputeArguments, TemplateArgument, check_out_folder, methods_help, print,
};

/// Arguments of `kif bench`. What is not given stays as the protocol has it.
#[derive(Debug, clap::Args)]
#[command(after_help = methods_help(|_| true))]
pub(crate) struct Arguments {
    /// quick, standard, long, superni, standard-llama, long-llama, or a RON file
    #[arg(default_value = "quick")]
    protocol: String,
    /// Base model: a Hugging Face directory, a GGUF file, or a name in the hub's cache
    /// (ORG/NAME, ORG/NAME@REVISION)
    #[arg(long, value_name = "MODEL")]
    model: Option<PathBuf>,
    /// Which of the small bases inside the program, for the protocols that need no --model
    /// [default: t5]
    #[arg(long, value_enum, conflicts_with = "model")]
    arch: Option<Arch>,
    /// Folder of the task files
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Methods, or `all`
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    methods: Option<Vec<String>>,
    /// Orders of the stream, from 1
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',')]
    orders: Option<Vec<usize>>,
    /// Seeds
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',')]
    seeds: Option<Vec<u64>>,
    /// Passes over a task's rows
    #[arg(long, value_name = "N")]
    epochs: Option<u64>,
    /// Peak learning rate of all methods but those that have one among their settings
    #[arg(long, value_name = "X")]
    lr: Option<f64>,
    /// Training rows of a task: a fixed, class-balanced choice
    #[arg(long, value_name = "N")]
    limit_train: Option<usize>,
    /// Test rows of a task: a fixed, class-balanced choice
    #[arg(long, value_name = "N")]
    limit_test: Option<usize>,
    /// Hold this share of every task's training rows out and evaluate it in place of the test rows
    #[arg(long, value_name = "SHARE")]
    validation: Option<f64>,
    /// exact: what the model writes; labels: the likeliest training label, which tells forgotten
    /// knowledge from a forgotten format. Tasks that the protocol scores by ROUGE-L keep it
    #[arg(long, value_enum)]
    score: Option<Answer>,
    /// Which cells of the score matrix are evaluated
    #[arg(long, value_enum)]
    cells: Option<EvaluatedCells>,
    /// Longest prompt in tokens, end token included
    #[arg(long, value_name = "N")]
    max_input: Option<usize>,
    /// Longest answer in tokens
    #[arg(long, value_name = "N")]
    max_new_tokens: Option<usize>,
    /// Run directory; running again goes on where it stopped [default: runs/PROTOCOL, or
    /// runs/PROTOCOL-decoder with --arch decoder]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    template: TemplateArgument,
    #[command(flatten)]
    compute: ComputeArguments,
}

/// Runs what is missing, then prints the table.
pub(crate) fn run(arguments: Arguments, stop: &StopFlag) -> Result<()> {
    let mut protocol = Protocol::load(&arguments.protocol)?;
    arguments.change(&mut protocol)?;
    let protocol = protocol.canonical();
    protocol.check()?;
    let out = arguments.out.unwrap_or_else(|| default_out(&protocol));
    check_out_folder(&out)?;
    runs::run(&protocol, &out, stop)?;
    print(&report::terminal(&out, None)?)
}

/// Runs on different bases do not get into each other's way.
fn default_out(protocol: &Protocol) -> PathBuf {
    let name = &protocol.name;
    Path::new("runs").join(match protocol.embedded_base() {
        Some(Arch::Decoder) => format!("{name}-{}", Arch::Decoder),
        Some(Arch::T5) | None => name.clone(),
    })
}

impl Arguments {
    /// Puts the flags that were given into the protocol.
    fn change(&self, protocol: &mut Protocol) -> Result<()> {
        fn put<T: Clone>(place: &mut T, given: &Option<T>) {
            if let Some(value) = given {
                place.clone_from(value);
            }
        }
        fn put_some<T: Clone>(place: &mut Option<T>, given: &Option<T>) {
            if given.is_some() {
                place.clone_from(given);
            }
        }
        put_some(&mut protocol.model, &self.model);
        put_some(&mut protocol.arch, &self.arch);
        put_some(&mut protocol.data, &self.data);
        put(&mut protocol.template, &self.template.given());
        put(&mut protocol.orders, &self.orders);
        put(&mut protocol.seeds, &self.seeds);
        put(&mut protocol.training.epochs, &self.epochs);
        if let Some(lr) = self.lr {
            protocol.training.lr = lr;
            protocol.lr_of.clear();
        }
        put_some(&mut protocol.limits.train_rows, &self.limit_train);
        put_some(&mut protocol.limits.test_rows, &self.limit_test);
        put(&mut protocol.evaluation.validation, &self.validation);
        put(
            &mut protocol.evaluation.max_new_tokens,
            &self.max_new_tokens,
        );
        if let Some(score) = self.score {
            protocol.evaluate_by(score.into());
        }
        put(&mut protocol.evaluation.cells, &self.cells);
        put(&mut protocol.limits.max_input, &self.max_input);
        match self.methods.as_deref() {
            Some([all]) if all == "all" => {
                protocol.methods = MethodConfig::all()
                    .iter()
                    .map(|m| m.name().to_owned())
                    .collect();
            }
            Some(names) => protocol.methods = names.to_vec(),
            None => {}
        }
        protocol.compute = self.compute.apply(protocol.compute)?;
        Ok(())
    }
}
