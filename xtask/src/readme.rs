//! The commands of the README: every block fenced as ```` ```sh ```` is run by CI, in order.

/// A block of commands and where it stands.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// Line of the first command, from 1.
    pub(crate) line: usize,
    /// One command each; lines that end in `\` are joined with the next.
    pub(crate) commands: Vec<String>,
}

/// What CI does with a command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Run,
    /// Not run, for this reason.
    Skip(String),
}

/// Files outside the repository that README commands may name; they are run where these are set.
const NEEDED: [&str; 2] = ["KIF_DATA", "KIF_MODEL"];

/// Commands that are steps of CI themselves.
const STEPS: [&str; 3] = ["cargo xtask test", "cargo xtask bench", "cargo xtask ci"];

/// All blocks fenced as `sh`.
pub(crate) fn blocks(markdown: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let (mut inside, mut joined) = (false, false);
    for (at, line) in markdown.lines().enumerate() {
        let text = line.trim();
        if text.starts_with("```") {
            inside = !inside && text == "```sh";
            if inside {
                blocks.push(Block {
                    line: at + 2,
                    commands: Vec::new(),
                });
            }
            joined = false;
            continue;
        }
        let Some(block) = blocks.last_mut().filter(|_| inside) else {
            continue;
        };
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let continues = text.ends_with('\\');
        let text = text.trim_end_matches('\\').trim_end();
        match block.commands.last_mut().filter(|_| joined) {
            Some(command) => *command = format!("{command} {text}"),
            None => block.commands.push(text.to_owned()),
        }
        joined = continues;
    }
    blocks
}

/// Whether a command brings something from elsewhere: where that cannot be had, CI skips its block.
pub(crate) fn fetches(command: &str) -> bool {
    command.starts_with("python3 -m pip download ")
}

/// Whether CI runs a command, given which environment variables are set.
pub(crate) fn verdict(command: &str, is_set: impl Fn(&str) -> bool) -> Verdict {
    let bare = command.split(" #").next().unwrap_or(command).trim();
    if STEPS.contains(&bare) {
        return Verdict::Skip("a step of its own".to_owned());
    }
    match NEEDED
        .iter()
        .find(|name| command.contains(&format!("${name}")) && !is_set(name))
    {
        Some(name) => Verdict::Skip(format!("{name} is not set")),
        None => Verdict::Run,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sh_blocks_are_commands_and_continued_lines_are_one() {
        let text = "a\n```sh\n# comment\nkif learn \\\n  --task x\nkif report y\n```\n```text\nno\n```\n```sh\nls\n```\n";
        assert_eq!(
            blocks(text),
            [
                Block {
                    line: 3,
                    commands: vec!["kif learn --task x".into(), "kif report y".into()]
                },
                Block {
                    line: 12,
                    commands: vec!["ls".into()]
                },
            ]
        );
    }

    #[test]
    fn commands_that_need_missing_files_are_skipped_by_name() {
        let unset = |_: &str| false;
        assert_eq!(
            verdict("kif bench --data \"$KIF_DATA\"", unset),
            Verdict::Skip("KIF_DATA is not set".into())
        );
        assert_eq!(
            verdict("kif bench --data \"$KIF_DATA\"", |_| true),
            Verdict::Run
        );
        assert_eq!(
            verdict("cargo xtask bench   # two minutes", unset),
            Verdict::Skip("a step of its own".into())
        );
        assert_eq!(verdict("kif report runs/quick", unset), Verdict::Run);
        assert!(
            fetches("python3 -m pip download --no-deps x") && !fetches("kif report runs/quick")
        );
    }
}
