//! `cargo xtask perf`: what `kif-perf` measures, beside PyTorch where there is one, as a table of
//! ratios.
//!
//! Every measurement is a process of its own, ours and the peer's in turns. A time is the median
//! over the rounds, step by step, so that a disturbance of one round does not count.

mod decoders;
mod real;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::{process, workspace};

/// Arguments of `cargo xtask perf`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Small T5 base, for work on real rows: a Hugging Face directory; its tokenizer is that of
    /// bases with random weights, too
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Decoder-only base with its own weights, for work on real rows: a Hugging Face directory, a
    /// GGUF file, or a name in the hub's cache
    #[arg(long, value_name = "MODEL")]
    decoder: Option<PathBuf>,
    /// Folder of tasks, `train/TASK.json` and `test/TASK.json` or, as SuperNI has them,
    /// `TASK/train.json` and `TASK/test.json`, for work on real rows; may be given several times
    #[arg(long, value_name = "DIR")]
    data: Vec<PathBuf>,
    /// Python with torch, transformers and peft, and gguf for a GGUF file; without the first three
    /// the peer is left out
    #[arg(long, value_name = "PROGRAM", default_value = "python3")]
    python: String,
    /// Processes of each kind, in turns
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: usize,
    /// Threads of both [default: all cores]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Only work whose name begins with one of these
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    only: Vec<String>,
    /// Measure a base of 7 billion weights, too, which takes 14 GiB of disk for the time being
    #[arg(long)]
    with_7b: bool,
    /// Where `perf.md`, `perf.json` and bases with random weights go
    #[arg(long, value_name = "DIR", default_value = "runs/perf")]
    out: PathBuf,
}

/// Tasks whose training rows are measured: short, long and uneven inputs.
const TASKS: [&str; 3] = ["agnews", "boolqa", "multirc"];

/// One line of the table.
struct Work {
    name: String,
    ours: Vec<String>,
    against: Against,
    /// Rows that are written before.
    ids: Option<IdFile>,
    /// Largest ratio of times that is aimed at.
    time_target: Option<f64>,
    /// Largest memory that is aimed at, as a ratio to the peer's or in MiB where there is none.
    memory_target: Option<f64>,
    /// Most processes of each kind.
    rounds: usize,
}

/// Rows of text as ids, and the arguments of `kif-perf` that write them but for `--out`.
#[derive(Clone)]
struct IdFile {
    out: PathBuf,
    args: Vec<String>,
}

/// What the time of a work is compared with.
enum Against {
    Peer(Vec<String>),
    Ours(Vec<String>),
    /// Bare steps in the same process.
    BareSteps,
    Nothing,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let program = process::build_program("kif-perf", "kif-perf", &[])?;
    fs::create_dir_all(&options.out)
        .with_context(|| format!("creating {}", options.out.display()))?;
    let bench = Bench {
        program,
        peer: workspace::root()?.join("crates/kif-perf/peer/torch_peer.py"),
        python: with_torch(&options.python),
        options,
    };
    if bench.python.is_none() {
        eprintln!(
            "no peer: {} has no torch, transformers and peft",
            options.python
        );
    }
    let mut report = Report::default();
    if bench.wanted("kernel") {
        report.kernels = Some(bench.ours(&["kernel".into()])?);
    }
    let works = bench.works();
    bench.make_bases(&works)?;
    bench.make_rows(&works)?;
    let large_base = bench.make_7b(&works)?;
    for work in works {
        eprintln!("== {}", work.name);
        report.lines.push(bench.measure(work)?);
    }
    drop(large_base);
    let text = report.markdown();
    print!("{text}");
    write(&options.out.join("perf.md"), &text)?;
    write(
        &options.out.join("perf.json"),
        &serde_json::to_string_pretty(&report.json())?,
    )?;
    Ok(ExitCode::SUCCESS)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

/// The Python if it has what the peer needs.
fn with_torch(python: &str) -> Option<String> {
    let status = Command::new(python)
        .args(["-c", "import torch, transformers, peft"])
        .stderr(Stdio::null())
        .status();
    status
        .is_ok_and(|status| status.success())
        .then(|| python.to_owned())
}

struct Bench<'a> {
    program: PathBuf,
    peer: PathBuf,
    python: Option<String>,
    options: &'a Options,
}

impl Bench<'_> {
    fn wanted(&self, name: &str) -> bool {
        let only = &self.options.only;
        only.is_empty() || only.iter().any(|start| name.starts_with(start))
    }

    /// Everything that can be measured here and is wanted.
    fn works(&self) -> Vec<Work> {
        let mut works = Vec::new();
        let small = self.base_dir("small");
        let on_small = |text: &str| with_paths(text, &[("--model", &small)]);
        for (precision, time, memory) in [("f32", 0.70, 0.50), ("bf16", 0.62, 0.35)] {
            let args = on_small(&format!("step --precision {precision} --steps 10"));
            works.push(Work {
                memory_target: Some(memory),
                ..Work::beside_peer(&format!("step-small-{precision}"), args, time)
            });
        }
        works.push(Work {
            name: "step-small-dropout".into(),
            ours: on_small("step --dropout 0.05 --steps 10"),
            against: Against::Ours(on_small("step --steps 10")),
            ids: None,
            time_target: Some(1.04),
            memory_target: None,
            rounds: usize::MAX,
        });
        works.push(Work {
            name: "round-small".into(),
            ours: on_small("round --rounds 3"),
            against: Against::BareSteps,
            ids: None,
            time_target: Some(1.05),
            memory_target: None,
            rounds: usize::MAX,
        });
        for (precision, limit) in [("f32", 7.0), ("bf16", 4.0)] {
            let base = self.base_dir("large");
            let args = with_paths(
                &format!(
                    "step --precision {precision} --batch-size 4 --input-tokens 256 --steps 3"
                ),
                &[("--model", &base)],
            );
            works.push(Work::alone(
                &format!("large-{precision}"),
                args,
                limit * 1024.0,
            ));
        }
        let Options { model, decoder, .. } = self.options;
        if let Some(model) = model {
            self.works_on_rows(model, &mut works);
            self.works_of_decoders(&mut works);
        }
        if let Some(decoder) = decoder {
            self.works_of_real_base(decoder, &mut works);
        }
        if model.is_none() && decoder.is_none() || self.options.data.is_empty() {
            eprintln!("no work on real rows: it needs --data, and --model or --decoder");
        }
        if self.options.with_7b {
            self.works_of_7b(&mut works);
        }
        works.retain(|work| self.wanted(&work.name));
        works
    }

    fn works_on_rows(&self, model: &Path, works: &mut Vec<Work>) {
        for (task, target) in TASKS.into_iter().zip([0.50, 0.42, 0.56]) {
            let Some(rows) = self.task_file("train", task) else {
                continue;
            };
            let paths = [("--model", model), ("--rows", &rows)];
            let args = with_paths("step --steps 20", &paths);
            works.push(Work::beside_peer(&format!("rows-{task}"), args, target));
        }
        if let Some(rows) = self.task_file("train", "boolqa") {
            for precision in ["f32", "bf16"] {
                let name = format!("step-base-{precision}");
                let base = self.base_dir("base");
                let args = with_paths(
                    &format!("step --steps 4 --precision {precision}"),
                    &[("--model", &base), ("--rows", &rows)],
                );
                works.push(Work::beside_peer(&name, args, 0.48));
            }
        }
        if let Some(rows) = self.task_file("test", "agnews") {
            let paths = [("--model", model), ("--rows", &rows)];
            let answers = with_paths("score", &paths);
            works.push(Work::beside_peer("score-answers", answers.clone(), 0.35));
            works.push(Work {
                ours: with_paths("score --labels", &paths),
                ..Work::beside_peer("score-labels", answers, 0.35)
            });
        }
    }

    /// Rows of a task, in the first folder that has them.
    fn task_file(&self, split: &str, task: &str) -> Option<PathBuf> {
        let places = self.options.data.iter().flat_map(|dir| {
            [
                dir.join(split).join(format!("{task}.json")),
                dir.join(task).join(format!("{split}.json")),
            ]
        });
        let found = places.into_iter().find(|path| path.is_file());
        if found.is_none() && !self.options.data.is_empty() {
            eprintln!("no {split} rows of {task} in --data: their work is left out");
        }
        found
    }

    /// Where the base of a published shape goes, with random weights.
    fn base_dir(&self, shape: &str) -> PathBuf {
        self.options.out.join(format!("base-{shape}"))
    }

    /// Makes the bases that the works name, once, with the tokenizer of `--model`.
    fn make_bases(&self, works: &[Work]) -> Result<()> {
        for shape in ["small", "base", "large", decoders::SMALL] {
            let dir = self.base_dir(shape);
            if dir.join("config.json").exists() || !works.iter().any(|work| work.reads(&dir)) {
                continue;
            }
            let model = self.options.model.as_deref();
            let mut paths = vec![("--out", dir.as_path())];
            paths.extend(model.map(|model| ("--tokenizer-of", model)));
            let args = with_paths(&format!("base --shape {shape}"), &paths);
            process::run(Command::new(&self.program).args(args))?;
        }
        Ok(())
    }

    /// Writes the rows of text that both sides read as ids: a tokenizer of another implementation,
    /// or another way of putting prompt and target together, would be other work.
    fn make_rows(&self, works: &[Work]) -> Result<()> {
        let files: BTreeMap<_, _> = (works.iter().filter_map(|work| work.ids.as_ref()))
            .map(|ids| (&ids.out, &ids.args))
            .collect();
        for (out, args) in files {
            process::run(Command::new(&self.program).args(args).arg("--out").arg(out))?;
        }
        Ok(())
    }

    fn ours(&self, args: &[String]) -> Result<Value> {
        self.line(Command::new(&self.program).args(args))
    }

    /// The peer's measurement, unless there is no peer.
    fn peer(&self, args: &[String]) -> Result<Option<Value>> {
        let Some(python) = &self.python else {
            return Ok(None);
        };
        self.line(Command::new(python).arg(&self.peer).args(args))
            .map(Some)
    }

    /// Runs a measurement and reads the last line that it prints.
    fn line(&self, command: &mut Command) -> Result<Value> {
        if let Some(threads) = self.options.threads {
            command
                .env("RAYON_NUM_THREADS", threads.to_string())
                .env("OMP_NUM_THREADS", threads.to_string());
        }
        let output = command
            .stderr(Stdio::piped())
            .output()
            .with_context(|| format!("starting {}", process::shown(command)))?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            bail!(
                "{} ended with {}:\n{why}",
                process::shown(command),
                output.status
            );
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.lines().last().unwrap_or_default();
        serde_json::from_str(line)
            .with_context(|| format!("{} printed {line:?}", process::shown(command)))
    }

    fn measure(&self, work: Work) -> Result<Line> {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..self.options.rounds.min(work.rounds) {
            ours.push(self.ours(&work.ours)?);
            match &work.against {
                Against::Peer(args) => theirs.extend(self.peer(args)?),
                Against::Ours(args) => theirs.push(self.ours(args)?),
                Against::BareSteps | Against::Nothing => {}
            }
        }
        Ok(Line { work, ours, theirs })
    }
}

impl Work {
    /// Whether our process is given this path.
    fn reads(&self, path: &Path) -> bool {
        self.ours.contains(&path.display().to_string())
    }

    /// The same arguments for us and for the peer.
    fn beside_peer(name: &str, args: Vec<String>, time_target: f64) -> Self {
        Self {
            name: name.into(),
            ours: args.clone(),
            against: Against::Peer(args),
            ids: None,
            time_target: Some(time_target),
            memory_target: None,
            rounds: usize::MAX,
        }
    }

    /// Without a peer, up to `limit` MiB.
    fn alone(name: &str, ours: Vec<String>, limit: f64) -> Self {
        Self {
            name: name.into(),
            ours,
            against: Against::Nothing,
            ids: None,
            time_target: None,
            memory_target: Some(limit),
            rounds: usize::MAX,
        }
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn with_paths(text: &str, paths: &[(&str, &Path)]) -> Vec<String> {
    let mut args = words(text);
    for (name, path) in paths {
        args.extend([(*name).to_owned(), path.display().to_string()]);
    }
    args
}

/// A work and what every process printed.
struct Line {
    work: Work,
    ours: Vec<Value>,
    theirs: Vec<Value>,
}

impl Line {
    /// Seconds of ours and of what it is compared with.
    fn times(&self) -> (Option<f64>, Option<f64>) {
        match self.work.against {
            Against::BareSteps => (
                seconds(&self.ours, "round_s"),
                seconds(&self.ours, "bare_s"),
            ),
            _ => (time(&self.ours), time(&self.theirs)),
        }
    }

    /// MiB of ours and of the peer's.
    fn memory(&self) -> (Option<f64>, Option<f64>) {
        let peak = |lines: &[Value]| median_of(lines, "peak_mib");
        (peak(&self.ours), peak(&self.theirs))
    }
}

/// The whole, or the mean of the steps.
fn time(lines: &[Value]) -> Option<f64> {
    median_of(lines, "total_s").or_else(|| seconds(lines, "step_s"))
}

/// The median over the processes.
fn median_of(lines: &[Value], key: &str) -> Option<f64> {
    median(lines.iter().filter_map(|line| line[key].as_f64()).collect())
}

/// The mean over the entries of a list of seconds, of each the median over the processes.
fn seconds(lines: &[Value], key: &str) -> Option<f64> {
    let lists: Vec<&Vec<Value>> = lines
        .iter()
        .filter_map(|line| line[key].as_array())
        .collect();
    let n = lists.first()?.len();
    let medians = (0..n).map(|i| {
        median(
            lists
                .iter()
                .filter_map(|list| list.get(i)?.as_f64())
                .collect(),
        )
    });
    Some(medians.sum::<Option<f64>>()? / n as f64)
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

#[derive(Default)]
struct Report {
    kernels: Option<Value>,
    lines: Vec<Line>,
}

impl Report {
    fn markdown(&self) -> String {
        let mut text = String::new();
        if let Some(kernels) = &self.kernels {
            kernel_table(kernels, &mut text);
        }
        if self.lines.is_empty() {
            return text;
        }
        text += "| work | ours, s | compared with, s | ratio | at most | ours, MiB | compared with, MiB | ratio | at most |\n";
        text += "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n";
        for line in &self.lines {
            let ((ours, theirs), (ours_mib, theirs_mib)) = (line.times(), line.memory());
            let alone = matches!(line.work.against, Against::Nothing);
            let limit = line.work.memory_target.map(|x| {
                if alone {
                    format!("{x:.0} MiB")
                } else {
                    format!("{x:.2}")
                }
            });
            writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                line.work.name,
                shown(ours, 3),
                shown(theirs, 3),
                shown(ratio(ours, theirs), 2),
                shown(line.work.time_target, 2),
                shown(ours_mib, 0),
                shown(theirs_mib, 0),
                shown(ratio(ours_mib, theirs_mib), 2),
                limit.unwrap_or_else(|| "–".into()),
            )
            .expect("writing to a string");
        }
        let rows = self
            .lines
            .iter()
            .filter(|line| line.work.name.starts_with("rows-"));
        let (ours, theirs): (Vec<_>, Vec<_>) = rows.map(Line::times).unzip();
        if ours.len() == TASKS.len() {
            let (ours, theirs): (Option<f64>, Option<f64>) =
                (ours.into_iter().sum(), theirs.into_iter().sum());
            writeln!(
                text,
                "| rows, all three | {} | {} | {} | 0.48 | – | – | – | – |",
                shown(ours, 3),
                shown(theirs, 3),
                shown(ratio(ours, theirs), 2)
            )
            .expect("writing to a string");
        }
        text
    }

    fn json(&self) -> Value {
        let works: BTreeMap<&str, Value> = self
            .lines
            .iter()
            .map(|line| {
                (
                    line.work.name.as_str(),
                    json!({ "ours": line.ours, "compared_with": line.theirs }),
                )
            })
            .collect();
        json!({ "kernels": self.kernels, "works": works })
    }
}

fn kernel_table(kernels: &Value, text: &mut String) {
    let (set, threads) = (&kernels["instruction_set"], &kernels["threads"]);
    writeln!(
        text,
        "GFLOP/s, best call and median; {set}, {threads} threads\n"
    )
    .expect("writing to a string");
    *text += "| rows x inner x columns | f32 | bf16 | int8 | AVX2 | `gemm` crate |\n| --- | ---: | ---: | ---: | ---: | ---: |\n";
    for product in kernels["gflops_best_and_median"]
        .as_array()
        .into_iter()
        .flatten()
    {
        let rate = |key: &str| format!("{}, {}", product[key][0], product[key][1]);
        writeln!(
            text,
            "| {} x {} x {} | {} | {} | {} | {} | {} |",
            product["rows"],
            product["inner"],
            product["columns"],
            rate("f32"),
            rate("bf16"),
            rate("int8"),
            rate("avx2"),
            rate("gemm_crate")
        )
        .expect("writing to a string");
    }
    *text += "\n";
}

fn ratio(ours: Option<f64>, theirs: Option<f64>) -> Option<f64> {
    Some(ours? / theirs?)
}

fn shown(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "–".into(), |x| format!("{x:.digits$}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disturbed_round_does_not_count() {
        let lines = [
            json!({ "step_s": [1.0, 2.0] }),
            json!({ "step_s": [9.0, 2.0] }),
            json!({ "step_s": [1.0, 9.0] }),
        ];
        assert_eq!(seconds(&lines, "step_s"), Some(1.5));
        assert_eq!(seconds(&lines, "round_s"), None);
        assert_eq!(time(&[json!({ "total_s": 4.0 })]), Some(4.0));
    }
}
