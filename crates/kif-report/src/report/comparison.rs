//! Each method against a reference in the cells that both have.

use kif_eval::statistics::{detectable_difference, holm, sign_flip_p};
use kif_eval::{Metric, References};

use super::spread::Spread;
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
pub(crate) struct Comparisons {
    /// The method that the others are compared with.
    pub(crate) reference: String,
    /// The others, by falling OP.
    pub(crate) methods: Vec<Comparison>,
}

/// Differences of OP, method less reference, over the cells (order and seed) that both have.
pub(crate) struct Comparison {
    /// The method.
    pub(crate) method: String,
    /// Mean, deviation and interval of the differences.
    pub(crate) difference: Spread,
    /// Half the width of the 95 % interval of the difference when test rows are drawn again, the
    /// same for both.
    pub(crate) test_rows: Option<f64>,
    /// Two-sided p-value of the sign-flip test; none of more cells than it takes.
    pub(crate) p: Option<f64>,
    /// The same, adjusted by Holm for all comparisons of the run that have one.
    pub(crate) p_holm: Option<f64>,
    /// The true difference that so many cells with such differences would have shown with 80 %
    /// power at 5 %.
    pub(crate) detectable: Option<f64>,
}

impl Comparisons {
    /// Compares `methods` with `reference`, or with `replay_matched` where it is there, or with the
    /// first. `None` where nothing shares a cell with it.
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
pub(crate) struct Lead {
    /// The best.
    pub(crate) best: String,
    /// The next.
    pub(crate) next: String,
    /// The best less the next, over the cells that both have; none where they share none.
    pub(crate) comparison: Option<Comparison>,
}

impl Lead {
    /// Of the names of methods that learn a stream, by falling OP.
    pub(super) fn new<'a>(
        mut streams: impl Iterator<Item = &'a str>,
        records: &[Record],
    ) -> Option<Self> {
        let (best, next) = (streams.next()?, streams.next()?);
        Some(Self {
            best: best.to_owned(),
            next: next.to_owned(),
            comparison: compare(best, next, records),
        })
    }
}

/// `method` against `reference` in the cells of `records` that both have; none without one. Not
/// adjusted for other comparisons.
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
