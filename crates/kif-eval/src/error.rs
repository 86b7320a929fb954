//! What can be wrong with a stored matrix or a list of scores.

/// Why scores could not be summarised.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum EvalError {
    /// Not a matrix of K tasks.
    #[error("row {row} of a score matrix of {n_rows} rows has {found} cells, expected {expected}")]
    Shape {
        /// The row.
        row: usize,
        /// Rows found: tasks + 1.
        n_rows: usize,
        /// Cells found.
        found: usize,
        /// Cells expected: one per task.
        expected: usize,
    },
    /// A matrix without tasks.
    #[error("a score matrix has a row before any task and one per task, found {n_rows} rows")]
    TooFewRows {
        /// Rows found.
        n_rows: usize,
    },
    /// A score that is none.
    #[error("the score after {after} tasks on task {task} (from 0) is {score}, expected 0..=1")]
    Score {
        /// How many tasks were learned before: the row.
        after: usize,
        /// The task: the column.
        task: usize,
        /// The value.
        score: f64,
    },
    /// Too few runs for an interval.
    #[error("an interval takes at least 2 values, found {n_values}")]
    TooFewValues {
        /// How many there were.
        n_values: usize,
    },
    /// Differences whose signs cannot be flipped in all ways.
    #[error("the sign-flip test takes at most 40 finite differences, found {n_values}")]
    Differences {
        /// How many there were.
        n_values: usize,
    },
    /// A confidence that no interval has.
    #[error("confidence {confidence} lies outside 0..1")]
    Confidence {
        /// The value.
        confidence: f64,
    },
}
