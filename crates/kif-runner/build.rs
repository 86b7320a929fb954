//! Lists the files of protocol `quick` for `src/embedded.rs`.
//!
//! Without them the program still builds: it is what makes the bases in the first place.

use std::fs;
use std::path::{Path, PathBuf};

fn main() {
    let root = Path::new(&std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it"))
        .join("../../fixtures/quick");
    let mut files: Vec<PathBuf> = Vec::new();
    for base in ["base", "base-decoder"] {
        let of_base = ["config.json", "model.safetensors", "tokenizer.json"];
        let paths = of_base.map(|name| root.join(base).join(name));
        files.extend(paths.into_iter().filter(|path| path.is_file()));
    }
    files.extend(Some(root.join("stream.ron")).filter(|path| path.is_file()));
    collect(&root.join("stream"), &mut files);
    files.sort();
    let mut list = String::from("&[\n");
    for path in &files {
        let name = path
            .strip_prefix(&root)
            .expect("all files lie under the root");
        let name = name
            .to_str()
            .expect("names of fixtures are plain")
            .replace('\\', "/");
        list.push_str(&format!(
            "    ({name:?}, include_bytes!({:?})),\n",
            path.display().to_string()
        ));
    }
    list.push_str("]\n");
    let out = Path::new(&std::env::var("OUT_DIR").expect("cargo sets it")).join("quick_files.rs");
    fs::write(out, list).expect("the build folder can be written");
    println!("cargo::rerun-if-changed={}", root.display());
    println!("cargo::rerun-if-changed=build.rs");
}

/// All files under a folder, if it is there.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files)
        } else {
            files.push(path)
        }
    }
}
