//! What can be wrong with the numbers that importance is computed from.

/// Why an importance, a threshold or a mask could not be computed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ImportanceError {
    /// A smoothing factor that would not smooth.
    #[error("`{field}` is {value}, and a smoothing factor lies in 0..1 (0 included)")]
    Beta {
        /// The field of the configuration.
        field: &'static str,
        /// Its value.
        value: f32,
    },
    /// A quantile outside the unit interval.
    #[error("quantile {q} lies outside 0..=1")]
    Quantile {
        /// The quantile that was asked for.
        q: f64,
    },
    /// A score that cannot be ordered.
    #[error("score {index} of {n_scores} is not a number")]
    NotANumber {
        /// Position of the first such score.
        index: usize,
        /// How many scores there are.
        n_scores: usize,
    },
    /// There is no score to order.
    #[error("a quantile of no scores was asked for")]
    NoScores,
    /// There is no gradient to average.
    #[error("Fisher information was asked for before any gradient was seen")]
    NoGradients,
    /// A saved state of another model.
    #[error("the saved {what} has {found} entries, the model has {expected} trainable parameters")]
    StateLength {
        /// Which of the saved vectors.
        what: &'static str,
        /// Entries found.
        found: usize,
        /// Entries expected.
        expected: usize,
    },
    /// A saved state of another configuration.
    #[error("uncertainty is {}saved, and the configuration {}", if *.saved { "" } else { "not " }, if *.saved { "does not keep it" } else { "keeps it" })]
    StateUncertainty {
        /// Whether the state holds uncertainties.
        saved: bool,
    },
    /// A saved value that no update can produce.
    #[error(
        "entry {index} of the saved {what} is {value}, and it can only be finite and not negative"
    )]
    StateValue {
        /// Which of the saved vectors.
        what: &'static str,
        /// Position of the value.
        index: usize,
        /// The value.
        value: f32,
    },
}
