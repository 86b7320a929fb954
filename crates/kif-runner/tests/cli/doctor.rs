//! `kif doctor`.

use crate::kit::{kif, succeed};

#[test]
fn the_cpu_has_all_it_needs() {
    let stdout = succeed(&["doctor"]);
    for what in ["instructions", "cores", "memory"] {
        let said = stdout.lines().any(|line| line.starts_with(what));
        assert!(said, "{what} is not in {stdout}");
    }
    assert!(!stdout.contains("MISSING"), "{stdout}");
}

/// Of a build without the feature, as tests are.
#[test]
fn cuda_without_the_feature_is_bad_input_and_says_how_to_build() {
    let ended = kif(&["doctor", "--device", "cuda"]);
    assert_eq!(ended.code, 2, "{}", ended.stderr);
    assert!(ended.stdout.contains("--features cuda"), "{}", ended.stdout);
    assert!(ended.stdout.contains("docs/cuda.md"), "{}", ended.stdout);
    assert!(ended.stdout.contains("\nlibcuda.so.1 "), "{}", ended.stdout);
    assert!(
        ended.stderr.contains("CUDA in this build"),
        "{}",
        ended.stderr
    );
}
