//! Each method against a reference in the cells that both have.

use kif_eval::statistics::{detectable_difference, holm, sign_flip_p};
use kif_eval::{Metric, References};

use super::summary::{MethodSummary, Spread};
use super::test_rows;
use crate::record::Record;

/// The reference unless another is asked for: as much training as KIF, without what KIF adds.
const DEFAULT_REFERENCE: &str = "replay_matched";

/// How to read the comparison.
pub(super) const COMPARING: &str = "\
Differences of OP in percent points over the cells (order and seed) that both have. ± test rows is half the 95 % interval \
when test rows are drawn again, the same ones for both. p is two-sided, from flipping the \
signs of the differences in all ways: the smallest that n cells can give is 2 / 2^n. p (Holm) allows for the number of \
comparisons. detectable is the true difference that so many cells with such a spread show with 80 % power at 5 %.\n";

/// All methods against one.
pub struct Comparisons {
    /// The method that the others are compared with.
    pub reference: String,
    /// The others, by falling OP.
    pub methods: Vec<Comparison>,
}

/// Differences of OP, method less reference, over the cells (order and seed) that both have.
pub struct Comparison {
    /// The method.
    pub method: String,
    /// Mean, deviation and interval of the differences.
    pub difference: Spread,
    /// Half the width of the 95 % interval of the difference when test rows are drawn again, the same for both.
    pub test_rows: Option<f64>,
    /// Two-sided p-value of the sign-flip test; none of more cells than it takes.
    pub p: Option<f64>,
    /// The same, adjusted by Holm for all comparisons of the run that have one.
    pub p_holm: Option<f64>,
    /// The true difference that so many cells with such differences would have shown with 80 % power at 5 %.
    pub detectable: Option<f64>,
}

impl Comparisons {
    /// Compares `methods` with `reference`, or with `replay_matched` where it is there, or with the first. `None`
    /// where nothing shares a cell with it.
    pub(crate) fn new(
        methods: &[String],
        records: &[Record],
        reference: Option<&str>,
    ) -> Option<Self> {
        let default = methods.iter().find(|name| *name == DEFAULT_REFERENCE);
        let default = default.or(methods.first())?;
        let reference = reference.unwrap_or(default);
        let mut compared: Vec<Comparison> = (methods.iter())
            .filter(|method| *method != reference)
            .filter_map(|method| compare(method, reference, records))
            .collect();
        let adjusted = holm(&compared.iter().filter_map(|one| one.p).collect::<Vec<_>>());
        let tested = compared.iter_mut().filter(|one| one.p.is_some());
        for (one, p) in tested.zip(adjusted) {
            one.p_holm = Some(p);
        }
        (!compared.is_empty()).then(|| Self {
            reference: reference.to_owned(),
            methods: compared,
        })
    }
}

/// The method with the highest OP against the next, among those that learn a stream.
pub struct Lead {
    /// The best.
    pub best: String,
    /// The next.
    pub next: String,
    /// The best less the next, over the cells that both have; none where they share none.
    pub comparison: Option<Comparison>,
}

impl Lead {
    /// Of methods by falling OP.
    pub(super) fn new(methods: &[MethodSummary], records: &[Record]) -> Option<Self> {
        let mut streams = methods.iter().filter(|method| method.is_stream());
        let (best, next) = (streams.next()?.name.clone(), streams.next()?.name.clone());
        let comparison = compare(&best, &next, records);
        Some(Self {
            best,
            next,
            comparison,
        })
    }
}

/// `method` against `reference` in the cells of `records` that both have; none without one. Not adjusted for other
/// comparisons.
pub(crate) fn compare(method: &str, reference: &str, records: &[Record]) -> Option<Comparison> {
    let op = |record: &Record| Metric::Op.compute(&record.scores, &References::default());
    let pairs: Vec<(&Record, &Record)> = (records.iter())
        .filter(|record| record.method == method)
        .filter_map(|own| {
            let other = records.iter().find(|other| {
                other.method == reference && (other.order, other.seed) == (own.order, own.seed)
            })?;
            Some((own, other))
        })
        .collect();
    let differences: Vec<(usize, f64)> = (pairs.iter())
        .filter_map(|(own, other)| Some((own.order, op(own)? - op(other)?)))
        .collect();
    let own: Vec<&Record> = pairs.iter().map(|(own, _)| *own).collect();
    let weighted: Vec<(&Record, f64)> = (pairs.iter().zip(test_rows::mean_weights(&own)))
        .flat_map(|((own, other), weight)| [(*own, weight), (*other, -weight)])
        .collect();
    let values: Vec<f64> = differences
        .iter()
        .map(|(_, difference)| *difference)
        .collect();
    Some(Comparison {
        method: method.to_owned(),
        difference: Spread::over_orders(&differences)?,
        test_rows: test_rows::half_width(&weighted, Metric::Op),
        p: sign_flip_p(&values).ok(),
        p_holm: None,
        detectable: detectable_difference(&values, 0.05, 0.8),
    })
}
