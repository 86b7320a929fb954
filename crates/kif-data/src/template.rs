//! How prompts are put together.

/// The prompt of the KIF family's files: instruction, then input, nothing between.
pub fn instruction_input(instruction: &str, input: &str) -> String {
    format!("{instruction}{input}")
}

/// The prompt of SuperNI tasks.
pub fn superni(definition: &str, input: &str) -> String {
    format!("[INS] {definition}\n [IN] {input}\n [OUT] ")
}

/// The prompt that the KIF family makes from a sentence in O-LoRA's layout:
/// `<instruction>Option: <labels joined by ", ">.\n<sentence>\nAnswer:`.
pub fn options(instruction: &str, labels: &[String], sentence: &str) -> String {
    format!(
        "{instruction}Option: {}.\n{sentence}\nAnswer:",
        labels.join(", ")
    )
}

/// The instruction for a task type of O-LoRA's layout (the folder above the task's), as in the KIF family's files.
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
        assert_eq!(instruction_input("Do. ", "it"), "Do. it");
        assert_eq!(superni("Say it.", "it"), "[INS] Say it.\n [IN] it\n [OUT] ");
        let prompt = options(
            instruction("TC").unwrap(),
            &["A".into(), "B".into()],
            "Title: x",
        );
        assert_eq!(
            prompt,
            "What is the topic of the following paragraph? Choose one from the option. Option: A, B.\nTitle: x\nAnswer:"
        );
        assert_eq!(instruction("POS"), None);
    }
}
