//! Rows set apart: validation cut from train, and class-balanced subsets under a limit.

use crate::chance::{Purpose, permutation, stream};
use crate::task::{Row, by_class};

/// Cuts validation rows from train: positions of the (train, validation) rows, both ascending.
///
/// `int(fraction * n_rows)` rows are set apart, but at least one of two or more rows, and never
/// all. Zero sets none apart.
pub fn validation_split(
    n_rows: usize,
    fraction: f64,
    seed: u64,
    task_idx: u64,
) -> (Vec<usize>, Vec<usize>) {
    assert!(
        (0.0..=1.0).contains(&fraction),
        "validation fraction {fraction} is outside 0..=1"
    );
    let n_validation = match fraction {
        0.0 => 0,
        _ => ((fraction * n_rows as f64) as usize)
            .max(1)
            .min(n_rows.saturating_sub(1)),
    };
    let mut validation = permutation(&mut stream(seed, Purpose::Validation, task_idx, 0), n_rows);
    let mut train = validation.split_off(n_validation);
    train.sort_unstable();
    validation.sort_unstable();
    (train, validation)
}

/// At most `limit` rows, as equal in number over the classes as the rows allow;
/// positions ascending.
///
/// Classes take turns, each giving its rows in a keyed order, so the subset under a smaller limit
/// is part of the subset under a larger one. Fixed for given rows and seed.
pub fn class_balanced_subset(rows: &[Row], limit: usize, seed: u64) -> Vec<usize> {
    let mut rng = stream(seed, Purpose::Subset, 0, 0);
    let mut classes = by_class(rows);
    for class in &mut classes {
        let order = permutation(&mut rng, class.len());
        *class = order.into_iter().map(|i| class[i]).collect();
    }
    let largest = classes.iter().map(Vec::len).max().unwrap_or(0);
    let turns = (0..largest).flat_map(|turn| {
        classes
            .iter()
            .filter_map(move |class| class.get(turn).copied())
    });
    let mut subset: Vec<usize> = turns.take(limit).collect();
    subset.sort_unstable();
    subset
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Content;

    #[test]
    fn a_split_has_the_asked_share() {
        let (train, validation) = validation_split(1000, 0.1, 1, 0);
        assert_eq!((train.len(), validation.len()), (900, 100));
        assert_eq!(validation_split(1, 0.5, 1, 0), (vec![0], vec![]));
        assert_eq!(validation_split(3, 0.01, 1, 0).1.len(), 1);
        assert_eq!(validation_split(3, 0.0, 1, 0).1.len(), 0);
        assert_eq!(validation_split(0, 0.5, 1, 0), (vec![], vec![]));
    }

    #[test]
    fn small_classes_are_used_up_before_large_ones_get_more() {
        let label = |i: usize| if i < 2 { "rare" } else { "common" };
        let content = |i: usize| Content::Text {
            prompt: "p".into(),
            references: vec![label(i).into()],
        };
        let rows: Vec<Row> = (0..10)
            .map(|i| Row {
                id: i.to_string(),
                content: content(i),
            })
            .collect();
        let subset = class_balanced_subset(&rows, 7, 1);
        assert_eq!(subset.len(), 7);
        assert!(subset.contains(&0) && subset.contains(&1));
        assert_eq!(
            class_balanced_subset(&rows, 100, 1),
            (0..10).collect::<Vec<_>>()
        );
    }
}
