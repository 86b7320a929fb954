//! Small tasks in every layout.

use std::path::Path;

use kif_data::template::{instruction_input, superni};
use kif_data::{
    Content, Layout, MAX_PROBLEMS, Prompt, Row, Split, Survey, Task, load_task, survey, task_files,
};

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn row(id: &str, prompt: impl Into<Prompt>, references: &[&str]) -> Row {
    let references = references.iter().map(ToString::to_string).collect();
    Row {
        id: id.into(),
        content: Content::Text {
            prompt: prompt.into(),
            references,
        },
    }
}

fn error(layout: Layout, root: &Path, name: &str) -> String {
    load_task(layout, root, name).unwrap_err().to_string()
}

#[test]
fn long_sequence_prefers_plain_files_and_falls_back_to_t5_files() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write(
        root,
        "train/cb.json",
        r#"[{"id": "CB_0", "instruction": "Do.\n", "input": "x\nAnswer:", "output": "y"}]"#,
    );
    write(root, "train/cb_T5.json", "[]");
    write(
        root,
        "test/cb_T5.json",
        r#"[{"id": "CB_0", "input": "Do.\nz\nAnswer:", "output": "y"}]"#,
    );
    let expected = Task {
        name: "cb".into(),
        train: vec![row(
            "CB_0",
            instruction_input("Do.\n", "x\nAnswer:"),
            &["y"],
        )],
        test: vec![row("CB_0", "Do.\nz\nAnswer:", &["y"])],
    };
    assert_eq!(
        load_task(Layout::LongSequence, root, "cb").unwrap(),
        expected
    );
    let files = task_files(Layout::LongSequence, root, "cb").unwrap();
    assert_eq!(
        files,
        [root.join("train/cb.json"), root.join("test/cb_T5.json")]
    );
    let error = error(Layout::LongSequence, root, "rte");
    assert!(
        error.ends_with("expected train/rte.json or train/rte_T5.json"),
        "{error}"
    );
}

#[test]
fn o_lora_prompts_are_made_from_the_task_type_and_the_labels() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write(
        root,
        "NLI/CB/labels.json",
        r#"["contradiction", "entailment"]"#,
    );
    write(
        root,
        "NLI/CB/train.json",
        r#"[{"label": "entailment", "sentence": "sentence 1: a\nsentence 2: b"}]"#,
    );
    write(
        root,
        "NLI/CB/test.json",
        r#"[{"label": "contradiction", "sentence": "s"}, {"sentence": "t", "label": "entailment"}]"#,
    );
    write(root, "SC/yelp/labels.json", r#"["bad"]"#);
    let task = load_task(Layout::OLora, root, "cb").unwrap();
    let instruction = "What is the logical relationship between the \"sentence 1\" and the \"sentence 2\"? \
                       Choose one from the option. Option: contradiction, entailment.\n";
    let prompt = instruction_input(instruction, "sentence 1: a\nsentence 2: b\nAnswer:");
    assert_eq!(task.train, [row("cb_0", prompt, &["entailment"])]);
    assert_eq!(
        task.test[1],
        row(
            "cb_1",
            instruction_input(instruction, "t\nAnswer:"),
            &["entailment"]
        )
    );
    let files = task_files(Layout::OLora, root, "cb").unwrap();
    assert_eq!(
        files,
        ["train", "test", "labels"].map(|file| root.join(format!("NLI/CB/{file}.json")))
    );

    write(
        root,
        "NLI/CB/test.json",
        "[{\"label\": \"entailment\", \"sentence\": \"s\"},\n{\"label\": \"-\", \"sentence\": \"t\"}]",
    );
    let message = error(Layout::OLora, root, "cb");
    assert!(
        message.ends_with("test.json:2:1: field `label`: `-` is not in labels.json, expected one of contradiction, entailment"),
        "{message}"
    );
    write(root, "POS/tags/train.json", "[]");
    assert!(
        error(Layout::OLora, root, "tags")
            .ends_with("expected a task type with a known instruction, found `POS`")
    );
    write(root, "TC/cb/train.json", "[]");
    assert!(error(Layout::OLora, root, "cb").ends_with("expected one folder <TYPE>/cb, found 2"));
    assert!(error(Layout::OLora, root, "nonesuch").ends_with("expected a folder <TYPE>/nonesuch"));
}

#[test]
fn superni_tasks_are_found_by_number_and_take_one_or_several_references() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write(
        root,
        "task002_quoref/train.json",
        r#"{"URL": ["x"], "Positive Examples": [{"input": "a", "output": "b"}],
            "Instances": [{"id": "1", "input": "in", "output": ["out", "or this"]}],
            "Definition": ["Answer."], "Instance License": ["?"]}"#,
    );
    write(
        root,
        "task002_quoref/test.json",
        r#"{"Definition": "Answer.", "Instances": [{"id": "2", "input": "", "output": "out"}]}"#,
    );
    let task = load_task(Layout::SuperNi, root, "task002").unwrap();
    assert_eq!(
        task.train,
        [row("1", superni("Answer.", "in"), &["out", "or this"])]
    );
    assert_eq!(task.test, [row("2", superni("Answer.", ""), &["out"])]);
    assert_eq!(
        load_task(Layout::SuperNi, root, "task002_quoref")
            .unwrap()
            .train,
        task.train
    );

    for (text, said) in [
        (r#"{"Instances": []}"#, "field `Definition`: missing"),
        (r#"{"Definition": "x"}"#, "field `Instances`: missing"),
        (
            r#"{"Definition": "x", "Instances": []}"#,
            "the file has no rows",
        ),
        (
            r#"{"Definition": 3, "Instances": []}"#,
            "test.json:1:16: field `Definition`: invalid type: integer `3`",
        ),
        (
            r#"{"Definition": "x", "Definition": "y"}"#,
            "field `Definition`: appears twice",
        ),
        (
            r#"{"Definition": "x", "Instances": [{"id": "1", "input": "x"}]}"#,
            "field `output`: missing",
        ),
        (
            r#"{"Definition": "x", "Instances": [{"id": "1", "output": "x"}]}"#,
            "field `input`: missing",
        ),
        (
            r#"{"Definition": "x""#,
            "found the end of the file, expected `,` or `}` after a value",
        ),
        (r#"{"Other": [1, }, "Definition": "x"}"#, "expected"),
        (r#"[]"#, "expected `{` before a task"),
    ] {
        write(root, "task002_quoref/test.json", text);
        let message = error(Layout::SuperNi, root, "task002");
        assert!(
            message.contains(said),
            "{text}\n said {message}\n expected {said}"
        );
    }
    write(root, "task002_other/train.json", "{}");
    assert!(
        error(Layout::SuperNi, root, "task002").ends_with("found task002_other, task002_quoref")
    );
    assert!(
        error(Layout::SuperNi, root, "task00").ends_with("expected a folder task00 or task00_*")
    );
}

#[test]
fn own_tasks_are_json_lines_or_arrays() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write(
        root,
        "colours/train.jsonl",
        "{\"id\": 1, \"input\": \"sky\", \"output\": \"blue\"}\n{\"id\": 2, \"input_ids\": [4], \"target_ids\": [5]}\n",
    );
    write(
        root,
        "colours/test.json",
        r#"[{"id": "a", "instruction": "Colour of ", "input": "grass", "output": ["green"]}]"#,
    );
    let task = load_task(Layout::Jsonl, root, "colours").unwrap();
    assert_eq!(task.train[0], row("1", "sky", &["blue"]));
    assert_eq!(
        task.train[1].content,
        Content::Ids {
            input_ids: vec![4],
            target_ids: vec![5]
        }
    );
    assert_eq!(
        task.test,
        [row(
            "a",
            instruction_input("Colour of ", "grass"),
            &["green"]
        )]
    );
    let files = task_files(Layout::Jsonl, root, "colours").unwrap();
    assert_eq!(
        files,
        [
            root.join("colours/train.jsonl"),
            root.join("colours/test.json")
        ]
    );
}

#[test]
fn a_task_name_does_not_lead_out_of_the_data() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["../cb", "/etc", "a/b", "", ".", ".."] {
        for layout in [
            Layout::LongSequence,
            Layout::OLora,
            Layout::SuperNi,
            Layout::Jsonl,
        ] {
            let message = error(layout, folder.path(), name);
            assert!(
                message.ends_with("expected a task name without path separators"),
                "{message}"
            );
        }
    }
}

/// What a survey says is wrong, without the folder.
fn problems(survey: &Survey, root: &Path) -> Vec<String> {
    let root = format!("{}/", root.display());
    (survey.problems.iter())
        .map(|problem| problem.to_string().replace(&root, ""))
        .collect()
}

#[test]
fn a_survey_goes_on_after_bad_rows() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write(
        root,
        "a/train.jsonl",
        "{\"id\":1,\"input\":\"x\",\"output\":\"y\"}\n\n{\"id\":2,\"input\":\"x\"}\nno row\n\
         {\"id\":1,\"input\":\"z\",\"output\":\"y\"}\n{\"id\":5,\"input\":\"\",\"output\":\"y\"}\n\
         {\"id\":6,\"input\":\"q\",\"output\":[]}\n{\"id\":7,\"input\":\"q\",\"output\":\"y\"}\n",
    );
    let train = survey(Layout::Jsonl, root, "a", Split::Train);
    assert_eq!(train.rows, [row("1", "x", &["y"]), row("7", "q", &["y"])]);
    assert_eq!(
        (train.lines.as_slice(), train.complete),
        ([1, 8].as_slice(), true)
    );
    assert_eq!(
        problems(&train, root),
        [
            "a/train.jsonl:2:1: empty line, expected a row: a JSON object",
            "a/train.jsonl:3:1: field `output`: missing, expected text or a list of texts",
            "a/train.jsonl:4:2: expected ident",
            "a/train.jsonl:5: field `id`: `1` is already the id of the row at line 1, expected unique ids",
            "a/train.jsonl:6:1: field `input`: empty prompt, expected text",
            "a/train.jsonl:7:1: field `output`: empty list, expected at least one text",
        ]
    );
    let test = survey(Layout::Jsonl, root, "a", Split::Test);
    assert_eq!((test.path.as_ref(), test.complete), (None, false));
    assert!(
        test.problems[0]
            .to_string()
            .ends_with("expected a/test.jsonl or a/test.json")
    );
}

#[test]
fn every_layout_can_be_surveyed() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write(
        root,
        "train/a.json",
        r#"[{"id": 1, "input": 3, "output": "y"}, {"id": 2, "input": "x", "output": "y"}, {"id": 3}"#,
    );
    write(root, "NLI/A/labels.json", r#"["y"]"#);
    write(
        root,
        "NLI/A/train.json",
        r#"[{"label": "n", "sentence": "s"}, {"label": "y", "sentence": "s"}, {"label": "y"}]"#,
    );
    write(
        root,
        "a_b/train.json",
        r#"{"Definition": "d", "Instances": [{"id": 1, "input": 3}, {"id": 2, "input": "x", "output": "y"}, {"id": 3}]}"#,
    );
    for (layout, path, fields, complete) in [
        (
            Layout::LongSequence,
            "train/a.json:1:",
            [
                "field `input`: invalid type",
                "field `input`: missing",
                "the end of the file",
            ]
            .as_slice(),
            false,
        ),
        (
            Layout::OLora,
            "NLI/A/train.json:1:",
            &["field `label`: `n` is not in", "field `sentence`: missing"],
            true,
        ),
        (
            Layout::SuperNi,
            "a_b/train.json:1:",
            &["field `input`: invalid type", "field `input`: missing"],
            true,
        ),
    ] {
        let survey = survey(layout, root, "a", Split::Train);
        let found = problems(&survey, root);
        assert_eq!(
            (survey.rows.len(), survey.complete, found.len()),
            (1, complete, fields.len()),
            "{found:?}"
        );
        for (problem, field) in found.iter().zip(fields) {
            assert!(
                problem.starts_with(path) && problem.contains(field),
                "{problem}"
            );
        }
    }
}

#[test]
fn a_survey_ends_where_problems_have_no_end() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let good = "{\"id\":1,\"input\":\"x\",\"output\":\"y\"}\n";
    write(
        root,
        "a/train.jsonl",
        &format!("{}{good}", "[]\n".repeat(MAX_PROBLEMS)),
    );
    // Not an array, which `[` at the start would be.
    write(
        root,
        "a/test.jsonl",
        &format!("{good}{}{good}", "{}\n".repeat(MAX_PROBLEMS)),
    );
    let test = survey(Layout::Jsonl, root, "a", Split::Test);
    assert_eq!(
        (test.problems.len(), test.rows.len(), test.complete),
        (MAX_PROBLEMS, 1, false)
    );
    let train = survey(Layout::Jsonl, root, "a", Split::Train);
    assert_eq!((train.problems.len(), train.complete), (1, false));
}
