//! Values over orders and seeds: their mean, how far they lie apart, and how sure the mean is.

use std::collections::BTreeMap;

use kif_eval::statistics::{fixed_effects_interval, mean, sample_std, t_interval};

/// Values over orders and seeds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Spread {
    /// Their mean.
    pub(crate) mean: f64,
    /// Their sample standard deviation; none of one value.
    pub(crate) std: Option<f64>,
    /// Half the width of the 95 % interval of the mean (Student's t): with orders as fixed effects
    /// where some order has two seeds, else over all values; none of one value.
    pub(crate) half_width: Option<f64>,
    /// How many there are.
    pub(crate) n: usize,
}

impl Spread {
    /// Of at least one value.
    pub(super) fn of(values: &[f64]) -> Option<Self> {
        Self::over_orders(&values.iter().map(|x| (1, *x)).collect::<Vec<_>>())
    }

    /// Of at least one value, each with its order; all orders weigh the same.
    pub(crate) fn over_orders(values: &[(usize, f64)]) -> Option<Self> {
        let mut by_order: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
        for (order, value) in values {
            by_order.entry(*order).or_default().push(*value);
        }
        let groups: Vec<Vec<f64>> = by_order.into_values().collect();
        let all: Vec<f64> = values.iter().map(|(_, value)| *value).collect();
        let interval = fixed_effects_interval(&groups, 0.95).or_else(|_| t_interval(&all, 0.95));
        let means: Vec<f64> = groups.iter().filter_map(|group| mean(group)).collect();
        Some(Self {
            mean: mean(&means)?,
            std: sample_std(&all),
            half_width: interval.ok().map(|interval| interval.half_width),
            n: all.len(),
        })
    }

    /// `71.3 ± 0.8`, in percent.
    pub(crate) fn percent(&self) -> String {
        match self.std {
            Some(std) => format!("{:.1} ± {:.1}", 100.0 * self.mean, 100.0 * std),
            None => format!("{:.1}", 100.0 * self.mean),
        }
    }

    /// `71.3 [70.1, 72.5]`, or with the deviation where there is no interval, in percent.
    pub(crate) fn with_interval(&self) -> String {
        match self.interval() {
            Some(interval) => format!("{:.1} {interval}", 100.0 * self.mean),
            None => self.percent(),
        }
    }

    /// `[70.1, 72.5]`, the 95 % interval in percent.
    pub(crate) fn interval(&self) -> Option<String> {
        let half = self.half_width?;
        Some(format!(
            "[{:.1}, {:.1}]",
            100.0 * (self.mean - half),
            100.0 * (self.mean + half)
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_prints_percent() {
        let spread = Spread::of(&[0.7, 0.72]).unwrap();
        assert_eq!(spread.percent(), "71.0 ± 1.4");
        assert_eq!(spread.interval().unwrap(), "[58.3, 83.7]");
        assert_eq!(Spread::of(&[0.5]).unwrap().percent(), "50.0");
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn orders_weigh_the_same_and_only_seeds_are_uncertain() {
        let spread = Spread::over_orders(&[(1, 0.5), (1, 0.5), (2, 0.9)]).unwrap();
        assert!((spread.mean - 0.7).abs() < 1e-12);
        assert_eq!((spread.half_width, spread.n), (Some(0.0), 3));
        let one_seed = Spread::over_orders(&[(1, 0.5), (2, 0.9)]).unwrap();
        assert!(one_seed.half_width.unwrap() > 1.0, "{one_seed:?}");
    }
}
