//! The memory of old tasks: which rows of a task stay in it, and which of them make
//! the next memory batch.

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::chance::{Purpose, below, permutation, stream};
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
    /// One pool for the whole stream, of as many rows as all its tasks leave together: a
    /// uniform choice of all rows seen so far (algorithm R, Vitter 1985), so early tasks have
    /// more rows while they are few.
    Reservoir,
    /// The rows with the highest loss once the task is learned.
    HighestLoss,
}

/// Rows that a task of `n_rows` leaves in the memory: `int(fraction * n_rows)`, as
/// in the released code.
pub fn memory_rows(n_rows: usize, fraction: f64) -> usize {
    assert!(
        (0.0..=1.0).contains(&fraction),
        "memory fraction {fraction} is outside 0..=1"
    );
    (fraction * n_rows as f64) as usize
}

/// Positions of the rows that a task leaves in the memory, in the order they were drawn, under a
/// policy that looks at the rows of one task alone: class-balanced or random. The others are
/// [`reservoir`] and [`highest_loss`].
///
/// [`memory_rows`] rows are kept, exactly. Class-balanced: `max(1, n / n_classes)` random rows of
/// each class (all of a smaller one), then random others until there are n; a class is a first
/// reference. With more classes than n (tasks of free text), that rule of the released code would
/// keep one row of each class and so overrun n: there the draw is plain random.
pub fn draw_memory(
    rows: &[Row],
    fraction: f64,
    policy: MemoryPolicy,
    seed: u64,
    task_idx: u64,
) -> Vec<usize> {
    let alone = [MemoryPolicy::ClassBalanced, MemoryPolicy::Random].contains(&policy);
    assert!(alone, "{policy:?} looks at more than the rows of a task");
    let n = memory_rows(rows.len(), fraction);
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

/// Positions of the rows that each task of a stream has in one reservoir of `capacity` rows, in
/// ascending order, after tasks of `n_rows` rows were seen one after the other.
///
/// Every row that was seen is in it with the same chance. A reservoir of more tasks is one of fewer
/// that went on: no row comes back that was dropped.
pub fn reservoir(n_rows: &[usize], capacity: usize, seed: u64) -> Vec<Vec<usize>> {
    let mut rng = stream(seed, Purpose::Memory, u64::MAX, 0);
    let seen =
        (n_rows.iter().enumerate()).flat_map(|(task, &n)| (0..n).map(move |row| (task, row)));
    let mut pool: Vec<(usize, usize)> = Vec::new();
    for (n_seen, row) in seen.enumerate() {
        if pool.len() < capacity {
            pool.push(row);
        } else if let Some(slot) = pool.get_mut(below(&mut rng, n_seen + 1)) {
            *slot = row;
        }
    }
    pool.sort_unstable();
    let mut kept = vec![Vec::new(); n_rows.len()];
    pool.into_iter()
        .for_each(|(task, row)| kept[task].push(row));
    kept
}

/// Positions of the `n` rows with the highest loss, the highest first; of equal ones the first. All
/// where there are fewer.
pub fn highest_loss(losses: &[f64], n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..losses.len()).collect();
    order.sort_by(|&i, &j| losses[j].total_cmp(&losses[i]));
    order.truncate(n);
    order
}

/// Positions in the memory of the rows of one memory batch: the first batch of a fresh shuffle
/// (released code), keyed by seed, task and draw. All rows, shuffled, where the memory is not
/// larger than a batch.
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

/// Positions in the memory of the rows of one memory batch where the memory is cycled: passes over
/// all rows, each shuffled anew and keyed by seed, task and pass, cut into batches that go on from
/// one pass to the next. Every row comes once before any comes again. Of no rows, none.
pub fn cycled_batch(
    n_memory: usize,
    batch_size: usize,
    seed: u64,
    task_idx: u64,
    draw: u64,
) -> Vec<usize> {
    if n_memory == 0 {
        return Vec::new();
    }
    let start = draw as usize * batch_size;
    let pass = |number: usize| {
        permutation(
            &mut stream(seed, Purpose::MemoryPass, task_idx, number as u64),
            n_memory,
        )
    };
    let passes: Vec<usize> = (start / n_memory..=(start + batch_size) / n_memory)
        .flat_map(pass)
        .collect();
    let skipped = start % n_memory;
    passes[skipped..skipped + batch_size].to_vec()
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
    fn the_highest_losses_are_kept() {
        assert_eq!(highest_loss(&[0.5, 3.0, -1.0, 3.0, 2.0], 3), [1, 3, 4]);
        assert_eq!(highest_loss(&[0.5], 3), [0]);
    }

    #[test]
    fn a_reservoir_holds_every_row_with_the_same_chance() {
        // 8 of 40 rows, 5000 times: 1000 expected for each, with a standard deviation of 28.
        let mut counts = [0i32; 40];
        for seed in 0..5000 {
            let kept = reservoir(&[10, 25, 5], 8, seed);
            let at = |(first, rows): (usize, &Vec<usize>)| {
                rows.iter().map(|row| first + row).collect::<Vec<_>>()
            };
            let all: Vec<usize> = [0, 10, 35].into_iter().zip(&kept).flat_map(at).collect();
            assert_eq!(all.len(), 8);
            all.iter().for_each(|&i| counts[i] += 1);
        }
        let chi_squared: f64 = (counts.iter())
            .map(|&n| f64::from(n - 1000).powi(2) / 1000.0)
            .sum();
        // 39 degrees of freedom; the sum of cells is fixed and cells are drawn without
        // replacement, so about 39 * 0.8.
        assert!(chi_squared < 62.0, "{chi_squared}: {counts:?}");
        assert!(counts.iter().all(|n| (n - 1000).abs() < 120), "{counts:?}");
    }

    #[test]
    fn a_row_that_left_the_reservoir_does_not_come_back() {
        for seed in 0..50 {
            let (before, after) = (
                reservoir(&[30, 20], 6, seed),
                reservoir(&[30, 20, 40], 6, seed),
            );
            for (before, after) in before.iter().zip(&after) {
                assert!(
                    after.iter().all(|row| before.contains(row)),
                    "{before:?} {after:?}"
                );
            }
        }
        assert_eq!(reservoir(&[3, 2], 9, 1), [vec![0, 1, 2], vec![0, 1]]);
        assert_eq!(reservoir(&[3], 0, 1), [Vec::<usize>::new()]);
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
