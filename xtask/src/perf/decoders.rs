//! Work of decoder-only models: a small one beside PyTorch on real rows, and on request one of 7
//! billion weights alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{Bench, IdFile, Work, with_paths, words};
use crate::process;

/// The shape that is measured beside the peer.
pub(super) const SMALL: &str = "qwen3-0.6b";
/// The shape that hardly fits.
const LARGE: &str = "llama2-7b";
/// What it takes on disk, with some to spare.
const LARGE_MIB: u64 = 14 << 10;
/// Rows that steps and texts are measured on.
const N_ROWS: usize = 64;

impl Bench<'_> {
    /// Steps and texts on real rows.
    pub(super) fn works_of_decoders(&self, works: &mut Vec<Work>) {
        let base = self.base_dir(SMALL);
        if let Some(ids) = self.ids_of_agnews("train") {
            for precision in ["f32", "bf16"] {
                let args = with_paths(
                    &format!("step --precision {precision} --batch-size 4 --warm-up 1 --steps 3"),
                    &[("--model", &base), ("--rows", &ids.out)],
                );
                works.push(Work {
                    ids: Some(ids.clone()),
                    memory_target: Some(0.60),
                    ..Work::beside_peer(&format!("decoder-step-{precision}"), args, 0.65)
                });
            }
        }
        if let Some(ids) = self.ids_of_agnews("test") {
            for precision in ["f32", "bf16"] {
                let args = with_paths(
                    &format!(
                        "generate --precision {precision} --limit {N_ROWS} --max-new-tokens 16"
                    ),
                    &[("--model", &base), ("--rows", &ids.out)],
                );
                // Keys and values of all prompts of a batch are kept; the peer's batches have as
                // many tokens, and more padded.
                let ours = [args.as_slice(), &words("--batch-tokens 2048")].concat();
                works.push(Work {
                    ours,
                    ids: Some(ids.clone()),
                    memory_target: Some(0.60),
                    ..Work::beside_peer(&format!("decoder-generate-{precision}"), args, 0.50)
                });
            }
        }
    }

    fn ids_of_agnews(&self, split: &str) -> Option<IdFile> {
        let rows = self.task_file(split, "agnews")?;
        Some(IdFile {
            out: self.options.out.join(format!("rows-{split}.jsonl")),
            args: with_paths(
                &format!("rows --limit {N_ROWS}"),
                &[("--model", &self.base_dir(SMALL)), ("--rows", &rows)],
            ),
        })
    }

    /// Two steps of one row of 256 tokens: the last of the targets is predicted, not read.
    pub(super) fn works_of_7b(&self, works: &mut Vec<Work>) {
        let base = self.base_dir(LARGE);
        for (precision, limit) in [("bf16", 17.0), ("int8", 10.0)] {
            let text = format!(
                "step --precision {precision} --recompute --batch-size 1 --input-tokens 249 --warm-up 0 --steps 2"
            );
            let args = with_paths(&text, &[("--model", &base)]);
            works.push(Work {
                rounds: 1,
                ..Work::alone(&format!("{LARGE}-{precision}"), args, limit * 1024.0)
            });
        }
    }

    /// Makes the large base if a work names it. It goes with what is returned.
    pub(super) fn make_7b(&self, works: &[Work]) -> Result<Option<Temporary>> {
        let dir = self.base_dir(LARGE);
        let name = dir.display().to_string();
        if !works.iter().any(|work| work.reads(&dir)) {
            return Ok(None);
        }
        // Of a run that was killed.
        if dir.exists() {
            fs::remove_dir_all(&dir).with_context(|| format!("removing {name}"))?;
        }
        let free = free_mib(&self.options.out)?;
        if free < LARGE_MIB {
            bail!(
                "{} has {free} MiB free, a base of shape {LARGE} takes {LARGE_MIB}",
                self.options.out.display()
            );
        }
        eprintln!("== {} ({LARGE_MIB} MiB, removed at the end)", name);
        let base = Temporary(dir.clone());
        let args = with_paths(&format!("base --shape {LARGE}"), &[("--out", &dir)]);
        process::run(Command::new(&self.program).args(args))?;
        Ok(Some(base))
    }
}

/// A folder that is removed in the end, also after an error.
pub(super) struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("{} is left behind: {error}", self.0.display());
        }
    }
}

/// What the disk under a folder has left.
fn free_mib(dir: &Path) -> Result<u64> {
    let output = Command::new("df").arg("-Pk").arg(dir).output();
    let output = output.context("asking df for the space that is free")?;
    let text = String::from_utf8_lossy(&output.stdout);
    free_kib(&text)
        .map(|kib| kib >> 10)
        .with_context(|| format!("df -Pk {} printed {text:?}", dir.display()))
}

/// The fourth field of the second line, as POSIX has it.
fn free_kib(text: &str) -> Option<u64> {
    let line = text.lines().nth(1)?;
    line.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_space_is_read_off_the_portable_format() {
        let text =
            "Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/vda 9 4 5 44% /\n";
        assert_eq!(free_kib(text), Some(5));
        assert_eq!(free_kib("nothing"), None);
    }
}
