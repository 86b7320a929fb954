//! What the properties have in common.

use kif_kernels::{InstructionSet, instruction_set, with_instruction_set};

/// Runs `f` on each instruction set at hand.
pub(crate) fn on_each_set(f: impl Fn(InstructionSet)) {
    for set in InstructionSet::ALL {
        with_instruction_set(set, || {
            if instruction_set() == set {
                f(set);
            }
        });
    }
}

/// Runs `f` in a pool of `n_threads`.
pub(crate) fn in_pool<R: Send>(n_threads: usize, f: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new()
        .num_threads(n_threads)
        .build()
        .unwrap()
        .install(f)
}

pub(crate) fn assert_close(got: &[f32], wanted: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), wanted.len(), "{what}");
    for (i, (&got, &wanted)) in got.iter().zip(wanted).enumerate() {
        let error = (f64::from(got) - wanted).abs();
        assert!(
            error <= tolerance * wanted.abs().max(1.0),
            "{what}[{i}] is {got}, not {wanted}"
        );
    }
}
