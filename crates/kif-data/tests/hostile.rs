//! Files that are not what they should be: each is an error that says where, never a panic and
//! never a skipped row.

use std::path::PathBuf;

use kif_data::{Content, DataError, Row, read_rows};

/// Reads rows from a file `rows.json` of these bytes.
fn read(bytes: impl AsRef<[u8]>) -> Result<Vec<Row>, DataError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.json");
    std::fs::write(&path, bytes).unwrap();
    read_rows(&path)
}

/// The error, its file's folder cut off.
fn error(bytes: impl AsRef<[u8]>) -> String {
    let message = read(bytes).unwrap_err().to_string();
    message[message.find("rows.json").unwrap()..].to_owned()
}

#[test]
fn rows_with_bad_fields_are_named() {
    for (row, said) in [
        (
            r#"{"input": "x", "output": "y"}"#,
            "rows.json:1:1: field `id`: missing, expected text",
        ),
        (
            r#"{"id": "a", "output": "y"}"#,
            "rows.json:1:1: field `input`: missing, expected text",
        ),
        (
            r#"{"id": "a", "input": "x"}"#,
            "rows.json:1:1: field `output`: missing, expected text or a list of texts",
        ),
        (
            r#"{"id": "a", "input": "x", "output": []}"#,
            "rows.json:1:1: field `output`: empty list, expected at least one text",
        ),
        (
            r#"{"id": "a", "input": 3, "output": "y"}"#,
            "rows.json:1:22: field `input`: invalid type: integer `3`, expected a string",
        ),
        (
            r#"{"id": "a", "input": "x", "output": {"t": 1}}"#,
            "rows.json:1:37: field `output`: invalid type: map, expected a string or a list of strings",
        ),
        (
            r#"{"id": 1.5, "input": "x", "output": "y"}"#,
            "rows.json:1:10: field `id`: invalid type: floating point `1.5`, expected a string or a whole number",
        ),
        (
            r#"{"id": "a", "input": "x", "output": "y", "input": "z"}"#,
            "field `input`: appears twice in the row, expected once",
        ),
        (
            r#"{"id": "a", "input": "", "output": "y"}"#,
            "rows.json:1:1: field `input`: empty prompt, expected text",
        ),
        (
            r#"{"id": "a", "input_ids": [1, -4], "target_ids": [1]}"#,
            "field `input_ids`: invalid value: integer `-4`, expected u32",
        ),
        (
            r#"{"id": "a", "input_ids": [1]}"#,
            "rows.json:1:1: field `target_ids`: missing, expected a list of token ids",
        ),
        (
            r#"{"id": "a", "input_ids": [], "target_ids": [1]}"#,
            "field `input_ids`: empty list",
        ),
        (
            r#"{"id": "a", "input_ids": [1], "target_ids": [1], "input": "x"}"#,
            "field `input`: expected no text beside `input_ids` and `target_ids`",
        ),
        (
            r#"{"id": "a", "input": "\ud800", "output": "y"}"#,
            "field `input`: unexpected end of hex escape",
        ),
        (
            r#"{"id": "a", "input": NaN, "output": "y"}"#,
            "rows.json:1:22: field `input`: expected",
        ),
        (
            r#"{"id": "a", "input": "x", "output": "y", "weight": Infinity}"#,
            "field `weight`: expected value",
        ),
        (
            r#"{"id": "a", "input": "x", "output": "y"} {"id": "b"}"#,
            "rows.json:1:42: trailing characters",
        ),
        (
            "3",
            "rows.json:1:1: invalid type: integer `3`, expected a row: a JSON object",
        ),
    ] {
        let message = error(row);
        assert!(
            message.contains(said),
            "{row}\n said {message}\n expected {said}"
        );
    }
}

#[test]
fn places_count_lines_in_arrays_and_in_lines() {
    let good = r#"{"id": "a", "input": "x", "output": "y"}"#;
    let bad = "{\"id\": \"b\",\n \"input\": 3, \"output\": \"y\"}";
    let said = "field `input`: invalid type: integer `3`, expected a string";
    assert_eq!(
        error(format!("[\n{good},\n  {bad}\n]")),
        format!("rows.json:4:11: {said}")
    );
    assert_eq!(
        error(format!("{good}\n{}\n", bad.replace('\n', ""))),
        format!("rows.json:2:22: {said}")
    );
}

#[test]
fn duplicate_ids_name_both_rows() {
    let row = |id: &str| format!("{{\"id\": {id}, \"input\": \"x\", \"output\": \"y\"}}");
    let said = "field `id`: `1` is already the id of the row at line 1, expected unique ids";
    assert_eq!(
        error([row("1"), row("2"), row("\"1\"")].join("\n")),
        format!("rows.json:3: {said}")
    );
    // The text may be the same: published train files have such rows.
    assert_eq!(read([row("1"), row("2")].join("\n")).unwrap().len(), 2);
}

#[test]
fn files_without_rows_are_errors() {
    for bytes in ["", "\n \n", "[]", " [ ] \n"] {
        assert!(
            matches!(read(bytes), Err(DataError::Empty { .. })),
            "{bytes:?}"
        );
    }
    let missing = read_rows(&PathBuf::from("nonesuch/rows.json")).unwrap_err();
    assert!(
        missing.to_string().contains("nonesuch/rows.json"),
        "{missing}"
    );
    let folder = read_rows(&std::env::temp_dir()).unwrap_err();
    assert!(matches!(folder, DataError::Io { .. }), "{folder}");
}

#[test]
fn bytes_that_are_no_text_are_errors() {
    let row = "{\"id\": \"a\",\n \"input\": \"x\", \"output\": \"y\"}";
    assert!(
        error(["\u{FEFF}", row].concat())
            .starts_with("rows.json:1:1: starts with a byte order mark")
    );
    let mut array = format!("[{row}]").into_bytes();
    let at = array.iter().position(|&byte| byte == b'x').unwrap();
    array[at] = 0xFF;
    assert!(
        error(&array).starts_with("rows.json:2:12: invalid UTF-8"),
        "{}",
        error(&array)
    );
    assert!(error(b"{\"id\": \"a\xC3\"}").starts_with("rows.json:1:10: invalid UTF-8"));
    let utf16: Vec<u8> = row.encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert!(read([&[0xFF, 0xFE], &utf16[..]].concat()).is_err());
}

#[test]
fn deep_nesting_is_an_error_wherever_it_stands() {
    let deep = "[".repeat(100_000);
    let nested = format!("{}1{}", "[".repeat(100), "]".repeat(100));
    for (text, place) in [
        (deep.clone(), "1:66"),
        (format!("[{deep}"), "1:66"),
        (format!("{{\"id\": {deep}"), "1:71"),
        (
            format!("{{\"id\": \"a\", \"input\": \"x\", \"output\": \"y\", \"extra\": {nested}}}"),
            "1:114",
        ),
        (
            format!(
                "[\n{{\"id\": \"a\", \"input\": \"x\", \"output\": \"y\", \"extra\": {nested}}}]"
            ),
            "2:114",
        ),
    ] {
        assert_eq!(
            error(&text),
            format!("rows.json:{place}: values are nested more than 64 deep"),
            "{}",
            &text[..20]
        );
    }
    // Brackets in strings nest nothing.
    assert!(
        read(format!(
            "{{\"id\": \"a\", \"input\": \"{deep}\", \"output\": \"\\\"{deep}\"}}"
        ))
        .is_ok()
    );
}

#[test]
fn lines_and_elements_over_the_limit_are_errors() {
    let long = "x".repeat(17 << 20);
    let good = r#"{"id": "a", "input": "x", "output": "y"}"#;
    let row = format!("{{\"id\": \"b\", \"input\": \"{long}\", \"output\": \"y\"}}");
    assert_eq!(
        error(format!("{good}\n{row}")),
        "rows.json:2: the line that starts here has more than 16777216 bytes"
    );
    assert_eq!(
        error(format!("[\n{good},\n{row}]")),
        "rows.json:3: the value that starts here has more than 16777216 bytes"
    );
}

#[test]
fn an_array_on_one_line_may_be_longer_than_any_row() {
    let input = "x".repeat(6 << 20);
    let rows: Vec<String> = (0..3)
        .map(|i| format!("{{\"id\": {i}, \"input\": \"{input}\", \"output\": \"y\"}}"))
        .collect();
    assert_eq!(read(format!("[{}]", rows.join(","))).unwrap().len(), 3);
}

#[test]
fn line_ends_may_be_of_either_kind_and_the_last_may_be_missing() {
    let rows = [
        r#"{"id": "a", "input": "x", "output": "y"}"#,
        r#"{"id": "b", "input": "x", "output": "y"}"#,
    ];
    for text in [
        rows.join("\n"),
        rows.join("\r\n"),
        rows.join("\n") + "\n",
        rows.join("\r\n") + "\r\n\r\n",
    ] {
        assert_eq!(read(&text).unwrap().len(), 2, "{text:?}");
    }
    assert_eq!(
        error(rows.join("\n\n")),
        "rows.json:2:1: empty line, expected a row: a JSON object"
    );
}

#[test]
fn line_separators_of_unicode_end_no_line() {
    let row = "{\"id\": \"a\", \"input\": \"x\u{2028}y\u{2029}z\u{85}\", \"output\": \"\u{2028}\"}";
    let Content::Text { prompt, references } = read(row).unwrap().remove(0).content else {
        panic!("no text")
    };
    assert_eq!(
        (prompt.as_str(), references),
        ("x\u{2028}y\u{2029}z\u{85}", vec!["\u{2028}".into()])
    );
}
