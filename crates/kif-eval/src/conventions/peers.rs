//! The projects and their formulas: a table.

use crate::Metric;

/// What a number is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantity {
    /// How well tasks are done.
    Average,
    /// Backward transfer.
    Bwt,
    /// Forward transfer.
    Fwt,
    /// Forgetting.
    Forgetting,
}

impl Quantity {
    /// All of them, in the order of tables.
    pub const ALL: [Self; 4] = [Self::Average, Self::Bwt, Self::Fwt, Self::Forgetting];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Average => "average",
            Self::Bwt => "BWT",
            Self::Fwt => "FWT",
            Self::Forgetting => "forgetting",
        }
    }
}

/// A formula that a peer uses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Formula {
    /// One of ours.
    Metric(Metric),
    /// Mean of the diagonal less a constant that stands in the peer's code.
    DiagonalLess {
        /// The constant, in 0..=1.
        constant: f64,
        /// As [`Metric::formula`] would write it.
        formula: &'static str,
    },
    /// Mean score of a task just before it is learned, with nothing taken off.
    BeforeLearning,
}

/// What is known of a quantity at a peer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Convention {
    /// It is printed, by this formula.
    Prints(Formula),
    /// There is no such number.
    NotPrinted,
    /// Not known to us.
    NotKnown,
}

/// A project that prints numbers of the same names.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peer {
    /// Its name.
    pub name: &'static str,
    /// Average, BWT, FWT, forgetting.
    conventions: [Convention; 4],
    /// Decimals to which it rounds every score in 0..=1 before any mean is taken; none where it
    /// does not, as far as we know.
    pub decimals: Option<i32>,
    /// What a formula does not say.
    pub note: &'static str,
}

impl Peer {
    /// What is known of a quantity.
    pub fn convention(&self, quantity: Quantity) -> Convention {
        self.conventions[quantity as usize]
    }
}

use Convention::{NotKnown, NotPrinted};

const fn prints(metric: Metric) -> Convention {
    Convention::Prints(Formula::Metric(metric))
}

/// SAPT's average of single-task models on SuperNI with T5, as its scoring script has it.
const SAPT_SINGLE_TASK: Convention = Convention::Prints(Formula::DiagonalLess {
    constant: 0.5094,
    formula: "1/K sum_{j=1..K} a[j,j] - 0.5094",
});

/// The projects that people compare with, from their code (`docs/metrics.md`).
pub const PEERS: &[Peer] = &[
    Peer {
        name: "Recurrent-KIF",
        conventions: [
            prints(Metric::Op),
            prints(Metric::BwtGem),
            NotPrinted,
            NotPrinted,
        ],
        decimals: Some(4),
        note: "exact match in lower case; every score is rounded to 4 decimals before the mean is taken",
    },
    Peer {
        name: "TaSL",
        conventions: [
            prints(Metric::Op),
            prints(Metric::BwtGem),
            NotKnown,
            NotPrinted,
        ],
        decimals: None,
        note: "exact match in lower case; FWT comes from a script of its own, whose formula is not known to us",
    },
    Peer {
        name: "AIMMerging",
        conventions: [
            prints(Metric::Op),
            prints(Metric::BwtGem),
            prints(Metric::FwtAim),
            NotPrinted,
        ],
        decimals: None,
        note: "exact match in lower case; FWT is stated in a comment of the code",
    },
    Peer {
        name: "O-LoRA",
        conventions: [prints(Metric::Op), NotKnown, NotKnown, NotKnown],
        decimals: None,
        note: "the average is the mean exact match; whether tasks or rows weigh the same is not known to us, tasks are taken",
    },
    Peer {
        name: "SAPT",
        conventions: [
            prints(Metric::Op),
            prints(Metric::BwtSapt),
            SAPT_SINGLE_TASK,
            prints(Metric::ForgettingChaudhry),
        ],
        decimals: None,
        note: "the constant of FWT is right for SuperNI on its T5 alone; rows before a task is learned count as 0 in its forgetting, \
               which changes nothing",
    },
    Peer {
        name: "TRACE",
        conventions: [NotKnown; 4],
        decimals: None,
        note: "no formula is known to us",
    },
    Peer {
        name: "Mammoth",
        conventions: [
            prints(Metric::Op),
            prints(Metric::BwtGem),
            prints(Metric::FwtGem),
            prints(Metric::ForgettingMammoth),
        ],
        decimals: None,
        note: "FWT compares with an untrained model, in whose place row 0 stands here; its divisor is taken from GEM",
    },
    Peer {
        name: "Avalanche",
        conventions: [
            prints(Metric::Op),
            prints(Metric::BwtGem),
            NotKnown,
            prints(Metric::ForgettingFirstLast),
        ],
        decimals: None,
        note: "every number also for each experience; whether tasks or rows weigh the same in the average of a stream is not known \
               to us, tasks are taken; FWT needs an evaluation before training, and its formula is not known to us",
    },
    Peer {
        name: "Continuum",
        conventions: [
            prints(Metric::ApLowerTriangle),
            prints(Metric::BwtDiazRodriguez),
            Convention::Prints(Formula::BeforeLearning),
            prints(Metric::ForgettingChaudhry),
        ],
        decimals: None,
        note: "FWT leaves the untrained model's score out, as a comment in its code says; its divisor is taken from GEM",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantity_is_found_where_it_stands_in_the_table() {
        let of = |name: &str| PEERS.iter().find(|peer| peer.name == name).unwrap();
        for (i, quantity) in Quantity::ALL.into_iter().enumerate() {
            assert_eq!(quantity as usize, i);
        }
        assert_eq!(
            of("Mammoth").convention(Quantity::Fwt),
            prints(Metric::FwtGem)
        );
        assert_eq!(
            of("Recurrent-KIF").convention(Quantity::Forgetting),
            NotPrinted
        );
        let mut names: Vec<&str> = PEERS.iter().map(|peer| peer.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), PEERS.len());
    }
}
