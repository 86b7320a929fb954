//! SHA-256 of the published benchmarks' files, to tell whether a folder has the same.
//!
//! `streams/*.sha256` are lists as `sha256sum -c` reads them, with paths below the data folder.
//! `docs/data.md` says where each file comes from.

use crate::layouts::Split;

/// Where a file with a known checksum comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The authors' repository.
    Published,
    /// Made again from another repository, because the authors' file is not to be had: most of
    /// its rows are theirs.
    Reconstructed,
    /// Made from other data with the same labels, because the authors' file is not to be had: its
    /// rows are not theirs.
    Surrogate,
}

/// Test files that are not the authors' own.
const OTHERS: [(&str, Origin); 2] = [
    ("dbpedia", Origin::Reconstructed),
    ("yahoo", Origin::Surrogate),
];

/// SHA-256 in hexadecimal of a built-in stream's file, and where it comes from; none for
/// other streams and tasks.
pub fn checksum(stream: &str, task: &str, split: Split) -> Option<(&'static str, Origin)> {
    let list = match stream {
        // The tasks of the standard benchmark are tasks of the long one.
        "standard" | "long" => include_str!("../streams/long.sha256"),
        "superni" => include_str!("../streams/superni.sha256"),
        _ => return None,
    };
    let is_asked = |path: &str| match path.split_once('/') {
        Some((folder, file)) if stream == "superni" => {
            let name = folder.split('_').next().unwrap_or(folder);
            name == task && file == format!("{}.json", split.name())
        }
        Some((folder, file)) => folder == split.name() && file == format!("{task}.json"),
        None => false,
    };
    let (hash, _) = (list.lines())
        .filter_map(|line| line.split_once("  "))
        .find(|(_, path)| is_asked(path))?;
    let other = OTHERS.iter().find(|(name, _)| *name == task);
    let origin = match other.filter(|_| split == Split::Test) {
        Some((_, origin)) => *origin,
        None => Origin::Published,
    };
    Some((hash, origin))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::{BUILTIN, Stream};

    #[test]
    fn every_file_of_a_built_in_stream_has_a_checksum_of_its_own() {
        for name in BUILTIN {
            let stream = Stream::builtin(name).unwrap();
            let mut hashes = Vec::new();
            for task in &stream.orders[0] {
                for split in [Split::Train, Split::Test] {
                    let (hash, _) = checksum(name, task, split)
                        .unwrap_or_else(|| panic!("{name}, {task}, {split:?}"));
                    assert!(hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit()));
                    hashes.push(hash);
                }
            }
            hashes.sort_unstable();
            hashes.dedup();
            assert_eq!(hashes.len(), 2 * stream.orders[0].len(), "{name}");
        }
        assert_eq!(checksum("own", "cb", Split::Test), None);
    }

    #[test]
    fn two_test_files_are_not_the_authors_own() {
        let origin = |task, split| checksum("long", task, split).unwrap().1;
        assert_eq!(origin("dbpedia", Split::Test), Origin::Reconstructed);
        assert_eq!(origin("yahoo", Split::Test), Origin::Surrogate);
        assert_eq!(origin("yahoo", Split::Train), Origin::Published);
        assert_eq!(origin("cb", Split::Test), Origin::Published);
    }
}
