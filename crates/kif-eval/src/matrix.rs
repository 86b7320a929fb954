//! The accuracy matrix: how well every task is done after every task.

use serde::{Deserialize, Serialize};

use crate::EvalError;

/// Scores of K tasks, before any task was learned and after each of them: `[K + 1, K]`, cells
/// in 0..=1 or unknown.
///
/// Tasks are counted from 0 in the order of learning. Row `after` holds the scores when `after`
/// tasks have been learned: row 0 is the base, row K the end of the stream; so the literature's
/// `a[i, j]` (task j after task i, from 1) is `get(i, j - 1)`. Stored as nested arrays of numbers
/// and nulls; a wrong shape or score is refused when read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Vec<Option<f64>>>", into = "Vec<Vec<Option<f64>>>")]
pub struct ScoreMatrix {
    rows: Vec<Vec<Option<f64>>>,
}

impl ScoreMatrix {
    /// No score known yet, for a stream of at least one task.
    pub fn new(n_tasks: usize) -> Self {
        assert!(n_tasks > 0, "a stream of no tasks");
        Self {
            rows: vec![vec![None; n_tasks]; n_tasks + 1],
        }
    }

    /// Number of tasks K.
    pub fn n_tasks(&self) -> usize {
        self.rows.len() - 1
    }

    /// The score on `task` when `after` tasks have been learned.
    pub fn get(&self, after: usize, task: usize) -> Option<f64> {
        self.rows[after][task]
    }

    /// Puts in the score, in 0..=1, on `task` when `after` tasks have been learned.
    pub fn set(&mut self, after: usize, task: usize, score: f64) {
        assert!(
            (0.0..=1.0).contains(&score),
            "score {score} of task {task} after {after}"
        );
        self.rows[after][task] = Some(score);
    }

    /// All scores when `after` tasks have been learned, `[K]`.
    pub fn row(&self, after: usize) -> &[Option<f64>] {
        &self.rows[after]
    }

    /// The score on `task` directly after learning it: the literature's `a[t, t]`.
    pub fn learned(&self, task: usize) -> Option<f64> {
        self.get(task + 1, task)
    }

    /// The score on `task` at the end of the stream: the literature's `a[K, t]`.
    pub fn last(&self, task: usize) -> Option<f64> {
        self.get(self.n_tasks(), task)
    }

    /// The scores on all tasks at the end of the stream; `None` unless all are known.
    pub fn last_row(&self) -> Option<Vec<f64>> {
        (0..self.n_tasks()).map(|task| self.last(task)).collect()
    }
}

impl TryFrom<Vec<Vec<Option<f64>>>> for ScoreMatrix {
    type Error = EvalError;

    fn try_from(rows: Vec<Vec<Option<f64>>>) -> Result<Self, EvalError> {
        let n_rows = rows.len();
        if n_rows < 2 {
            return Err(EvalError::TooFewRows { n_rows });
        }
        for (after, row) in rows.iter().enumerate() {
            if row.len() != n_rows - 1 {
                return Err(EvalError::Shape {
                    row: after,
                    n_rows,
                    found: row.len(),
                    expected: n_rows - 1,
                });
            }
            for (task, score) in row.iter().enumerate() {
                if let Some(score) = score.filter(|score| !(0.0..=1.0).contains(score)) {
                    return Err(EvalError::Score { after, task, score });
                }
            }
        }
        Ok(Self { rows })
    }
}

impl From<ScoreMatrix> for Vec<Vec<Option<f64>>> {
    fn from(matrix: ScoreMatrix) -> Self {
        matrix.rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_count_from_the_base_and_cells_may_be_unknown() {
        let matrix: ScoreMatrix = serde_json::from_str("[[0.1,null],[0.9,0.2],[0.7,0.8]]").unwrap();
        assert_eq!(matrix.n_tasks(), 2);
        assert_eq!((matrix.get(0, 0), matrix.get(0, 1)), (Some(0.1), None));
        assert_eq!(
            (matrix.learned(0), matrix.learned(1)),
            (Some(0.9), Some(0.8))
        );
        assert_eq!(
            (matrix.last(0), matrix.row(1)),
            (Some(0.7), [Some(0.9), Some(0.2)].as_slice())
        );
        assert_eq!(
            serde_json::to_string(&matrix).unwrap(),
            "[[0.1,null],[0.9,0.2],[0.7,0.8]]"
        );
        let mut built = ScoreMatrix::new(2);
        for (after, task, score) in [
            (0, 0, 0.1),
            (1, 0, 0.9),
            (1, 1, 0.2),
            (2, 0, 0.7),
            (2, 1, 0.8),
        ] {
            built.set(after, task, score);
        }
        assert_eq!(built, matrix);
    }

    #[test]
    fn what_is_no_matrix_is_refused() {
        let refused = |json: &str| {
            serde_json::from_str::<ScoreMatrix>(json)
                .unwrap_err()
                .to_string()
        };
        assert!(refused("[]").contains("found 0 rows"));
        assert!(
            refused("[[0.1],[0.2, 0.3]]").contains("row 1 of a score matrix of 2 rows has 2 cells")
        );
        assert!(
            refused("[[0.1],[90]]").contains("the score after 1 tasks on task 0 (from 0) is 90")
        );
    }
}
