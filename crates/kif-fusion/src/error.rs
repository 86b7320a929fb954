//! What can be wrong with weights.

/// Why parameters could not be combined.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum FusionError {
    /// A region's weight that would make parameters non-finite.
    #[error("weight {value} of `{region}` is not finite")]
    RegionWeight {
        /// The field of [`FusionWeights`](crate::FusionWeights).
        region: &'static str,
        /// The weight.
        value: f32,
    },
    /// An importance that no weight follows from.
    #[error("score {value} of parameter {index} in the {loop_name} loop is not finite")]
    Score {
        /// Which loop's.
        loop_name: &'static str,
        /// Position of the first such score.
        index: usize,
        /// The score.
        value: f32,
    },
    /// An averaging weight that no average has.
    #[error("weight {weight} of parameter vector {index} is not a finite number of at least 0")]
    Weight {
        /// Position of the vector.
        index: usize,
        /// Its weight.
        weight: f64,
    },
    /// Nothing to average.
    #[error("the weights of {n_vectors} parameter vectors sum to 0")]
    NoWeight {
        /// Number of vectors.
        n_vectors: usize,
    },
    /// Vectors of different models.
    #[error("parameter vector {index} has {found} entries, expected {expected}")]
    Length {
        /// Position of the vector.
        index: usize,
        /// Entries found.
        found: usize,
        /// Entries expected.
        expected: usize,
    },
}
