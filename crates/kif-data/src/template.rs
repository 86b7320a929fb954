//! How prompts are put together: as their files have them, and as templates want them.

use std::ops::Range;
use std::path::{Path, PathBuf};

use minijinja::{Environment, UndefinedBehavior, context};

use crate::error::DataError;
use crate::json::read_limited;

/// Largest template file that is read.
const MAX_TEMPLATE_BYTES: u64 = 1 << 20;

/// What the model reads, whole and in its two parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    text: String,
    instruction: Range<usize>,
    input: Range<usize>,
}

impl Prompt {
    /// `before instruction between input behind`.
    fn framed([before, instruction, between, input, behind]: [&str; 5]) -> Self {
        let instruction_at = before.len();
        let input_at = instruction_at + instruction.len() + between.len();
        Self {
            text: [before, instruction, between, input, behind].concat(),
            instruction: instruction_at..instruction_at + instruction.len(),
            input: input_at..input_at + input.len(),
        }
    }

    /// All of it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What is to be done; empty where the file does not say it apart.
    pub fn instruction(&self) -> &str {
        &self.text[self.instruction.clone()]
    }

    /// What it is to be done with.
    pub fn input(&self) -> &str {
        &self.text[self.input.clone()]
    }

    /// The same with the first `n_bytes` of the input, or one character less.
    pub(crate) fn with_input_cut(&self, n_bytes: usize) -> Self {
        let end = self.input.start + self.text.len().min(n_bytes);
        let end = self.text.floor_char_boundary(end.min(self.input.end));
        Self {
            text: [&self.text[..end], &self.text[self.input.end..]].concat(),
            instruction: self.instruction.clone(),
            input: self.input.start..end,
        }
    }
}

impl From<String> for Prompt {
    fn from(text: String) -> Self {
        let input = 0..text.len();
        Self {
            text,
            instruction: 0..0,
            input,
        }
    }
}

impl From<&str> for Prompt {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

/// What a prompt looks like to the model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Template {
    /// As the task's files have it.
    #[default]
    Plain,
    /// The preamble of Alpaca, with the instruction and the input under headings (the
    /// published LLaMA runs).
    Alpaca,
    /// A minijinja template of one's own, which knows `instruction`, `input` and `prompt`, the
    /// whole. The newline that ends its file is not a part of it.
    Own {
        /// Where it was read from, for messages.
        path: PathBuf,
        /// Its text.
        source: String,
    },
}

impl Template {
    /// Reads a minijinja template. One that is not well-formed is an error, and so is one that uses
    /// a field that rows do not have.
    pub fn read(path: &Path) -> Result<Self, DataError> {
        let source = String::from_utf8(read_limited(path, MAX_TEMPLATE_BYTES)?);
        let source = source.map_err(|error| DataError::Template {
            path: path.to_owned(),
            line: 1,
            problem: error.to_string(),
        })?;
        let template = Self::Own {
            path: path.to_owned(),
            source,
        };
        template.render(&Prompt::framed(["", "What?", " ", "This.", ""]))?;
        Ok(template)
    }

    /// The text that the model reads.
    pub fn render(&self, prompt: &Prompt) -> Result<String, DataError> {
        match self {
            Self::Plain => Ok(prompt.as_str().to_owned()),
            Self::Alpaca => Ok(alpaca(prompt)),
            Self::Own { path, source } => {
                let mut environment = Environment::new();
                environment.set_undefined_behavior(UndefinedBehavior::Strict);
                let fields = context! {
                    instruction => prompt.instruction(),
                    input => prompt.input(),
                    prompt => prompt.as_str(),
                };
                let rendered = environment.render_str(source, fields);
                rendered.map_err(|error| DataError::Template {
                    path: path.clone(),
                    line: error.line().unwrap_or(1),
                    problem: error.to_string(),
                })
            }
        }
    }
}

/// Alpaca's prompt; of a row without an instruction the whole prompt is the instruction. Where
/// there is one, the preamble promises an input even if that is empty: the released LLaMA code has
/// this one alone, and cutting an input down to nothing must not change the text around it.
fn alpaca(prompt: &Prompt) -> String {
    let task = "Below is an instruction that describes a task";
    let request = "Write a response that appropriately completes the request.";
    match prompt.instruction().trim() {
        "" => format!(
            "{task}. {request}\n\n### Instruction:\n{}\n\n### Response:\n",
            prompt.as_str()
        ),
        instruction => format!(
            "{task}, paired with an input that provides further context. {request}\n\n\
             ### Instruction:\n{instruction}\n\n### Input:\n{}\n\n### Response:\n",
            prompt.input()
        ),
    }
}

/// The prompt of the KIF family's files: instruction, then input, nothing between.
pub fn instruction_input(instruction: &str, input: &str) -> Prompt {
    Prompt::framed(["", instruction, "", input, ""])
}

/// The prompt of SuperNI tasks.
pub fn superni(definition: &str, input: &str) -> Prompt {
    Prompt::framed(["[INS] ", definition, "\n [IN] ", input, "\n [OUT] "])
}

/// The prompt that the KIF family makes from a sentence in O-LoRA's layout:
/// `<instruction>Option: <labels joined by ", ">.\n<sentence>\nAnswer:`. The input
/// begins with the sentence.
pub fn options(instruction: &str, labels: &[String], sentence: &str) -> Prompt {
    let instruction = format!("{instruction}Option: {}.\n", labels.join(", "));
    instruction_input(&instruction, &format!("{sentence}\nAnswer:"))
}

/// The instruction for a task type of O-LoRA's layout (the folder above the task's), as in
/// the KIF family's files.
pub fn instruction(task_type: &str) -> Option<&'static str> {
    Some(match task_type {
        "NLI" => {
            "What is the logical relationship between the \"sentence 1\" and the \"sentence 2\"? Choose one from the option. "
        }
        "QQP" => {
            "Whether the \"first sentence\" and the \"second sentence\" have the same meaning? Choose one from the option. "
        }
        "SC" => "What is the sentiment of the following paragraph? Choose one from the option. ",
        "TC" => "What is the topic of the following paragraph? Choose one from the option. ",
        // COPA has no instruction of its own there.
        "BoolQA" | "COPA" => {
            "According to the following passage, is the question true or false? Choose one from the option. "
        }
        "MultiRC" => {
            "According to the following passage and question, is the candidate answer true or false? Choose one from the option. "
        }
        "WiC" => {
            "Given a word and two sentences, whether the word is used with the same sense in both sentence? Choose one from the option. "
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_as_published() {
        assert_eq!(instruction_input("Do. ", "it").as_str(), "Do. it");
        assert_eq!(
            superni("Say it.", "it").as_str(),
            "[INS] Say it.\n [IN] it\n [OUT] "
        );
        let prompt = options(
            instruction("TC").unwrap(),
            &["A".into(), "B".into()],
            "Title: x",
        );
        assert_eq!(
            prompt.as_str(),
            "What is the topic of the following paragraph? Choose one from the option. Option: A, B.\nTitle: x\nAnswer:"
        );
        assert_eq!(instruction("POS"), None);
    }

    #[test]
    fn prompts_know_their_parts() {
        let prompt = superni("Say it.", "it");
        assert_eq!((prompt.instruction(), prompt.input()), ("Say it.", "it"));
        let prompt = options("Which? ", &["A".into()], "x");
        assert_eq!(prompt.instruction(), "Which? Option: A.\n");
        assert_eq!(prompt.input(), "x\nAnswer:");
        let cut = superni("Say it.", "äb").with_input_cut(1);
        assert_eq!(cut.as_str(), "[INS] Say it.\n [IN] \n [OUT] ");
        assert_eq!(superni("Say it.", "äb").with_input_cut(2).input(), "ä");
        assert_eq!(superni("Say it.", "äb").with_input_cut(99).input(), "äb");
    }

    #[test]
    fn alpaca_has_two_forms() {
        let both = Template::Alpaca
            .render(&instruction_input("Do it.\n", "this"))
            .unwrap();
        assert!(both.starts_with("Below is an instruction that describes a task, paired with"));
        assert!(both.ends_with("### Instruction:\nDo it.\n\n### Input:\nthis\n\n### Response:\n"));
        let empty = both.replace("\nthis\n", "\n\n");
        let rendered = Template::Alpaca.render(&instruction_input("Do it.\n", ""));
        assert_eq!(rendered.unwrap(), empty);
        let whole = Template::Alpaca.render(&"Do it.".into()).unwrap();
        assert!(whole.ends_with(
            "task. Write a response that appropriately completes the request.\n\n\
                                 ### Instruction:\nDo it.\n\n### Response:\n"
        ));
    }

    #[test]
    fn a_template_of_ones_own_knows_the_rows_fields_and_no_others() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let read = |text: &str| {
            std::fs::write(file.path(), text).unwrap();
            Template::read(file.path())
        };
        let template =
            read("{% if instruction %}<{{ instruction }}>{% endif %}{{ input }}\n").unwrap();
        assert_eq!(
            template.render(&instruction_input("a", "b")).unwrap(),
            "<a>b"
        );
        assert_eq!(template.render(&"b".into()).unwrap(), "b");
        for broken in ["{{ inputs }}", "{% if %}", "{{ input"] {
            let error = read(broken).unwrap_err().to_string();
            assert!(error.contains("line 1"), "{error}");
        }
    }
}
