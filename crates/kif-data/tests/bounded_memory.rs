//! A hostile file costs memory by its limits, not by its size. One test alone in its process: the
//! peak is the process's.

use std::io::Write;

use kif_data::{DataError, read_rows};

/// Peak resident bytes of this process, where the system tells.
fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace()
        .nth(1)?
        .parse::<u64>()
        .ok()
        .map(|kib| kib * 1024)
}

#[test]
fn a_line_of_a_gibibyte_is_refused_within_twice_the_line_limit() {
    let folder = tempfile::tempdir().unwrap();
    let before = peak_bytes();
    for (start, said) in [
        ("{\"id\": \"", "line"),
        ("[{\"id\": \"", "value"),
        ("[\"", "value"),
    ] {
        let path = folder.path().join("rows.json");
        let mut file = std::fs::File::create(&path).unwrap();
        file.write_all(start.as_bytes()).unwrap();
        // The rest is a hole that takes no room on disk and reads as zeros.
        file.set_len(1 << 30).unwrap();
        match read_rows(&path) {
            Err(DataError::TooLong {
                line: 1,
                what,
                limit,
                ..
            }) => assert_eq!((what, limit), (said, 16 << 20)),
            other => panic!("{other:?}"),
        }
        file.set_len((1 << 30) + 1).unwrap();
        assert!(matches!(
            read_rows(&path),
            Err(DataError::FileTooLarge {
                limit: 0x4000_0000,
                ..
            })
        ));
    }
    match (before, peak_bytes()) {
        (Some(before), Some(after)) => {
            assert!(after - before <= 32 << 20, "{} bytes more", after - before)
        }
        _ => println!("peak memory not checked: this system does not tell it"),
    }
}
