//! What is always true of rows, batches, orders and memories.

use std::collections::BTreeMap;
use std::path::Path;

use kif_data::{
    Batch, Content, Cursor, Encoded, Limits, MemoryPolicy, Ragged, Row, Tokenizer,
    class_balanced_subset, cycled_batch, draw_memory, epoch_order, highest_loss, labels,
    memory_batch, read_rows, reservoir, validation_split,
};
use proptest::collection::vec;
use proptest::prelude::*;

fn text_row(id: usize, prompt: String, references: Vec<String>) -> Row {
    Row {
        id: format!("row-{id}"),
        content: Content::Text {
            prompt: prompt.into(),
            references,
        },
    }
}

/// Rows of up to eight classes, or of free text where every row is a class of its own.
fn labelled_rows() -> impl Strategy<Value = Vec<Row>> {
    (1usize..9, 0usize..300, any::<bool>()).prop_flat_map(|(n_classes, n_rows, free)| {
        vec(0..n_classes, n_rows).prop_map(move |classes| {
            let label = |i: usize, class: usize| {
                if free {
                    format!("text {i}")
                } else {
                    format!("label {class}")
                }
            };
            let rows = classes.iter().enumerate();
            rows.map(|(i, &class)| text_row(i, format!("prompt {i}"), vec![label(i, class)]))
                .collect()
        })
    })
}

fn policy() -> impl Strategy<Value = MemoryPolicy> {
    prop_oneof![
        Just(MemoryPolicy::ClassBalanced),
        Just(MemoryPolicy::Random)
    ]
}

fn sorted(mut values: Vec<usize>) -> Vec<usize> {
    values.sort_unstable();
    values
}

/// How many of `chosen` each class has, by label; classes without any are there with 0.
fn class_counts(rows: &[Row], chosen: &[usize]) -> BTreeMap<String, usize> {
    let mut counts: BTreeMap<String, usize> =
        labels(rows).into_iter().map(|label| (label, 0)).collect();
    chosen
        .iter()
        .for_each(|&i| *counts.get_mut(&rows[i].references()[0]).unwrap() += 1);
    counts
}

proptest! {
    #[test]
    fn an_epoch_visits_each_row_once(n in 0usize..500, seed: u64, task: u64, epoch: u64) {
        prop_assert_eq!(sorted(epoch_order(n, seed, task, epoch)), (0..n).collect::<Vec<_>>());
    }

    #[test]
    fn an_epoch_cut_into_batches_of_any_size_visits_each_row_once(n in 1usize..200, batch in 1usize..40, seed: u64) {
        let order = epoch_order(n, seed, 0, 0);
        let visited: Vec<usize> = order.chunks(batch).flatten().copied().collect();
        prop_assert_eq!(sorted(visited), (0..n).collect::<Vec<_>>());
    }

    #[test]
    fn choices_are_functions_of_their_key(rows in labelled_rows(), seed: u64, task: u64, step: u64) {
        let n = rows.len();
        prop_assert_eq!(epoch_order(n, seed, task, step), epoch_order(n, seed, task, step));
        let draw = || draw_memory(&rows, 0.1, MemoryPolicy::ClassBalanced, seed, task);
        prop_assert_eq!(draw(), draw());
        prop_assert_eq!(memory_batch(n, 8, seed, task, step), memory_batch(n, 8, seed, task, step));
        prop_assert_eq!(validation_split(n, 0.1, seed, task), validation_split(n, 0.1, seed, task));
        prop_assert_eq!(class_balanced_subset(&rows, 20, seed), class_balanced_subset(&rows, 20, seed));
    }

    #[test]
    fn a_cursor_goes_on_where_it_stopped_whatever_the_batches(n in 1usize..50, batches in vec(0usize..120, 0..8)) {
        let mut cursor = Cursor::default();
        let taken: Vec<usize> = batches.iter().flat_map(|&batch| cursor.take(n, batch)).collect();
        let total: usize = batches.iter().sum();
        prop_assert_eq!(taken, (0..total).map(|i| i % n).collect::<Vec<_>>());
        prop_assert_eq!(cursor.position, total % n);
    }

    #[test]
    fn memory_keeps_its_size_and_draws_from_train_without_repeats(
        rows in labelled_rows(), fraction in 0.0f64..=1.0, policy in policy(), seed: u64, task in 0u64..20,
    ) {
        let drawn = draw_memory(&rows, fraction, policy, seed, task);
        prop_assert_eq!(drawn.len(), (fraction * rows.len() as f64) as usize);
        let mut distinct = sorted(drawn);
        distinct.dedup();
        prop_assert_eq!(distinct.len(), (fraction * rows.len() as f64) as usize);
        prop_assert!(distinct.iter().all(|&i| i < rows.len()));
    }

    #[test]
    fn a_reservoir_keeps_its_size_and_draws_from_what_was_seen_without_repeats(
        n_rows in vec(0usize..60, 0..6), capacity in 0usize..80, seed: u64,
    ) {
        let kept = reservoir(&n_rows, capacity, seed);
        prop_assert_eq!(&kept, &reservoir(&n_rows, capacity, seed));
        let n_kept: usize = kept.iter().map(Vec::len).sum();
        prop_assert_eq!(n_kept, capacity.min(n_rows.iter().sum()));
        for (kept, n) in kept.into_iter().zip(n_rows) {
            prop_assert!(kept.iter().all(|&row| row < n));
            prop_assert!(kept.windows(2).all(|pair| pair[0] < pair[1]));
        }
    }

    #[test]
    fn no_row_that_is_left_out_has_a_higher_loss(losses in vec(-5.0f64..5.0, 0..50), n in 0usize..60) {
        let kept = highest_loss(&losses, n);
        prop_assert_eq!(kept.len(), n.min(losses.len()));
        let least = kept.iter().map(|&i| losses[i]).fold(f64::INFINITY, f64::min);
        let left_out = (0..losses.len()).filter(|i| !kept.contains(i));
        prop_assert!(left_out.into_iter().all(|i| losses[i] <= least));
        prop_assert_eq!(sorted(kept.clone()).windows(2).filter(|pair| pair[0] == pair[1]).count(), 0);
    }

    #[test]
    fn memory_has_the_equal_share_of_every_class(rows in labelled_rows(), fraction in 0.0f64..=1.0, seed: u64) {
        let drawn = draw_memory(&rows, fraction, MemoryPolicy::ClassBalanced, seed, 0);
        let everyone: Vec<usize> = (0..rows.len()).collect();
        let present = class_counts(&rows, &everyone);
        if !present.is_empty() && present.len() <= drawn.len() {
            let share = drawn.len() / present.len();
            for (label, n) in class_counts(&rows, &drawn) {
                prop_assert!(n >= share.min(present[&label]), "{} of {} in class {}", n, present[&label], label);
            }
        }
    }

    #[test]
    fn a_memory_batch_is_distinct_rows_of_the_memory(n in 0usize..300, batch in 0usize..40, seed: u64, draw: u64) {
        let mut rows = sorted(memory_batch(n, batch, seed, 3, draw));
        prop_assert_eq!(rows.len(), batch.min(n));
        rows.dedup();
        prop_assert_eq!(rows.len(), batch.min(n));
        prop_assert!(rows.iter().all(|&i| i < n));
    }

    #[test]
    fn a_cycled_memory_shows_every_row_once_before_any_again(
        n in 1usize..60, batch in 1usize..40, seed: u64, n_draws in 1u64..20,
    ) {
        let rows: Vec<usize> = (0..n_draws).flat_map(|draw| cycled_batch(n, batch, seed, 3, draw)).collect();
        prop_assert_eq!(rows.len(), batch * n_draws as usize);
        for pass in rows.chunks(n) {
            let seen = sorted(pass.to_vec());
            prop_assert!(seen.windows(2).all(|w| w[0] < w[1]) && seen.iter().all(|&i| i < n), "{:?}", pass);
        }
    }

    #[test]
    fn validation_and_train_are_disjoint_and_cover(n in 0usize..500, fraction in 0.0f64..=1.0, seed: u64) {
        let (train, validation) = validation_split(n, fraction, seed, 0);
        prop_assert!(train.is_sorted() && validation.is_sorted());
        prop_assert_eq!(sorted([train.clone(), validation].concat()), (0..n).collect::<Vec<_>>());
        prop_assert!(n == 0 || !train.is_empty());
    }

    #[test]
    fn a_subset_is_balanced_within_one_where_classes_allow(rows in labelled_rows(), limit in 0usize..350, seed: u64) {
        let subset = class_balanced_subset(&rows, limit, seed);
        prop_assert!(subset.is_sorted_by(|a, b| a < b));
        prop_assert_eq!(subset.len(), limit.min(rows.len()));
        let everyone: Vec<usize> = (0..rows.len()).collect();
        let (present, chosen) = (class_counts(&rows, &everyone), class_counts(&rows, &subset));
        let most = chosen.values().max().copied().unwrap_or(0);
        for (label, n) in &chosen {
            prop_assert!(*n + 1 >= most || *n == present[label], "{chosen:?} of {present:?}");
        }
    }

    #[test]
    fn a_smaller_subset_is_part_of_a_larger_one(rows in labelled_rows(), small in 0usize..100, more in 0usize..100) {
        let (small, large) = (class_balanced_subset(&rows, small, 1), class_balanced_subset(&rows, small + more, 1));
        prop_assert!(small.iter().all(|i| large.contains(i)));
    }

    #[test]
    fn ragged_rows_come_back_as_they_went_in(rows in vec(vec(any::<u32>(), 0..20), 0..20)) {
        let ragged = Ragged::from_rows(&rows);
        prop_assert_eq!(ragged.rows().map(<[u32]>::to_vec).collect::<Vec<_>>(), rows.clone());
        prop_assert_eq!(ragged.n_rows(), rows.len());
        prop_assert_eq!(ragged.n_tokens(), rows.iter().map(Vec::len).sum::<usize>());
        for (i, row) in rows.iter().enumerate() {
            prop_assert_eq!(ragged.row(i), &row[..]);
        }
    }

    #[test]
    fn padding_is_never_a_target(
        rows in vec((vec(2u32..100, 1..20), vec(2u32..100, 1..8)), 1..10),
    ) {
        // A batch holds the rows' own tokens and nothing else: 0 and 1 went into none of them.
        let rows: Vec<Encoded> = rows
            .into_iter()
            .map(|(input_ids, target_ids)| Encoded { input_ids, target_ids, cut: false })
            .collect();
        let batch = Batch::from_rows(&rows);
        prop_assert_eq!(batch.targets.n_tokens(), rows.iter().map(|row| row.target_ids.len()).sum::<usize>());
        prop_assert!(batch.targets.ids().iter().chain(batch.inputs.ids()).all(|&id| id >= 2));
    }

    #[test]
    fn encoded_rows_keep_within_limits_and_end_with_the_end_token(
        words in vec(3u32..512, 0..40), target in vec(3u32..512, 0..10), max_input in 2usize..50, max_target in 2usize..12,
    ) {
        let text = |ids: &[u32]| ids.iter().map(|id| format!("w{id}")).collect::<Vec<_>>().join(" ");
        let row = text_row(0, format!("w3 {}", text(&words)), vec![text(&target)]);
        let limits = Limits { max_input, max_target };
        let encoded = TOKENIZER.with(|tokenizer| tokenizer.encode_row(&row, limits)).unwrap();
        prop_assert!(encoded.input_ids.len() <= max_input && encoded.target_ids.len() <= max_target);
        prop_assert_eq!((encoded.input_ids.last(), encoded.target_ids.last()), (Some(&1), Some(&1)));
        prop_assert_eq!(encoded.cut, words.len() + 2 > max_input);
        let kept = &encoded.input_ids[1..encoded.input_ids.len() - 1];
        prop_assert_eq!(kept, &words[..kept.len()]);
    }

    #[test]
    fn rows_survive_json_and_json_lines(texts in vec((any::<String>(), "\\PC+", vec(any::<String>(), 1..3)), 1..12)) {
        let json = |i: usize, (instruction, input, output): &(String, String, Vec<String>)| {
            serde_json::json!({"id": i, "instruction": instruction, "input": input, "output": output, "extra": [i]})
        };
        let values: Vec<_> = texts.iter().enumerate().map(|(i, text)| json(i, text)).collect();
        let lines: Vec<String> = values.iter().map(ToString::to_string).collect();
        let expected: Vec<Row> = texts
            .into_iter()
            .enumerate()
            .map(|(i, (instruction, input, output))| {
                let content = Content::Text { prompt: kif_data::template::instruction_input(&instruction, &input), references: output };
                Row { id: i.to_string(), content }
            })
            .collect();
        for text in [serde_json::to_string_pretty(&values).unwrap(), lines.join("\n"), lines.join("\r\n") + "\r\n"] {
            prop_assert_eq!(rows_of(text.as_bytes()).unwrap(), expected.clone());
        }
    }

    #[test]
    fn a_file_cut_short_anywhere_is_an_error(cut in 1usize..VALID.len()) {
        prop_assert!(rows_of(&VALID.as_bytes()[..cut]).is_err());
    }

    #[test]
    fn damaged_files_never_panic(
        damage in vec((0..VALID.len(), any::<u8>()), 1..6), lines: bool, noise in vec(any::<u8>(), 0..40),
    ) {
        let valid = if lines { VALID.replace(['[', ']'], "").replace(",\n", "\n") } else { VALID.into() };
        let mut bytes = valid.into_bytes();
        for (at, byte) in damage {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        let _ = rows_of(&bytes);
        let _ = rows_of(&noise);
    }
}

const VALID: &str = r#"[{"id": "a", "instruction": "Do \"it\". ", "input": "x\u00e9\ud83d\ude00", "output": "y"},
 {"id": 2, "input": "x", "output": ["y", "z"], "meta": {"k": null}},
 {"id": "c", "input_ids": [3, 4, 1], "target_ids": [5, 1]}]"#;

fn rows_of(bytes: &[u8]) -> Result<Vec<Row>, kif_data::DataError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    read_rows(file.path())
}

thread_local! {
    static TOKENIZER: Tokenizer = {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden");
        Tokenizer::from_file(&golden.join("tiny-t5/tokenizer.json")).unwrap()
    };
}
