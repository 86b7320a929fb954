//! What always holds for metrics, whatever the scores.

use kif_eval::{
    Metric, References, ScoreMatrix, best_rouge_l,
    conventions::{PEERS, Printed, Quantity},
    exact_match, rouge_l,
    statistics::{mean, t_interval},
    transfer::{bwt, forgetting, overall_performance},
};
use proptest::{collection::vec, prelude::*};

const KNOWN: &str = "every cell is known";

fn matrix_of(n_tasks: usize, score: impl Fn(usize, usize) -> f64) -> ScoreMatrix {
    let mut matrix = ScoreMatrix::new(n_tasks);
    for after in 0..=n_tasks {
        for task in 0..n_tasks {
            matrix.set(after, task, score(after, task));
        }
    }
    matrix
}

/// A full matrix of 2 to 7 tasks.
fn matrix() -> impl Strategy<Value = ScoreMatrix> {
    (2usize..8).prop_flat_map(|n| {
        vec(0.0f64..=1.0, (n + 1) * n)
            .prop_map(move |cells| matrix_of(n, |after, task| cells[after * n + task]))
    })
}

/// A full matrix with per-task and joint references.
fn with_references() -> impl Strategy<Value = (ScoreMatrix, Vec<f64>, Vec<f64>)> {
    matrix().prop_flat_map(|matrix| {
        let n = matrix.n_tasks();
        (Just(matrix), vec(0.0f64..=1.0, n), vec(0.0f64..=1.0, n))
    })
}

fn value(metric: Metric, matrix: &ScoreMatrix, per_task: &[f64], joint: &[f64]) -> f64 {
    let references = References {
        per_task: Some(per_task),
        joint: Some(joint),
    };
    metric.compute(matrix, &references).expect(KNOWN)
}

/// Levels of performance follow an affine change of all scores; differences between scores
/// follow its slope alone.
fn is_level(metric: Metric) -> bool {
    matches!(
        metric,
        Metric::Op | Metric::ApMeanOfRows | Metric::ApLowerTriangle
    )
}

fn words() -> impl Strategy<Value = Vec<String>> {
    vec("[a-z]{1,8}|[A-Z][a-z]{0,6}(ing|ed|s)?|[0-9]{1,3}", 0..20)
}

proptest! {
    #[test]
    fn levels_lie_in_the_unit_interval_and_differences_within_one((matrix, per_task, joint) in with_references()) {
        for metric in Metric::ALL.iter().copied() {
            let value = value(metric, &matrix, &per_task, &joint);
            let lowest = if is_level(metric) || metric == Metric::ForgettingMammoth { 0.0 } else { -1.0 };
            prop_assert!((lowest - 1e-12..=1.0 + 1e-12).contains(&value), "{} is {value}", metric.name());
        }
    }

    #[test]
    fn metrics_follow_an_affine_change_of_all_scores(
        ((matrix, per_task, joint), slope, shift) in (with_references(), 0.1f64..0.5, 0.0f64..0.5)
    ) {
        let change = |score: f64| slope * score + shift;
        let changed = matrix_of(matrix.n_tasks(), |after, task| change(matrix.get(after, task).unwrap()));
        let change_all = |scores: &[f64]| scores.iter().map(|s| change(*s)).collect::<Vec<f64>>();
        for metric in Metric::ALL.iter().copied() {
            let before = value(metric, &matrix, &per_task, &joint);
            let after = value(metric, &changed, &change_all(&per_task), &change_all(&joint));
            let expected = if is_level(metric) { change(before) } else { slope * before };
            prop_assert!((after - expected).abs() < 1e-12, "{}", metric.name());
        }
    }

    #[test]
    fn constant_columns_give_no_backward_transfer_and_no_forgetting(scores in vec(0.0f64..=1.0, 2..8)) {
        let matrix = matrix_of(scores.len(), |_, task| scores[task]);
        let none = References::default();
        for metric in Metric::ALL.iter().filter(|m| m.name().starts_with("bwt") || m.name().starts_with("forgetting")) {
            prop_assert_eq!(metric.compute(&matrix, &none), Some(0.0));
        }
    }

    #[test]
    fn a_last_row_equal_to_the_diagonal_gives_no_backward_transfer(matrix in matrix()) {
        let n = matrix.n_tasks();
        let kept = matrix_of(n, |after, task| if after == n { matrix.learned(task) } else { matrix.get(after, task) }.unwrap());
        prop_assert_eq!(bwt::gem(&kept), Some(0.0));
        prop_assert_eq!(forgetting::first_last(&kept), Some(0.0));
    }

    #[test]
    fn conventions_are_tied_together((matrix, per_task, joint) in with_references()) {
        let n = matrix.n_tasks() as f64;
        let gem = bwt::gem(&matrix).unwrap();
        let near = |a: Option<f64>, b: f64| (a.unwrap() - b).abs() < 1e-12;
        prop_assert!(near(forgetting::first_last(&matrix), -gem));
        prop_assert!(near(bwt::sapt(&matrix), (n - 1.0) / n * gem));
        prop_assert!(forgetting::chaudhry(&matrix) >= forgetting::first_last(&matrix));
        prop_assert!(forgetting::mammoth(&matrix) >= forgetting::chaudhry(&matrix));
        prop_assert!(forgetting::mammoth(&matrix) >= Some(0.0));
        let single = value(Metric::IntransigencePerTask, &matrix, &per_task, &joint);
        prop_assert!((single + value(Metric::FwtAim, &matrix, &per_task, &joint)).abs() < 1e-12);
    }

    #[test]
    fn peers_print_numbers_that_follow_from_each_other((matrix, per_task, _) in with_references()) {
        let n = matrix.n_tasks() as f64;
        let references = References { per_task: Some(&per_task), joint: None };
        let print = |name: &str, quantity| {
            let peer = PEERS.iter().find(|peer| peer.name == name).unwrap();
            match peer.print(quantity, &matrix, &references) {
                Printed::Value(value) => value,
                other => panic!("{name}: {other:?}"),
            }
        };
        let near = |a: f64, b: f64| (a - b).abs() < 1e-12;
        let bwt = print("Mammoth", Quantity::Bwt);
        prop_assert!(near(print("SAPT", Quantity::Bwt), (n - 1.0) / n * bwt));
        // Its scores are rounded to 4 decimals.
        prop_assert!((print("Recurrent-KIF", Quantity::Bwt) - bwt).abs() < 1e-4 + 1e-12);
        prop_assert!(near(print("TaSL", Quantity::Bwt), bwt));
        prop_assert!(near(print("Avalanche", Quantity::Forgetting), -bwt));
        prop_assert!(near(print("SAPT", Quantity::Forgetting), print("Continuum", Quantity::Forgetting)));
        prop_assert!(print("Mammoth", Quantity::Forgetting) >= print("Continuum", Quantity::Forgetting));
        // What each takes off: the base's scores, one constant, the single-task scores.
        let base = mean(&(1..matrix.n_tasks()).map(|j| matrix.get(0, j).unwrap()).collect::<Vec<_>>()).unwrap();
        prop_assert!(near(print("Continuum", Quantity::Fwt) - print("Mammoth", Quantity::Fwt), base));
        let single = mean(&per_task).unwrap();
        prop_assert!(near(print("SAPT", Quantity::Fwt) + 0.5094, print("AIMMerging", Quantity::Fwt) + single));
    }

    #[test]
    fn an_unknown_cell_is_never_a_wrong_number((matrix, after, task) in (matrix(), 0usize..8, 0usize..7)) {
        let n = matrix.n_tasks();
        let (after, task) = (after % (n + 1), task % n);
        let mut cells: Vec<Vec<Option<f64>>> = matrix.clone().into();
        cells[after][task] = None;
        let partial = ScoreMatrix::try_from(cells).unwrap();
        for (peer, quantity) in PEERS.iter().flat_map(|peer| Quantity::ALL.map(|q| (peer, q))) {
            let (whole, without) = (
                peer.print(quantity, &matrix, &References::default()),
                peer.print(quantity, &partial, &References::default()),
            );
            prop_assert!(without == whole || without == Printed::NotEvaluated, "{}: {without:?}", peer.name);
        }
    }

    #[test]
    fn overall_performance_does_not_depend_on_the_tasks_labels(
        (matrix, order) in matrix().prop_flat_map(|matrix| {
            let order: Vec<usize> = (0..matrix.n_tasks()).collect();
            (Just(matrix), Just(order).prop_shuffle())
        })
    ) {
        let relabelled = matrix_of(order.len(), |after, task| matrix.get(after, order[task]).unwrap());
        let (a, b) = (overall_performance(&matrix).unwrap(), overall_performance(&relabelled).unwrap());
        prop_assert!((a - b).abs() < 1e-12);
    }

    #[test]
    fn an_unknown_cell_makes_a_metric_unknown_and_never_wrong((matrix, after, task) in (matrix(), 0usize..8, 0usize..7)) {
        let n = matrix.n_tasks();
        let (after, task) = (after % (n + 1), task % n);
        let mut partial = ScoreMatrix::new(n);
        for (i, j) in (0..=n).flat_map(|i| (0..n).map(move |j| (i, j))).filter(|cell| *cell != (after, task)) {
            partial.set(i, j, matrix.get(i, j).unwrap());
        }
        for metric in Metric::ALL {
            let value = metric.compute(&partial, &References::default());
            prop_assert!(value.is_none() || value == metric.compute(&matrix, &References::default()));
        }
    }

    #[test]
    fn a_matrix_survives_storage(matrix in matrix()) {
        let json = serde_json::to_string(&matrix).unwrap();
        prop_assert_eq!(serde_json::from_str::<ScoreMatrix>(&json).unwrap(), matrix);
    }

    #[test]
    fn identical_text_scores_one(words in words()) {
        let text = words.join(" ");
        prop_assert!(exact_match(&text, std::slice::from_ref(&text)));
        prop_assert_eq!(rouge_l(&text, &text), if words.is_empty() { 0.0 } else { 1.0 });
    }

    #[test]
    fn rouge_l_lies_in_the_unit_interval_and_is_symmetric((a, b) in (words(), words())) {
        let (a, b) = (a.join(" "), b.join("-"));
        let score = rouge_l(&a, &b);
        prop_assert!((0.0..=1.0).contains(&score));
        prop_assert!((score - rouge_l(&b, &a)).abs() < 1e-12);
    }

    #[test]
    fn any_text_is_scored((a, b) in (any::<String>(), any::<String>())) {
        prop_assert!((0.0..=1.0).contains(&rouge_l(&a, &b)));
        prop_assert!(exact_match(&a, &[b, a.clone()]));
    }

    #[test]
    fn the_best_reference_counts((prediction, references) in (words(), vec(words(), 1..5))) {
        let prediction = prediction.join(" ");
        let references: Vec<String> = references.iter().map(|words| words.join(" ")).collect();
        let best = best_rouge_l(&prediction, &references);
        prop_assert!(references.iter().all(|reference| rouge_l(&prediction, reference) <= best));
        prop_assert!(references.iter().any(|reference| rouge_l(&prediction, reference) == best));
    }

    #[test]
    fn an_interval_holds_the_mean_and_widens_with_confidence((values, a, b) in (vec(0.0f64..=1.0, 2..20), 0.01f64..0.99, 0.01f64..0.99)) {
        let (narrow, wide) = (t_interval(&values, a.min(b)).unwrap(), t_interval(&values, a.max(b)).unwrap());
        prop_assert_eq!(Some(narrow.mean), mean(&values));
        prop_assert!(0.0 <= narrow.half_width && narrow.half_width <= wide.half_width + 1e-12);
    }

    #[test]
    fn four_times_the_runs_about_halve_the_interval(values in vec(0.0f64..=1.0, 10..20)) {
        let fourfold = t_interval(&values.repeat(4), 0.95).unwrap().half_width;
        let once = t_interval(&values, 0.95).unwrap().half_width;
        prop_assert!(fourfold <= once / 2.0 + 1e-12 && fourfold >= once / 2.0 * 0.8);
    }
}
