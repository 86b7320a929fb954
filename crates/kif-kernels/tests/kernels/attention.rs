//! What holds of attention on every instruction set that this processor has.

use crate::checks::{assert_close, in_pool, on_each_set};
use crate::twin::{self, bits, differences, inner, noise, wide};
use kif_kernels::*;
use proptest::prelude::*;

/// A batch of ragged sequences with gaps between their rows, as a cache has them.
#[derive(Debug)]
struct Case {
    queries: Vec<Span>,
    keys: Vec<Span>,
    n_query_rows: usize,
    n_key_rows: usize,
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
    scale: f32,
    causal: bool,
    window: Option<usize>,
    bias: Option<(Vec<f32>, isize)>,
    saved_keys: usize,
    seed: u64,
}

impl Case {
    fn shape(&self) -> AttentionShape<'_> {
        AttentionShape {
            queries: &self.queries,
            keys: &self.keys,
            n_heads: self.n_heads,
            n_kv_heads: self.n_kv_heads,
            head_dim: self.head_dim,
            scale: self.scale,
            causal: self.causal,
            window: self.window,
            bias: self
                .bias
                .as_ref()
                .map(|(by_distance, min_distance)| RelativeBias {
                    by_distance,
                    min_distance: *min_distance,
                }),
            saved_keys: self.saved_keys,
        }
    }

    /// q, k, v and the gradient of the outputs.
    fn tensors(&self) -> [Vec<f32>; 4] {
        let (q, k) = (
            self.n_query_rows * self.n_heads * self.head_dim,
            self.n_key_rows * self.n_kv_heads * self.head_dim,
        );
        [
            noise(self.seed, q),
            noise(self.seed ^ 1, k),
            noise(self.seed ^ 2, k),
            noise(self.seed ^ 3, q),
        ]
    }
}

fn laid_out(lengths: &[usize], gap: usize) -> (Vec<Span>, usize) {
    let mut end = gap;
    let spans = lengths.iter().map(|&len| {
        let span = Span { start: end, len };
        end += len + gap;
        span
    });
    (spans.collect(), end)
}

/// Cases of up to three sequences whose lengths stay below the bounds.
fn cases(max_queries: usize, max_keys: usize) -> impl Strategy<Value = Case> {
    let lengths = prop::collection::vec((0..max_queries, 0..max_keys), 1..4);
    (
        lengths,
        0usize..3,
        (1usize..4, 1usize..4),
        prop_oneof![1usize..7, Just(8), Just(33), Just(64), Just(130)],
        any::<(bool, bool, bool, u64)>(),
        prop::option::of(1..max_keys),
        0..max_keys,
    )
        .prop_map(
            move |(lengths, gap, (n_kv_heads, group), head_dim, flags, window, saved_keys)| {
                let (scaled, causal, biased, seed) = flags;
                let n_heads = n_kv_heads * group;
                let (queries, n_query_rows) =
                    laid_out(&lengths.iter().map(|l| l.0).collect::<Vec<_>>(), gap);
                let (keys, n_key_rows) =
                    laid_out(&lengths.iter().map(|l| l.1).collect::<Vec<_>>(), gap);
                let reach = max_queries + max_keys;
                let bias = biased.then(|| {
                    (
                        noise(seed ^ 5, n_heads * (2 * reach + 1)),
                        -(reach as isize),
                    )
                });
                let scale = if scaled { 0.5 } else { 1.0 };
                Case {
                    queries,
                    keys,
                    n_query_rows,
                    n_key_rows,
                    n_heads,
                    n_kv_heads,
                    head_dim,
                    scale,
                    causal,
                    window,
                    bias,
                    saved_keys,
                    seed,
                }
            },
        )
}

/// The outputs and the gradients of q, k, v and the bias.
fn outputs_and_gradients(case: &Case, saved_keys: usize) -> [Vec<f32>; 5] {
    let [q, k, v, gy] = case.tensors();
    let shape = AttentionShape {
        saved_keys,
        ..case.shape()
    };
    let (mut y, mut probs) = (vec![0.0; q.len()], Vec::new());
    attention(&q, &k, &v, shape, &mut y, Some(&mut probs));
    let [mut gq, mut gk, mut gv] = [&q, &k, &v].map(|x| vec![0.0; x.len()]);
    let mut gbias = vec![0.0; case.bias.as_ref().map_or(0, |(bias, _)| bias.len())];
    let wanted = case.bias.is_some().then_some(&mut gbias[..]);
    attention_backward(
        &q, &k, &v, shape, &probs, &gy, &mut gq, &mut gk, &mut gv, wanted,
    );
    [y, gq, gk, gv, gbias]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.min(64)))]

    #[test]
    fn attention_matches_the_formula_and_leaves_other_rows_alone(case in cases(70, 70)) {
        let ([q, k, v, _], shape) = (case.tensors(), case.shape());
        let bias = case.bias.as_ref().map_or(vec![], |(bias, _)| wide(bias));
        let mut wanted = twin::Attention { q: wide(&q), k: wide(&k), v: wide(&v), bias }.outputs(&shape);
        let width = case.n_heads * case.head_dim;
        for row in 0..case.n_query_rows {
            if !case.queries.iter().any(|span| (span.start..span.start + span.len).contains(&row)) {
                wanted[row * width..(row + 1) * width].fill(7.0);
            }
        }
        on_each_set(|_| {
            let (mut y, mut probs) = (vec![7.0; q.len()], vec![3.0; 5]);
            attention(&q, &k, &v, shape, &mut y, Some(&mut probs));
            assert_close(&y, &wanted, 1e-5, "y");
            let mut without = vec![7.0; q.len()];
            attention(&q, &k, &v, shape, &mut without, None);
            assert_eq!(bits(&y), bits(&without));
        });
    }

    /// The same as attention of single queries to keys of prompt and text in a row.
    #[test]
    fn a_step_attends_to_the_prompt_and_to_its_own_text(case in cases(4, 40)) {
        let ([_, prompt_k, prompt_v, _], shape) = (case.tensors(), case.shape());
        let (width, kv_width) = (case.n_heads * case.head_dim, case.n_kv_heads * case.head_dim);
        // Every text sees its own new token at least.
        let lengths: Vec<usize> = case.queries.iter().map(|span| span.len + 1).collect();
        let (own, n_own) = laid_out(&lengths, 2);
        let (own_k, own_v) = (noise(case.seed ^ 7, n_own * kv_width), noise(case.seed ^ 8, n_own * kv_width));
        let q = noise(case.seed ^ 9, own.len() * width);
        let rows = |from: &[f32], span: Span| from[span.start * kv_width..(span.start + span.len) * kv_width].to_vec();
        let joined = |prompt: &[f32], text: &[f32]| -> Vec<f32> {
            let pairs = case.keys.iter().zip(&own);
            pairs.flat_map(|(p, o)| [rows(prompt, *p), rows(text, *o)].concat()).collect()
        };
        let lengths: Vec<usize> = case.keys.iter().zip(&own).map(|(p, o)| p.len + o.len).collect();
        let (keys, _) = laid_out(&lengths, 0);
        let queries: Vec<Span> = (0..own.len()).map(|start| Span { start, len: 1 }).collect();
        let whole = AttentionShape { queries: &queries, keys: &keys, bias: None, window: None, ..shape };
        let wanted = twin::Attention {
            q: wide(&q), k: wide(&joined(&prompt_k, &own_k)), v: wide(&joined(&prompt_v, &own_v)), bias: vec![],
        }.outputs(&whole);
        // Prompts in pieces: nothing, some, the rest.
        let pieces: Vec<Vec<Span>> = case.keys.iter().map(|span| {
            let cut = span.len / 3;
            [(0, 0), (0, cut), (cut, span.len - cut)].map(|(at, len)| Span { start: span.start + at, len }).to_vec()
        }).collect();
        let step = StepShape {
            prompts: &pieces, own: &own, n_heads: case.n_heads, n_kv_heads: case.n_kv_heads,
            head_dim: case.head_dim, scale: case.scale,
        };
        on_each_set(|set| {
            let run = || {
                let mut y = vec![7.0; q.len()];
                attention_step(&q, [&prompt_k, &prompt_v], [&own_k, &own_v], step, &mut y);
                y
            };
            assert_close(&run(), &wanted, 1e-5, "y");
            assert_eq!(bits(&in_pool(3, || with_instruction_set(set, run))), bits(&run()));
        });
    }

    #[test]
    fn attention_gradients_match_finite_differences(case in cases(6, 6)) {
        let ([q, k, v, gy], shape) = (case.tensors(), case.shape());
        let bias = case.bias.as_ref().map_or(vec![], |(bias, _)| wide(bias));
        let at = twin::Attention { q: wide(&q), k: wide(&k), v: wide(&v), bias };
        let gy64 = wide(&gy);
        let loss = |inputs: twin::Attention| inner(&inputs.outputs(&shape), &gy64);
        let by_q = differences(&at.q, |x| loss(twin::Attention { q: x.to_vec(), ..at.clone() }));
        let by_k = differences(&at.k, |x| loss(twin::Attention { k: x.to_vec(), ..at.clone() }));
        let by_v = differences(&at.v, |x| loss(twin::Attention { v: x.to_vec(), ..at.clone() }));
        let by_bias = differences(&at.bias, |x| loss(twin::Attention { bias: x.to_vec(), ..at.clone() }));
        on_each_set(|_| {
            let (mut y, mut probs) = (vec![0.0; q.len()], Vec::new());
            attention(&q, &k, &v, shape, &mut y, Some(&mut probs));
            let (mut gq, mut gk, mut gv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; k.len()]);
            let mut gbias = vec![1.0; by_bias.len()];
            let wanted = case.bias.is_some().then_some(&mut gbias[..]);
            attention_backward(&q, &k, &v, shape, &probs, &gy, &mut gq, &mut gk, &mut gv, wanted);
            assert_close(&gq, &by_q, 1e-5, "gq");
            assert_close(&gk, &by_k, 1e-5, "gk");
            assert_close(&gv, &by_v, 1e-5, "gv");
            gbias.iter_mut().for_each(|g| *g -= 1.0);
            assert_close(&gbias, &by_bias, 1e-5, "gbias");
        });
    }

    #[test]
    fn attention_has_the_same_bits_on_any_threads(case in cases(130, 130)) {
        let run = |n_threads| in_pool(n_threads, || {
            outputs_and_gradients(&case, case.saved_keys).map(|x| bits(&x))
        });
        prop_assert_eq!(run(1), run(4));
    }

    #[test]
    fn decoding_step_by_step_has_the_bits_of_the_whole_sequence(
        len in 1usize..80, head_dim in 1usize..70, n_heads in 1usize..3, biased: bool,
        window in prop::option::of(1usize..80), seed: u64,
    ) {
        let width = n_heads * head_dim;
        let (q, k, v) = (noise(seed, len * width), noise(seed ^ 1, len * width), noise(seed ^ 2, len * width));
        let by_distance = noise(seed ^ 3, n_heads * 80);
        let bias = biased.then_some(RelativeBias { by_distance: &by_distance, min_distance: -79 });
        on_each_set(|_| {
            let spans = [Span { start: 0, len }];
            let shape =
                AttentionShape { queries: &spans, keys: &spans, n_heads, n_kv_heads: n_heads, head_dim, scale: 1.0, causal: true, window, bias, saved_keys: 0 };
            let mut whole = vec![0.0; len * width];
            attention(&q, &k, &v, shape, &mut whole, None);
            for step in [0, len / 2, len - 1] {
                let (query, keys) = ([Span { start: 0, len: 1 }], [Span { start: 0, len: step + 1 }]);
                let row = step * width..(step + 1) * width;
                let mut y = vec![0.0; width];
                let shape = AttentionShape { queries: &query, keys: &keys, ..shape };
                attention(&q[row.clone()], &k, &v, shape, &mut y, None);
                assert_eq!(bits(&y), bits(&whole[row]));
            }
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.min(12)))]

    /// Lengths of several blocks: what is computed a second time has the bits of what is saved, and
    /// the gradients are those of the formula along a direction.
    #[test]
    fn long_sequences_have_the_bits_of_saved_probabilities(
        mut case in cases(2, 2), n_queries in 500usize..1100, n_cached in 0usize..600,
        window in prop::option::of(prop_oneof![1usize..80, 400usize..1100]),
    ) {
        let n_keys = if case.causal { n_queries + n_cached } else { n_cached + 1 };
        case.queries = vec![Span { start: 1, len: n_queries }];
        case.keys = vec![Span { start: 2, len: n_keys }];
        (case.n_query_rows, case.n_key_rows) = (n_queries + 2, n_keys + 2);
        (case.head_dim, case.window) = (case.head_dim.min(9), window);
        let reach = n_queries + n_keys;
        if let Some(bias) = &mut case.bias {
            *bias = (noise(case.seed ^ 5, case.n_heads * (2 * reach + 1)), -(reach as isize));
        }
        let [y, gq, gk, gv, gbias] = outputs_and_gradients(&case, 0);
        let saved = outputs_and_gradients(&case, usize::MAX);
        prop_assert_eq!([&y, &gq, &gk, &gv, &gbias].map(|x| bits(x)), saved.map(|x| bits(&x)));

        let [q, k, v, gy] = case.tensors().map(|x| wide(&x));
        let bias = case.bias.as_ref().map_or(vec![], |(bias, _)| wide(bias));
        let along = |x: &[f64], seed: u64| wide(&noise(case.seed ^ seed, x.len()));
        let directions = [along(&q, 11), along(&k, 12), along(&v, 13), along(&bias, 14)];
        let loss = |step: f64| {
            let moved = |x: &[f64], d: &[f64]| x.iter().zip(d).map(|(x, d)| x + step * d).collect();
            let [dq, dk, dv, dbias] = &directions;
            let inputs = twin::Attention {
                q: moved(&q, dq), k: moved(&k, dk), v: moved(&v, dv), bias: moved(&bias, dbias),
            };
            inner(&inputs.outputs(&case.shape()), &gy)
        };
        let wanted = (loss(1e-5) - loss(-1e-5)) / 2e-5;
        let parts = [&gq, &gk, &gv, &gbias].map(|g| wide(g));
        let got: f64 = parts.iter().zip(&directions).map(|(g, d)| inner(g, d)).sum();
        let size: f64 = parts.iter().flatten().map(|g| g.abs()).sum();
        prop_assert!((got - wanted).abs() < 1e-4 * size, "{got}, not {wanted}, of sums of {size}");
    }
}

#[test]
#[should_panic(expected = "key spans overlap")]
fn gradients_of_shared_keys_are_refused() {
    let (queries, keys) = (
        [Span { start: 0, len: 1 }, Span { start: 1, len: 1 }],
        [Span { start: 0, len: 1 }; 2],
    );
    let shape = AttentionShape {
        queries: &queries,
        keys: &keys,
        n_heads: 1,
        n_kv_heads: 1,
        head_dim: 1,
        scale: 1.0,
        causal: false,
        window: None,
        bias: None,
        saved_keys: 1,
    };
    let (q, k) = ([1.0; 2], [1.0; 1]);
    let (mut gq, mut gk, mut gv) = ([0.0; 2], [0.0; 1], [0.0; 1]);
    attention_backward(
        &q, &k, &k, shape, &[1.0; 2], &q, &mut gq, &mut gk, &mut gv, None,
    );
}
