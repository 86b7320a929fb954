//! What continuous integration runs, step by step.

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::readme::{self, Verdict};
use crate::{fixtures, format, methods, process, structure, workspace};

/// All steps in order; the first that fails ends the run. Ends with a table of wall times.
pub(crate) fn run() -> Result<ExitCode> {
    let scratch = process::target_dir()?.join("ci");
    if scratch.exists() {
        fs::remove_dir_all(&scratch).with_context(|| format!("emptying {}", scratch.display()))?;
    }
    fs::create_dir_all(&scratch).with_context(|| format!("creating {}", scratch.display()))?;

    let mut steps = Steps::default();
    steps.step("format", || format::run(true))?;
    steps.step("structure", structure::check)?;
    steps.step("fixtures", || fixtures::check().map(drop))?;
    steps.step("clippy", || {
        cargo("clippy --workspace --all-targets -- -D warnings")
    })?;
    steps.step("clippy, CUDA", || {
        cargo(
            "clippy --workspace --all-targets --features kif-runner/cuda,dfdx/ci-check -- -D warnings",
        )
    })?;
    steps.step("test", || cargo("xtask test"))?;
    steps.step("examples", || {
        // The tests have built them; `cargo run` would build their dependencies once more, with
        // the features that one package asks for.
        let built = process::target_dir()?.join("debug/examples");
        for name in ["one_round", "custom_method"] {
            let program = format!("{name}{}", env::consts::EXE_SUFFIX);
            process::run(&mut Command::new(built.join(program)))?;
        }
        Ok(())
    })?;
    steps.step("docs", || {
        let mut doc = process::cargo();
        process::run(
            doc.args(["doc", "--workspace", "--no-deps"])
                .env("RUSTDOCFLAGS", "-D warnings")
                .current_dir(workspace::root()?),
        )
    })?;
    for (step, arch) in [("quick, T5", "t5"), ("quick, decoder", "decoder")] {
        steps.step(step, || {
            let mut bench = process::cargo();
            process::run(
                bench
                    .args(["xtask", "bench", "quick", "--arch", arch, "--out"])
                    .arg(scratch.join(format!("quick-{arch}")))
                    .current_dir(workspace::root()?),
            )
        })?;
    }
    steps.step("reproduction", || cargo("xtask reproduction --check"))?;
    steps.step("README methods", methods::check)?;
    steps.step("README commands", || readme_commands(&scratch))?;
    steps.print();
    Ok(ExitCode::SUCCESS)
}

/// Names, wall times, and the order of what ran.
#[derive(Default)]
struct Steps {
    done: Vec<(&'static str, f64)>,
}

impl Steps {
    fn step(&mut self, name: &'static str, action: impl FnOnce() -> Result<()>) -> Result<()> {
        eprintln!("== {name}");
        let start = Instant::now();
        action().with_context(|| format!("step {name}"))?;
        let wall_s = start.elapsed().as_secs_f64();
        eprintln!("== {name}: ok, {wall_s:.1} s");
        self.done.push((name, wall_s));
        Ok(())
    }

    fn print(&self) {
        for (name, wall_s) in &self.done {
            eprintln!("{name:20} {wall_s:8.1} s");
        }
        eprintln!(
            "{:20} {:8.1} s",
            "all",
            self.done.iter().map(|(_, wall_s)| wall_s).sum::<f64>()
        );
    }
}

/// `cargo` with arguments that contain no spaces, in the root of the workspace.
fn cargo(args: &str) -> Result<()> {
    process::run(
        process::cargo()
            .args(args.split(' '))
            .current_dir(workspace::root()?),
    )
}

/// Runs the README's blocks in order, each as one shell script in the root, with the built `kif` on
/// the path.
fn readme_commands(scratch: &Path) -> Result<()> {
    let readme = workspace::root()?.join("README.md");
    let text =
        fs::read_to_string(&readme).with_context(|| format!("reading {}", readme.display()))?;
    let programs = process::build_kif(false)?
        .parent()
        .context("kif has no folder")?
        .to_path_buf();
    let path = env::join_paths(
        std::iter::once(programs).chain(env::split_paths(&env::var_os("PATH").unwrap_or_default())),
    )?;
    let shell = |script: &str| -> Result<Command> {
        let mut shell = Command::new("bash");
        shell
            .args(["-c", &format!("set -euo pipefail\n{script}")])
            .current_dir(workspace::root()?)
            .env("PATH", &path)
            .env("TMPDIR", scratch);
        Ok(shell)
    };
    for block in readme::blocks(&text) {
        let fetched = block
            .commands
            .iter()
            .find(|command| readme::fetches(command));
        if let Some(command) = fetched
            && process::run(&mut shell(command)?).is_err()
        {
            eprintln!("skipped (cannot be had here): the block of {command}");
            continue;
        }
        let script = script(&block);
        if !script.is_empty() {
            process::run(&mut shell(&script)?)
                .with_context(|| format!("README.md:{}", block.line))?;
        }
    }
    Ok(())
}

/// The commands of a block that are run here, each shown before it is run.
fn script(block: &readme::Block) -> String {
    let mut script = String::new();
    for command in &block.commands {
        match readme::verdict(command, |name| env::var_os(name).is_some()) {
            Verdict::Skip(reason) => eprintln!("skipped ({reason}): {command}"),
            Verdict::Run => {
                let shown = command.replace('\'', "'\\''");
                script += &format!("echo '+ {shown}' >&2\n{command}\n");
            }
        }
    }
    script
}
