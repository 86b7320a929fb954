//! The level of instructions that the environment names is the one that is used.

use std::process::Command;

use crate::twin::{self, noise};
use kif_kernels::{InstructionSet, PackedWeight, Precision, instruction_set, with_instruction_set};

const LEVELS: [(&str, InstructionSet); 5] = [
    ("portable", InstructionSet::Portable),
    ("avx2", InstructionSet::Avx2),
    ("avx512", InstructionSet::Avx512),
    ("avx512bf16", InstructionSet::Avx512Bf16),
    ("amx", InstructionSet::Amx),
];

/// The environment is read once: each level needs a process of its own, which runs the test below.
#[test]
fn every_level_that_there_is_can_be_forced() {
    let highest = with_instruction_set(InstructionSet::Amx, instruction_set);
    for (name, _) in LEVELS.iter().filter(|(_, level)| *level <= highest) {
        let output = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "forced_level::products_are_right_at_the_level_at_hand",
            ])
            .env("KIF_CPU", name)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && text.contains("1 passed"),
            "{name}: {text}"
        );
    }
}

#[test]
fn products_are_right_at_the_level_at_hand() {
    if let Ok(name) = std::env::var("KIF_CPU") {
        let level = LEVELS.iter().find(|level| level.0 == name);
        assert_eq!(Some(instruction_set()), level.map(|level| level.1));
    }
    let (n_rows, n_in, n_out) = (19, 530, 70);
    let (x, w) = (noise(1, n_rows * n_in), noise(2, n_out * n_in));
    let wanted = twin::product(
        n_rows,
        n_in,
        n_out,
        |i, k| x[i * n_in + k],
        |k, j| w[j * n_in + k],
    );
    for (precision, share) in [
        (Precision::F32, 1e-4),
        (Precision::Bf16, 1e-2),
        (Precision::Int8, 2e-2),
    ] {
        let mut y = vec![0.0; n_rows * n_out];
        PackedWeight::pack(&w, n_out, n_in, precision).forward(n_rows, &x, &mut y, false);
        for (y, (sum, size)) in y.iter().zip(&wanted) {
            assert!(
                (f64::from(*y) - sum).abs() <= share * size,
                "{y}, not {sum}, in {precision:?}"
            );
        }
    }
}
