//! What a convention makes of a matrix.

use super::peers::{Convention, Formula, Peer, Quantity};
use crate::{Metric, References, ScoreMatrix};

/// What a peer would have printed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Printed {
    /// This score or difference of scores; one that counts in percent prints it times 100.
    Value(f64),
    /// It needs cells of the matrix that were not evaluated.
    NotEvaluated,
    /// It needs the scores of models that learned one task each.
    NeedsSingleTask,
    /// It has no value for a stream of one task.
    OneTask,
    /// The peer has no such number.
    NotPrinted,
    /// Whether and how the peer computes it is not known to us.
    NotKnown,
}

impl Peer {
    /// What it would have printed for this matrix.
    pub fn print(
        &self,
        quantity: Quantity,
        matrix: &ScoreMatrix,
        references: &References<'_>,
    ) -> Printed {
        let formula = match self.convention(quantity) {
            Convention::Prints(formula) => formula,
            Convention::NotPrinted => return Printed::NotPrinted,
            Convention::NotKnown => return Printed::NotKnown,
        };
        if formula.metric() == Some(Metric::FwtAim) && references.per_task.is_none() {
            return Printed::NeedsSingleTask;
        }
        let rounded = self.decimals.map(|decimals| rounded(matrix, decimals));
        match formula.compute(rounded.as_ref().unwrap_or(matrix), references) {
            Some(value) => Printed::Value(value),
            None if matrix.n_tasks() == 1 => Printed::OneTask,
            None => Printed::NotEvaluated,
        }
    }
}

/// The matrix with every score rounded to so many decimals.
fn rounded(matrix: &ScoreMatrix, decimals: i32) -> ScoreMatrix {
    let unit = 10f64.powi(decimals);
    let mut rounded = ScoreMatrix::new(matrix.n_tasks());
    for after in 0..=matrix.n_tasks() {
        for (task, score) in matrix.row(after).iter().enumerate() {
            if let Some(score) = score {
                rounded.set(after, task, (score * unit).round() / unit);
            }
        }
    }
    rounded
}

impl Formula {
    /// Its value; `None` as for a [`Metric`].
    pub fn compute(&self, matrix: &ScoreMatrix, references: &References<'_>) -> Option<f64> {
        let n_tasks = matrix.n_tasks();
        match self {
            Self::Metric(metric) => metric.compute(matrix, references),
            Self::DiagonalLess { constant, .. } => {
                let learned: Option<Vec<f64>> = (0..n_tasks).map(|j| matrix.learned(j)).collect();
                Some(crate::statistics::mean(&learned?)? - constant)
            }
            Self::BeforeLearning => {
                let before: Option<Vec<f64>> = (1..n_tasks).map(|j| matrix.get(j, j)).collect();
                crate::statistics::mean(&before?)
            }
        }
    }

    /// The metric of ours that it is.
    pub fn metric(&self) -> Option<Metric> {
        match self {
            Self::Metric(metric) => Some(*metric),
            Self::DiagonalLess { .. } | Self::BeforeLearning => None,
        }
    }

    /// What is computed, on one line, as [`Metric::formula`] writes it.
    pub fn text(&self) -> &'static str {
        match self {
            Self::Metric(metric) => metric.formula(),
            Self::DiagonalLess { formula, .. } => formula,
            Self::BeforeLearning => "1/(K-1) sum_{j=2..K} a[j-1,j]",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conventions::PEERS;
    use crate::transfer::example::{assert_near, matrix};

    fn print(peer: &str, quantity: Quantity, matrix: &ScoreMatrix) -> Printed {
        let peer = PEERS.iter().find(|p| p.name == peer).unwrap();
        peer.print(quantity, matrix, &References::default())
    }

    fn value(peer: &str, quantity: Quantity) -> Option<f64> {
        match print(peer, quantity, &matrix()) {
            Printed::Value(value) => Some(value),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_matrix_and_many_numbers_by_hand() {
        assert_near(value("Recurrent-KIF", Quantity::Bwt), -0.3);
        assert_near(value("SAPT", Quantity::Bwt), -0.2);
        assert_near(value("Continuum", Quantity::Bwt), (0.05 - 0.4 - 0.2) / 3.0);
        assert_near(value("Mammoth", Quantity::Average), 0.6);
        assert_near(value("Continuum", Quantity::Average), 4.45 / 6.0);
        assert_near(
            value("SAPT", Quantity::Fwt),
            (0.9 + 0.8 + 0.7) / 3.0 - 0.5094,
        );
        assert_near(value("Continuum", Quantity::Fwt), (0.4 + 0.5) / 2.0);
        assert_near(value("Mammoth", Quantity::Fwt), 0.2);
        assert_near(value("Avalanche", Quantity::Forgetting), 0.3);
        assert_near(value("Mammoth", Quantity::Forgetting), 0.325);
    }

    #[test]
    fn recurrent_kif_takes_the_mean_of_rounded_scores() {
        let thirds: ScoreMatrix = serde_json::from_str(
            "[[null,null],[0.6666666666666666,null],[0.3333333333333333,0.3333333333333333]]",
        )
        .unwrap();
        let printed = |peer, quantity| match print(peer, quantity, &thirds) {
            Printed::Value(value) => Some(value),
            other => panic!("{other:?}"),
        };
        assert_near(printed("Recurrent-KIF", Quantity::Average), 0.3333);
        assert_near(printed("Recurrent-KIF", Quantity::Bwt), 0.3333 - 0.6667);
        assert_near(printed("Mammoth", Quantity::Average), 1.0 / 3.0);
    }

    #[test]
    fn what_cannot_be_said_is_no_number() {
        let matrix = matrix();
        assert_eq!(
            print("Recurrent-KIF", Quantity::Fwt, &matrix),
            Printed::NotPrinted
        );
        assert_eq!(print("TaSL", Quantity::Fwt, &matrix), Printed::NotKnown);
        assert_eq!(
            print("AIMMerging", Quantity::Fwt, &matrix),
            Printed::NeedsSingleTask
        );
        let joint: ScoreMatrix = serde_json::from_str("[[0.1,0.2],[null,null],[0.7,0.8]]").unwrap();
        assert_eq!(
            print("SAPT", Quantity::Average, &joint),
            Printed::Value(0.75)
        );
        for peer in ["SAPT", "Mammoth", "Continuum"] {
            assert_eq!(print(peer, Quantity::Bwt, &joint), Printed::NotEvaluated);
        }
        let one: ScoreMatrix = serde_json::from_str("[[0.1],[0.9]]").unwrap();
        assert_eq!(print("Mammoth", Quantity::Bwt, &one), Printed::OneTask);
    }
}
