//! The document that shows how a method is added shows the file that is compiled.

use std::fs;
use std::path::Path;

#[test]
fn the_document_shows_the_example() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let example = fs::read_to_string(folder.join("examples/custom_method/anchor.rs")).unwrap();
    let document = fs::read_to_string(folder.join("../../docs/adding-a-method.md")).unwrap();
    let block = format!("```rust\n{example}```\n");
    assert!(
        document.contains(&block),
        "docs/adding-a-method.md does not have examples/custom_method/anchor.rs word for word"
    );
}
