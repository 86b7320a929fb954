//! What holds of every kernel on every instruction set that this processor has.

use crate::checks::{assert_close, in_pool, on_each_set};
use crate::twin::{self, bits, differences, inner, noise, wide};
use kif_kernels::*;
use proptest::prelude::*;

/// Extents around every edge of the kernels: tiles of 6 and 14 rows, panels of 16 and 32 columns,
/// depth blocks of 512.
fn extents() -> impl Strategy<Value = (usize, usize, usize)> {
    let near = |edge: usize| (edge.saturating_sub(2).max(1)..edge + 3).boxed();
    let depth = prop_oneof![1usize..20, near(32), near(512), near(1024), Just(1024)];
    (
        prop_oneof![1usize..40, near(112), near(226)],
        prop_oneof![1usize..70, near(128)],
        depth,
    )
}

fn precisions() -> impl Strategy<Value = Precision> {
    prop_oneof![
        Just(Precision::F32),
        Just(Precision::Bf16),
        Just(Precision::Int8)
    ]
}

/// A weight as it is stored.
fn stored(packed: &PackedWeight) -> Vec<f32> {
    let ids: Vec<u32> = (0..packed.n_out() as u32).collect();
    let mut rows = vec![0.0; packed.n_out() * packed.n_in()];
    packed.read_rows(&ids, &mut rows);
    rows
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.min(96)))]

    #[test]
    fn packed_products_match_the_plain_sum(
        (n_rows, n_out, n_in) in extents(), seed: u64, accumulate: bool, precision in precisions(),
    ) {
        let (x, gy) = (noise(seed, n_rows * n_in), noise(seed ^ 2, n_rows * n_out));
        let packed = PackedWeight::pack(&noise(seed ^ 1, n_out * n_in), n_out, n_in, precision);
        let w = stored(&packed);
        let forward = twin::product(n_rows, n_in, n_out, |i, k| x[i * n_in + k], |k, j| w[j * n_in + k]);
        let backward = twin::product(n_rows, n_out, n_in, |i, k| gy[i * n_out + k], |k, j| w[k * n_in + j]);
        on_each_set(|set| {
            let check = |got: &[f32], before: &[f32], wanted: &[(f64, f64)], depth: usize| {
                // Rounding to BF16 moves each factor by 2^-8 of itself at most; summing adds a
                // little of f32's own.
                let share = if precision == Precision::F32 { 0.0 } else { 2f64.powi(-7) + 2f64.powi(-16) } + (depth as f64 + 2.0) * 2f64.powi(-23);
                for ((got, before), (sum, size)) in got.iter().zip(before).zip(wanted) {
                    let wanted = sum + if accumulate { f64::from(*before) } else { 0.0 };
                    let error = (f64::from(*got) - wanted).abs();
                    assert!(error <= share * size + 1e-6, "{got}, not {wanted}, on {set:?}");
                }
            };
            let (before, mut y) = (noise(seed ^ 3, n_rows * n_out), noise(seed ^ 3, n_rows * n_out));
            packed.forward(n_rows, &x, &mut y, accumulate);
            check(&y, &before, &forward, n_in);
            let (before, mut gx) = (noise(seed ^ 4, n_rows * n_in), noise(seed ^ 4, n_rows * n_in));
            packed.backward(n_rows, &gy, &mut gx, accumulate);
            check(&gx, &before, &backward, n_out);
        });
    }

    #[test]
    fn a_row_of_a_product_has_the_same_bits_in_any_company_and_on_any_threads(
        (n_rows, n_out, n_in) in extents(), seed: u64, precision in precisions(),
    ) {
        let (x, gy, w) = (noise(seed, n_rows * n_in), noise(seed ^ 2, n_rows * n_out), noise(seed ^ 1, n_out * n_in));
        let width = n_out + n_in;
        for set in InstructionSet::ALL {
            // Row by row, the product and the product with the transpose.
            let product = |rows: std::ops::Range<usize>| with_instruction_set(set, || {
                let (mut y, mut gx) = (vec![0.0; rows.len() * n_out], vec![0.0; rows.len() * n_in]);
                let packed = PackedWeight::pack(&w, n_out, n_in, precision);
                packed.forward(rows.len(), &x[rows.start * n_in..rows.end * n_in], &mut y, false);
                packed.backward(rows.len(), &gy[rows.start * n_out..rows.end * n_out], &mut gx, false);
                let both = y.chunks(n_out).zip(gx.chunks(n_in));
                bits(&both.flat_map(|(y, gx)| [y, gx].concat()).collect::<Vec<_>>())
            });
            let whole = in_pool(1, || product(0..n_rows));
            for n_threads in [2, 3, 7] {
                prop_assert_eq!(&whole, &in_pool(n_threads, || product(0..n_rows)));
            }
            for rows in [0..1, n_rows / 2..n_rows, n_rows - 1..n_rows, n_rows / 3..n_rows.min(n_rows / 3 + 15)] {
                prop_assert_eq!(&whole[rows.start * width..rows.end * width], &product(rows)[..]);
            }
        }
    }

    #[test]
    fn rows_of_a_packed_weight_are_those_that_it_multiplies_by((_, n_out, n_in) in extents(), seed: u64, precision in precisions()) {
        let w = noise(seed, n_out * n_in);
        let packed = PackedWeight::pack(&w, n_out, n_in, precision);
        let ids: Vec<u32> = (0..50).map(|i| (seed.wrapping_add(i * 31) % n_out as u64) as u32).collect();
        let mut rows = vec![9.0; ids.len() * n_in];
        packed.read_rows(&ids, &mut rows);
        for (&id, row) in ids.iter().zip(rows.chunks(n_in)) {
            let (mut product, mut unit) = (vec![0.0; n_in], vec![0.0; n_out]);
            unit[id as usize] = 1.0;
            with_instruction_set(InstructionSet::Avx512, || packed.backward(1, &unit, &mut product, false));
            prop_assert_eq!(row, &product[..]);
            prop_assert!(precision != Precision::F32 || row == &w[id as usize * n_in..][..n_in]);
        }
    }

    #[test]
    fn what_is_stored_is_the_weight_rounded((_, n_out, n_in) in extents(), seed: u64, scale in -60i32..60, precision in precisions()) {
        let w: Vec<f32> = noise(seed, n_out * n_in).iter().map(|x| x * 2f32.powi(scale)).collect();
        let packed = PackedWeight::pack(&w, n_out, n_in, precision);
        for (row, got) in w.chunks(n_in).zip(stored(&packed).chunks(n_in)) {
            let largest = row.iter().fold(0f32, |max, x| max.max(x.abs()));
            for (x, got) in row.iter().zip(got) {
                let error = match precision {
                    Precision::F32 => 0.0,
                    Precision::Bf16 => x.abs() / 256.0,
                    // And the roundings of f32 itself.
                    Precision::Int8 => largest * (1.0 / 254.0 + 1e-6),
                };
                prop_assert!((x - got).abs() <= error, "{} instead of {}", got, x);
            }
        }
    }

    #[test]
    fn repacking_is_packing_anew((n_rows, n_out, n_in) in extents(), seed: u64, precision in precisions()) {
        let (x, gy, w) = (noise(seed, n_rows * n_in), noise(seed ^ 2, n_rows * n_out), noise(seed ^ 1, n_out * n_in));
        let mut repacked = PackedWeight::pack(&noise(seed ^ 9, n_out * n_in), n_out, n_in, precision);
        repacked.repack(&w);
        let products = |weight: &PackedWeight| {
            let (mut y, mut gx) = (vec![0.0; n_rows * n_out], vec![0.0; n_rows * n_in]);
            weight.forward(n_rows, &x, &mut y, false);
            weight.backward(n_rows, &gy, &mut gx, false);
            (bits(&y), bits(&gx))
        };
        prop_assert_eq!(products(&repacked), products(&PackedWeight::pack(&w, n_out, n_in, precision)));
    }

    #[test]
    fn general_products_match_the_plain_sum_on_any_threads(
        (m, n, k) in extents(), seed: u64, turned in any::<(bool, bool, bool)>(), add: bool,
    ) {
        let (a, b, before) = (noise(seed, m * k), noise(seed ^ 1, k * n), noise(seed ^ 2, m * n));
        let oriented = |data, rows, cols, turned| {
            if turned { MatRef::row_major(data, cols, rows).transposed() } else { MatRef::row_major(data, rows, cols) }
        };
        let (a, b) = (oriented(&a, m, k, turned.0), oriented(&b, k, n, turned.1));
        let product = |n_threads| in_pool(n_threads, || {
            let mut c = before.clone();
            let view = if turned.2 { MatMut::row_major(&mut c, n, m).transposed() } else { MatMut::row_major(&mut c, m, n) };
            gemm(0.5, a, b, if add { 1.0 } else { 0.0 }, view, true);
            c
        });
        let c = product(1);
        let at = |m: &MatRef, i: usize, j: usize| m.data[i * m.row_stride + j * m.col_stride];
        for (place, (sum, size)) in twin::product(m, k, n, |i, l| at(&a, i, l), |l, j| at(&b, l, j)).into_iter().enumerate() {
            let place = if turned.2 { place % n * m + place / n } else { place };
            let wanted = 0.5 * sum + if add { f64::from(before[place]) } else { 0.0 };
            prop_assert!((f64::from(c[place]) - wanted).abs() <= (k as f64 + 2.0) * 2f64.powi(-23) * size + 1e-6);
        }
        for n_threads in [2, 5] {
            prop_assert_eq!(bits(&c), bits(&product(n_threads)));
        }
    }

    #[test]
    fn normalised_rows_and_their_gradients_match_the_formula(
        n_rows in 1usize..150, width in 1usize..70, seed: u64,
    ) {
        let (x, gain, gy) = (noise(seed, n_rows * width), noise(seed ^ 1, width), noise(seed ^ 2, n_rows * width));
        let eps = 1e-2;
        let (gain64, gy64) = (wide(&gain), wide(&gy));
        // One row's finite differences stand for all: rows do not interact.
        let row = (seed as usize % n_rows) * width..(seed as usize % n_rows + 1) * width;
        let gx64 = differences(&wide(&x[row.clone()]), |x| inner(&twin::rms_norm(x, &gain64, 1e-2), &gy64[row.clone()]));
        let ggain64 = differences(&gain64, |gain| inner(&twin::rms_norm(&wide(&x), gain, 1e-2), &gy64));
        on_each_set(|_| {
            let (mut y, mut inv_rms) = (vec![0.0; x.len()], vec![0.0; n_rows]);
            rms_norm(&x, &gain, eps, &mut y, &mut inv_rms);
            assert_close(&y, &twin::rms_norm(&wide(&x), &gain64, f64::from(eps)), 1e-5, "y");
            let (mut gx, mut ggain) = (vec![1.0; x.len()], vec![2.0; width]);
            rms_norm_backward(&x, &gain, &inv_rms, &gy, &mut gx, Some(&mut ggain));
            let (gx, ggain): (Vec<f32>, Vec<f32>) =
                (gx[row.clone()].iter().map(|g| g - 1.0).collect(), ggain.iter().map(|g| g - 2.0).collect());
            assert_close(&gx, &gx64, 2e-5, "gx");
            assert_close(&ggain, &ggain64, 1e-4, "ggain");
        });
    }

    #[test]
    fn gated_activations_and_their_gradients_match_the_formulas(n in 1usize..200, seed: u64, silu: bool) {
        type Gate = fn(&[f32], &[f32], &mut [f32]);
        type Back = fn(&[f32], &[f32], &[f32], &mut [f32], &mut [f32]);
        type Twin = fn(&[f64], &[f64]) -> Vec<f64>;
        let (forward, backward, formula): (Gate, Back, Twin) = match silu {
            true => (gated_silu, gated_silu_backward, twin::gated_silu),
            false => (gated_gelu, gated_gelu_backward, twin::gated_gelu),
        };
        let gate: Vec<f32> = noise(seed, n).iter().map(|x| 6.0 * x).collect();
        let (up, gy) = (noise(seed ^ 1, n), noise(seed ^ 2, n));
        let (gate64, up64, gy64) = (wide(&gate), wide(&up), wide(&gy));
        on_each_set(|_| {
            let mut y = vec![0.0; n];
            forward(&gate, &up, &mut y);
            assert_close(&y, &formula(&gate64, &up64), 2e-6, "y");
            let (mut ggate, mut gup) = (vec![9.0; n], vec![9.0; n]);
            backward(&gate, &up, &gy, &mut ggate, &mut gup);
            let by_gate = differences(&gate64, |gate| inner(&formula(gate, &up64), &gy64));
            let by_up = differences(&up64, |up| inner(&formula(&gate64, up), &gy64));
            assert_close(&ggate, &by_gate, 2e-6, "ggate");
            assert_close(&gup, &by_up, 2e-6, "gup");
        });
    }

    #[test]
    fn cross_entropy_and_its_gradient_match_the_formula(n in 1usize..8, vocab in 1usize..60, seed: u64) {
        let logits: Vec<f32> = noise(seed, n * vocab).iter().map(|x| 10.0 * x).collect();
        let targets: Vec<u32> = (0..n).map(|i| ((seed >> 8) as usize + 7 * i) as u32 % vocab as u32).collect();
        let logits64 = wide(&logits);
        on_each_set(|_| {
            let mut gradient = logits.clone();
            let nll = cross_entropy(&mut gradient, &targets, vocab);
            assert_close(&nll, &twin::nll(&logits64, &targets), 1e-6, "nll");
            let wanted = differences(&logits64, |logits| twin::nll(logits, &targets).iter().sum());
            assert_close(&gradient, &wanted, 1e-6, "gradient");
            for (row, (&target, nll)) in logits.chunks(vocab).zip(targets.iter().zip(&nll)) {
                assert!((log_softmax_at(row, target as usize) + nll).abs() <= 4e-6 * nll.max(1.0));
                assert!(row.iter().all(|&x| x <= row[argmax(row)]));
            }
        });
    }

    #[test]
    fn the_fused_output_loss_is_the_composed_one(n in 1usize..200, width in 1usize..40, vocab in 1usize..90, seed: u64) {
        let (x, w) = (noise(seed, n * width), noise(seed ^ 1, vocab * width));
        let targets: Vec<u32> = (0..n).map(|i| (seed.wrapping_add(i as u64 * 31) % vocab as u64) as u32).collect();
        let head = PackedWeight::pack(&w, vocab, width, Precision::F32);
        let fused = |n_threads| in_pool(n_threads, || {
            let mut gx = vec![9.0; n * width];
            let nll = linear_cross_entropy(&x, &head, &targets, Some(&mut gx));
            (bits(&nll), bits(&gx))
        });
        let mut logits = vec![0.0; n * vocab];
        head.forward(n, &x, &mut logits, false);
        let nll = cross_entropy(&mut logits, &targets, vocab);
        let mut gx = vec![0.0; n * width];
        head.backward(n, &logits, &mut gx, false);
        prop_assert_eq!(&fused(1), &(bits(&nll), bits(&gx)));
        prop_assert_eq!(fused(1), fused(3));
        prop_assert_eq!(bits(&linear_cross_entropy(&x, &head, &targets, None)), bits(&nll));
    }

    #[test]
    fn a_dropout_mask_depends_on_key_stream_and_place_alone(
        n in 1usize..40_000, cut in 1usize..40_000, seed: u8, stream: u64,
    ) {
        let masked = |n: usize, stream: u64| {
            let mut y = vec![9.0; n];
            dropout(&vec![1.0; n], 1, 0.25, [seed; 32], stream, &mut y);
            bits(&y)
        };
        let whole = in_pool(3, || masked(n, stream));
        prop_assert_eq!(&whole[..cut.min(n)], &in_pool(1, || masked(cut.min(n), stream))[..]);
        prop_assert!(n < 100 || whole != masked(n, stream ^ 1));
    }

    #[test]
    fn turning_back_undoes_a_turn_and_keeps_lengths(
        n in 1usize..80, n_heads in 1usize..4, half in 1usize..20, seed: u64,
    ) {
        let x = noise(seed, n * n_heads * 2 * half);
        let angles: Vec<f32> = noise(seed ^ 1, n * half).iter().map(|a| 40.0 * a).collect();
        let [cos, sin] = [f32::cos, f32::sin].map(|f| angles.iter().map(|a| f(*a)).collect::<Vec<_>>());
        let back: Vec<f32> = sin.iter().map(|s| -s).collect();
        on_each_set(|_| {
            let (mut y, mut again) = (vec![0.0; x.len()], vec![0.0; x.len()]);
            rotate(&x, &cos, &sin, half, &mut y);
            rotate(&y, &cos, &back, half, &mut again);
            assert_close(&again, &wide(&x), 1e-5, "x");
            assert!((inner(&wide(&x), &wide(&x)) - inner(&wide(&y), &wide(&y))).abs() < 1e-4 * x.len() as f64);
        });
    }
}
