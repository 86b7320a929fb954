//! The device emulator: a `libcuda.so.1` that runs our own kernels on the CPU and a
//! `libcublas.so.13` that computes.
//!
//! Built by `g++` from the C++ beside this file and from the kernels' sources, which are compiled
//! as C++. Kernels of dfdx are loaded and named; launching one is an error.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};

use super::dependency::{declared, package_dir};
use crate::{process, workspace};

/// What `cargo xtask cuda-emulator` is asked for.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Folder of the kernels' sources
    #[arg(long, value_name = "DIR")]
    kernels: Option<PathBuf>,
    /// Where the libraries go
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Builds the libraries and says how to use them.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let kernels = match &options.kernels {
        Some(kernels) => kernels.clone(),
        None => kernels_dir()?,
    };
    let out = match &options.out {
        Some(out) => out.clone(),
        None => super::folder()?.join("emulator"),
    };
    let cudarc = package_dir("cudarc")?;
    let names = build(&kernels, &out, Some(&cudarc))?;
    eprintln!("{} kernels of {}", names.len(), kernels.display());
    println!("{}", out.display());
    Ok(ExitCode::SUCCESS)
}

/// Where the program's kernels lie.
pub(crate) fn kernels_dir() -> Result<PathBuf> {
    Ok(workspace::root()?.join("crates/kif-model/src/engine/cuda/kernels"))
}

/// Builds both libraries in `out` with every kernel of `kernels/*.cu`, and returns the kernels'
/// names.
///
/// `common.cuh` of that folder is included once, before the others. With the sources of cudarc,
/// every function that it declares and the emulator lacks becomes one that ends the program with
/// its name, so that a program built against cudarc can be loaded.
pub(crate) fn build(kernels: &Path, out: &Path, cudarc: Option<&Path>) -> Result<Vec<String>> {
    fs::create_dir_all(out).with_context(|| format!("creating {}", out.display()))?;
    let sources = sources(kernels)?;
    let text = preprocessed(&sources)?;
    let names = kernel_names(&text)?;
    write(&out.join("kernels.cpp"), &kernel_table(&sources, &names)?)?;
    write(&out.join("shared.cpp"), &shared_memory(&text))?;
    let missing = |library, prefix| match cudarc {
        Some(cudarc) => Ok(missing_functions(&declared(cudarc, library, prefix)?)),
        None => Ok::<_, anyhow::Error>(String::new()),
    };
    write(&out.join("missing_cuda.cpp"), &missing("driver", "cu")?)?;
    write(
        &out.join("missing_cublas.cpp"),
        &missing("cublas", "cublas")?,
    )?;
    let emulator = emulator_dir()?;
    let source = |name: &str| emulator.join(name);
    library(
        "libcuda.so.1",
        &[
            source("driver.cpp"),
            source("grid.cpp"),
            out.join("kernels.cpp"),
            out.join("shared.cpp"),
            out.join("missing_cuda.cpp"),
        ],
        out,
    )?;
    library(
        "libcublas.so.13",
        &[source("cublas.cpp"), out.join("missing_cublas.cpp")],
        out,
    )?;
    Ok(names)
}

fn emulator_dir() -> Result<PathBuf> {
    Ok(workspace::root()?.join("xtask/src/cuda/emulator"))
}

fn library(soname: &str, sources: &[PathBuf], out: &Path) -> Result<()> {
    process::run(
        gxx()?
            .args([
                "-shared",
                "-fPIC",
                "-fvisibility=hidden",
                "-ftls-model=initial-exec",
            ])
            .arg(format!("-Wl,-soname,{soname}"))
            .arg("-o")
            .arg(out.join(soname))
            .args(sources),
    )
}

fn gxx() -> Result<Command> {
    let mut gxx = Command::new("g++");
    // No contraction to fused multiply-adds and no reordering: results do not depend on the
    // building machine.
    gxx.args(["-std=c++20", "-O2", "-ftree-vectorize", "-ffp-contract=off"])
        .arg("-I")
        .arg(emulator_dir()?);
    Ok(gxx)
}

/// `common.cuh` where there is one, then every `.cu` by name.
fn sources(kernels: &Path) -> Result<Vec<PathBuf>> {
    if !kernels.exists() {
        return Ok(Vec::new());
    }
    let mut sources: Vec<PathBuf> = fs::read_dir(kernels)
        .with_context(|| format!("reading {}", kernels.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    sources.retain(|path| path.extension().is_some_and(|extension| extension == "cu"));
    sources.sort();
    let common = kernels.join("common.cuh");
    if common.exists() {
        sources.insert(0, common);
    }
    Ok(sources)
}

fn includes(sources: &[PathBuf]) -> String {
    let mut text = String::new();
    for source in sources {
        let _ = writeln!(text, "#include \"{}\"", source.display());
    }
    text
}

/// All sources in one, with macros expanded, but CUDA's own words left as they are.
fn preprocessed(sources: &[PathBuf]) -> Result<String> {
    let mut compiler = Command::new("g++")
        .args(["-E", "-P", "-x", "c++", "-DKIF_EMULATED=1", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting g++")?;
    // The text is a line a file: it fits into the pipe. The end of input comes with the handle's.
    let input = compiler.stdin.take();
    input
        .context("g++ takes no input")?
        .write_all(includes(sources).as_bytes())
        .context("writing to g++")?;
    let output = compiler.wait_with_output().context("waiting for g++")?;
    if !output.status.success() {
        bail!(
            "the kernels' sources: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    String::from_utf8(output.stdout).context("the kernels' sources are not UTF-8")
}

/// The names behind every `__global__`, in order.
fn kernel_names(preprocessed: &str) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for behind in preprocessed.split("__global__").skip(1) {
        let behind = match behind.split_once("__launch_bounds__") {
            // Only where the bounds stand before the parameters.
            Some((before, rest)) if !before.contains('(') => {
                rest.split_once(')').map_or(rest, |(_, rest)| rest)
            }
            _ => behind,
        };
        let head = behind.split('(').next().unwrap_or_default();
        let name = words(head).last().unwrap_or_default();
        if name.is_empty() {
            bail!("a __global__ without a name");
        }
        names.push(name.to_owned());
    }
    Ok(names)
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
}

fn kernel_table(sources: &[PathBuf], names: &[String]) -> Result<String> {
    let mut text = String::from("#include \"kernel_host.h\"\n#include \"grid.h\"\n");
    text += &includes(sources);
    text += "const kif::Kernel kif::kernels[] = {\n";
    for name in names {
        writeln!(
            text,
            "    {{\"{name}\", [](void **arguments) {{ kif::call(&::{name}, arguments); }}}},"
        )?;
    }
    text += "    {nullptr, nullptr}};\n";
    Ok(text)
}

/// Definitions of every `extern __shared__ T name[]`.
fn shared_memory(preprocessed: &str) -> String {
    let mut declarations = BTreeSet::new();
    for behind in preprocessed.split("__shared__").skip(1) {
        let before = &preprocessed[..behind.as_ptr() as usize - preprocessed.as_ptr() as usize];
        let external = words(before.trim_end_matches("__shared__").trim_end())
            .last()
            .is_some_and(|word| word == "extern");
        if let (true, Some((declaration, _))) = (external, behind.split_once('[')) {
            declarations.insert(declaration.trim().to_owned());
        }
    }
    let mut text = String::from("#include \"kernel_host.h\"\n#include \"grid.h\"\n");
    let mut table = String::new();
    for declaration in declarations {
        let name = words(&declaration).last().unwrap_or_default().to_owned();
        let _ = writeln!(
            text,
            "alignas(128) thread_local {declaration}[kif::max_shared_bytes / sizeof({})];",
            words(&declaration)
                .filter(|word| *word != name && *word != "__align__")
                .filter(|word| word.parse::<u32>().is_err())
                .collect::<Vec<_>>()
                .join(" ")
        );
        let _ = writeln!(
            table,
            "    {{\"{name}\", [] {{ return (void *)::{name}; }}}},"
        );
    }
    text + "const kif::Shared kif::shared[] = {\n" + &table + "    {nullptr, nullptr}};\n"
}

/// Weak definitions: the emulator's own win over them.
fn missing_functions(names: &BTreeSet<String>) -> String {
    let mut text = String::from("#include <cstdio>\n#include <cstdlib>\n");
    for name in names {
        let _ = writeln!(
            text,
            "extern \"C\" __attribute__((weak, visibility(\"default\"))) int {name}() {{ std::fprintf(stderr, \
             \"emulator: {name} is not emulated\\n\"); std::abort(); }}"
        );
    }
    text
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_is_a_compiler() -> bool {
        let there = Command::new("g++").arg("--version").output().is_ok()
            && cfg!(all(target_arch = "x86_64", target_os = "linux"));
        if !there {
            eprintln!("skipped: no g++ on x86-64 Linux");
        }
        there
    }

    #[test]
    fn kernels_run_as_on_a_device_and_mistakes_show() {
        if !there_is_a_compiler() {
            return;
        }
        let out = std::env::temp_dir().join(format!("kif-emulator-{}", std::process::id()));
        let test = emulator_dir().unwrap().join("test");
        let names = build(&test.join("kernels"), &out, None).unwrap();
        assert_eq!(
            names,
            [
                "row_sum",
                "row_sum_wrong",
                "sum_all",
                "leaves_early",
                "writes_outside",
                "scale_add",
                "place"
            ]
        );
        for program in ["test", "stuck"] {
            let path = out.join(program);
            process::run(
                gxx()
                    .unwrap()
                    .arg("-o")
                    .arg(&path)
                    .arg(test.join(format!("{program}.cpp")))
                    .arg(out.join("libcuda.so.1"))
                    .arg(out.join("libcublas.so.13")),
            )
            .unwrap();
            process::run(Command::new(&path).env("LD_LIBRARY_PATH", &out)).unwrap();
        }
        fs::remove_dir_all(&out).unwrap();
    }

    #[test]
    fn dynamic_shared_memory_is_found_by_its_declaration() {
        let text = shared_memory(
            "void f() { __shared__ float a[3]; extern __shared__ unsigned char bytes[]; }",
        );
        assert!(text.contains(
            "thread_local unsigned char bytes[kif::max_shared_bytes / sizeof(unsigned char)]"
        ));
        assert!(!text.contains(" a["));
    }
}
