//! The memory of old tasks: which rows a task leaves behind, and which of them make the next memory batch.

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::chance::{Purpose, permutation, stream};
use crate::task::{Row, by_class};

/// How a task's rows are chosen for the memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryPolicy {
    /// The same number of every class, filled up at random (released code).
    #[default]
    ClassBalanced,
    /// Plain random.
    Random,
}

/// Positions of the rows that a task leaves in the memory, in the order they were drawn.
///
/// `int(fraction * rows.len())` rows are kept, exactly. Class-balanced: `max(1, n / n_classes)` random rows of each
/// class (all of a smaller one), then random others until there are n; a class is a first reference. With more
/// classes than n (tasks of free text), that rule of the released code would keep one row of each class and so
/// overrun n: there the draw is plain random.
pub fn draw_memory(
    rows: &[Row],
    fraction: f64,
    policy: MemoryPolicy,
    seed: u64,
    task_idx: u64,
) -> Vec<usize> {
    assert!(
        (0.0..=1.0).contains(&fraction),
        "memory fraction {fraction} is outside 0..=1"
    );
    let n = (fraction * rows.len() as f64) as usize;
    let mut rng = stream(seed, Purpose::Memory, task_idx, 0);
    let classes = by_class(rows);
    if n == 0 {
        return Vec::new();
    }
    if policy == MemoryPolicy::Random || classes.len() > n {
        return sample(&mut rng, &(0..rows.len()).collect::<Vec<_>>(), n);
    }
    let per_class = n / classes.len();
    let mut drawn: Vec<usize> = classes
        .iter()
        .flat_map(|class| sample(&mut rng, class, per_class))
        .collect();
    let mut used = vec![false; rows.len()];
    drawn.iter().for_each(|&i| used[i] = true);
    let unused: Vec<usize> = (0..rows.len()).filter(|&i| !used[i]).collect();
    drawn.extend(sample(&mut rng, &unused, n - drawn.len()));
    drawn
}

/// Positions in the memory of the rows of one memory batch: the first batch of a fresh shuffle (released code), keyed
/// by seed, task and draw. All rows, shuffled, where the memory is not larger than a batch.
pub fn memory_batch(
    n_memory: usize,
    batch_size: usize,
    seed: u64,
    task_idx: u64,
    draw: u64,
) -> Vec<usize> {
    let mut order = permutation(
        &mut stream(seed, Purpose::MemoryBatch, task_idx, draw),
        n_memory,
    );
    order.truncate(batch_size);
    order
}

/// `n` of `items`, or all of them where there are fewer, in random order.
fn sample(rng: &mut ChaCha8Rng, items: &[usize], n: usize) -> Vec<usize> {
    permutation(rng, items.len())
        .into_iter()
        .take(n)
        .map(|i| items[i])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Content;

    fn rows(labels: impl IntoIterator<Item = usize>) -> Vec<Row> {
        let content = |label: usize| Content::Text {
            prompt: "p".into(),
            references: vec![label.to_string()],
        };
        labels
            .into_iter()
            .enumerate()
            .map(|(i, label)| Row {
                id: i.to_string(),
                content: content(label),
            })
            .collect()
    }

    fn counts(rows: &[Row], drawn: &[usize], n_classes: usize) -> Vec<usize> {
        (0..n_classes)
            .map(|class| {
                drawn
                    .iter()
                    .filter(|&&i| rows[i].references()[0] == class.to_string())
                    .count()
            })
            .collect()
    }

    #[test]
    fn twenty_of_a_thousand_in_five_classes_are_four_of_each() {
        let rows = rows((0..1000).map(|i| i % 5));
        let drawn = draw_memory(&rows, 0.02, MemoryPolicy::ClassBalanced, 1, 0);
        assert_eq!(counts(&rows, &drawn, 5), [4; 5]);
    }

    #[test]
    fn fourteen_classes_get_one_each_and_six_at_random() {
        let rows = rows((0..1000).map(|i| i % 14));
        let drawn = draw_memory(&rows, 0.02, MemoryPolicy::ClassBalanced, 1, 0);
        assert_eq!(drawn.len(), 20);
        assert!(counts(&rows, &drawn, 14).iter().all(|&n| n >= 1));
    }

    #[test]
    fn a_rare_class_is_kept_whole_and_the_rest_filled_up() {
        // 250 rows, 5 kept, as in cb: the class with a single row is always among them.
        let rows = rows((0..250).map(|i| if i == 77 { 2 } else { i % 2 }));
        for seed in 0..20 {
            let drawn = draw_memory(&rows, 0.02, MemoryPolicy::ClassBalanced, seed, 3);
            assert_eq!(drawn.len(), 5);
            assert!(drawn.contains(&77));
        }
    }

    #[test]
    fn free_text_is_drawn_at_random_and_never_more_than_the_share() {
        let rows = rows(0..1000);
        assert_eq!(
            draw_memory(&rows, 0.02, MemoryPolicy::ClassBalanced, 1, 0).len(),
            20
        );
    }

    #[test]
    fn the_share_is_cut_as_in_the_released_code() {
        for (n_rows, kept) in [(1000, 20), (400, 8), (250, 5), (49, 0), (50, 1)] {
            let rows = rows((0..n_rows).map(|i| i % 2));
            assert_eq!(
                draw_memory(&rows, 0.02, MemoryPolicy::ClassBalanced, 1, 0).len(),
                kept
            );
        }
    }
}
