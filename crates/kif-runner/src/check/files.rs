//! Whether the files of a published benchmark are the published ones.

use std::fs::File;
use std::path::Path;

use kif_data::published::{Origin, checksum};
use kif_data::{Split, Stream, split_file};
use kif_report::report::table::{NONE, Table};
use sha2::{Digest, Sha256};

use super::Findings;

/// A table of the files of `tasks` beside the published checksums; none for a stream that is not
/// published.
pub(super) fn compare(
    stream: &Stream,
    root: &Path,
    tasks: &[String],
    findings: &mut Findings,
) -> Option<Table> {
    let mut rows = Vec::new();
    for task in tasks {
        for split in [Split::Train, Split::Test] {
            let (expected, origin) = checksum(&stream.name, task, split)?;
            let name = format!("{task} {}", split.name());
            let (hash, verdict) = match split_file(stream.layout, root, task, split) {
                // The survey of the task says so as an error.
                Err(_) => (NONE.to_owned(), "missing"),
                Ok(path) => match sha256(&path) {
                    Ok(hash) => {
                        let verdict = verdict(&hash, expected, origin);
                        note(&path, &hash, expected, origin, findings);
                        (hash[..16].to_owned(), verdict)
                    }
                    Err(error) => {
                        findings.error(format!("{}: {error}", path.display()));
                        (NONE.to_owned(), "unreadable")
                    }
                },
            };
            rows.push(vec![name, hash, verdict.to_owned()]);
        }
    }
    let head = ["file", "sha-256 begins", "compared"];
    Some(Table {
        head: head.map(str::to_owned).to_vec(),
        rows,
    })
}

fn verdict(hash: &str, expected: &str, origin: Origin) -> &'static str {
    match origin {
        _ if hash != expected => "differs",
        Origin::Published => "same as published",
        Origin::Reconstructed => "same as reconstructed",
        Origin::Surrogate => "same as surrogate",
    }
}

fn note(path: &Path, hash: &str, expected: &str, origin: Origin, findings: &mut Findings) {
    let path = path.display();
    match origin {
        Origin::Published if hash != expected => findings.error(format!(
            "{path}: differs from the published file: sha-256 is {hash}, expected {expected}"
        )),
        Origin::Published => {}
        _ if hash != expected => findings.warning(format!(
            "{path}: differs from the file whose checksum is known, which is not the authors' own either (docs/data.md)"
        )),
        Origin::Reconstructed => findings.warning(format!(
            "{path}: reconstructed, not the authors' own file (docs/data.md): say so beside results"
        )),
        Origin::Surrogate => findings.warning(format!(
            "{path}: a surrogate with other rows than the authors' file (docs/data.md): say so beside results"
        )),
    }
}

/// SHA-256 of a file, in hexadecimal.
fn sha256(path: &Path) -> std::io::Result<String> {
    let mut hasher = Sha256::new();
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let n = std::io::Read::read(&mut file, &mut buffer)?;
        if n == 0 {
            break;
        }
        hasher.update(&buffer[..n]);
    }
    Ok(hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_three_letters_has_its_standard_checksum() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        std::fs::write(&path, "abc").unwrap();
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(&path).unwrap(), expected);
    }

    #[test]
    fn another_file_is_an_error_only_where_the_authors_own_is_known() {
        let found = |hash, origin| {
            let mut findings = Findings::default();
            note(Path::new("f"), hash, "a", origin, &mut findings);
            findings
                .0
                .iter()
                .map(|finding| finding.is_error)
                .collect::<Vec<_>>()
        };
        assert!(found("a", Origin::Published).is_empty());
        assert_eq!(found("b", Origin::Published), [true]);
        assert_eq!(found("a", Origin::Surrogate), [false]);
        assert_eq!(found("b", Origin::Reconstructed), [false]);
        assert_eq!(verdict("b", "a", Origin::Surrogate), "differs");
        assert_eq!(
            verdict("a", "a", Origin::Reconstructed),
            "same as reconstructed"
        );
    }
}
