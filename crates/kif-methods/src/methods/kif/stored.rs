//! KIF's settings as files have them: nested, or flat as they were written before 0.2.

use kif_fusion::FusionWeights;
use serde::{Deserialize, Deserializer};

use super::super::two_loop::{OuterOptimizer, TwoLoopConfig};
use super::{ClearedAverages, EstimatedIn, ImportanceWeights, KifConfig, KifFusion, KifScope};
use crate::task_view::MemoryOrder;

/// Both spellings at once; [`KifConfig::try_from`] sees to it that only one is used.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StoredKif {
    sensitivity_beta: f32,
    uncertainty_beta: Option<f32>,
    importance_weights: ImportanceWeights,
    cleared: ClearedAverages,
    #[serde(default)]
    estimated: EstimatedIn,
    #[serde(default, deserialize_with = "given")]
    two_loop: Option<TwoLoopConfig>,
    #[serde(default, deserialize_with = "given")]
    fusion: Option<KifFusion>,
    // Flat, in the place of `two_loop`.
    #[serde(default, deserialize_with = "given")]
    inner_steps: Option<usize>,
    #[serde(default, deserialize_with = "given")]
    outer_steps: Option<usize>,
    #[serde(default, deserialize_with = "given")]
    outer_optimizer: Option<OuterOptimizer>,
    #[serde(default, deserialize_with = "given")]
    outer_loss_scale: Option<f32>,
    #[serde(default, deserialize_with = "given")]
    memory_order: Option<MemoryOrder>,
    #[serde(default)]
    slow_average: Option<f64>,
    // Flat, in the place of `fusion`. A temperature went before the other three.
    #[serde(default, deserialize_with = "given")]
    quantile: Option<f64>,
    #[serde(default, deserialize_with = "given")]
    scope: Option<KifScope>,
    #[serde(default, deserialize_with = "given")]
    weights: Option<FusionWeights>,
    #[serde(default)]
    temperature: Option<f64>,
}

/// A field that is no option in the file: it is left out, or it has a value.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

impl StoredKif {
    fn two_loop(&self) -> Result<TwoLoopConfig, String> {
        let flat = [
            ("inner_steps", self.inner_steps.is_some()),
            ("outer_steps", self.outer_steps.is_some()),
            ("outer_optimizer", self.outer_optimizer.is_some()),
            ("outer_loss_scale", self.outer_loss_scale.is_some()),
            ("memory_order", self.memory_order.is_some()),
            ("slow_average", self.slow_average.is_some()),
        ];
        if let Some(two_loop) = self.two_loop {
            return only("two_loop", &flat).map(|()| two_loop);
        }
        Ok(TwoLoopConfig {
            inner_steps: required(self.inner_steps, "inner_steps", "two_loop")?,
            outer_steps: required(self.outer_steps, "outer_steps", "two_loop")?,
            outer_optimizer: required(self.outer_optimizer, "outer_optimizer", "two_loop")?,
            outer_loss_scale: required(self.outer_loss_scale, "outer_loss_scale", "two_loop")?,
            memory_order: self.memory_order.unwrap_or_default(),
            slow_average: self.slow_average,
            distillation: None,
        })
    }

    fn fusion(&self) -> Result<KifFusion, String> {
        let flat = [
            ("quantile", self.quantile.is_some()),
            ("scope", self.scope.is_some()),
            ("weights", self.weights.is_some()),
            ("temperature", self.temperature.is_some()),
        ];
        if let Some(fusion) = self.fusion {
            return only("fusion", &flat).map(|()| fusion);
        }
        let masked = || {
            Ok::<_, String>(KifFusion::Masked {
                quantile: required(self.quantile, "quantile", "fusion")?,
                scope: required(self.scope, "scope", "fusion")?,
                weights: required(self.weights, "weights", "fusion")?,
            })
        };
        let Some(temperature) = self.temperature else {
            return masked();
        };
        // What the temperature switches off had to be in its range all the same.
        masked()?.check().map_err(|error| error.to_string())?;
        Ok(KifFusion::Soft { temperature })
    }
}

/// An error that names the first flat field that stands beside the nested one.
fn only(nested: &str, flat: &[(&str, bool)]) -> Result<(), String> {
    match flat.iter().find(|(_, is_given)| *is_given) {
        Some((field, _)) => Err(format!(
            "`{field}` cannot stand beside `{nested}`: both say the same, in two spellings"
        )),
        None => Ok(()),
    }
}

fn required<T>(value: Option<T>, field: &str, nested: &str) -> Result<T, String> {
    value
        .ok_or_else(|| format!("missing field `{nested}` (or `{field}`, as it was written before)"))
}

impl TryFrom<StoredKif> for KifConfig {
    type Error = String;

    fn try_from(stored: StoredKif) -> Result<Self, String> {
        Ok(Self {
            two_loop: stored.two_loop()?,
            sensitivity_beta: stored.sensitivity_beta,
            uncertainty_beta: stored.uncertainty_beta,
            fusion: stored.fusion()?,
            importance_weights: stored.importance_weights,
            cleared: stored.cleared,
            estimated: stored.estimated,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a record from before 0.2 has of `kif-paper`.
    const FLAT: &str = r#"{"inner_steps": 8, "outer_steps": 4, "sensitivity_beta": 0.55,
        "uncertainty_beta": null, "quantile": 0.8, "scope": "global",
        "outer_optimizer": {"own": {"lr": 0.001}}, "outer_loss_scale": 1.0,
        "importance_weights": "before", "cleared": "inner_and_outer",
        "weights": {"inner_only": [1.0, 0.0], "outer_only": [0.0, 1.0], "both": [1.0, 1.0],
        "neither": [0.0, 0.0]}, "memory_order": "drawn", "slow_average": null}"#;

    /// The same with more fields at its end.
    fn flat(rest: &str) -> Result<KifConfig, serde_json::Error> {
        let text = FLAT.strip_suffix('}').unwrap();
        serde_json::from_str(&format!("{text}{rest}}}"))
    }

    #[test]
    fn flat_settings_are_read_as_what_they_meant() {
        assert_eq!(flat("").unwrap(), KifConfig::paper());
        assert_eq!(
            flat(r#", "temperature": null"#).unwrap(),
            KifConfig::paper()
        );
        let soft = flat(r#", "temperature": 0.25"#).unwrap();
        assert_eq!(soft.fusion, KifFusion::Soft { temperature: 0.25 });
    }

    #[test]
    fn what_a_temperature_switches_off_is_checked_all_the_same() {
        let mut stored: serde_json::Value = serde_json::from_str(FLAT).unwrap();
        stored["temperature"] = 0.25.into();
        stored["quantile"] = 7.into();
        let error = serde_json::from_value::<KifConfig>(stored).unwrap_err();
        assert_eq!(
            error.to_string(),
            "quantile is 7, expected a number in [0, 1]"
        );
    }

    #[test]
    fn a_setting_that_is_given_twice_is_refused_by_name() {
        let nested = serde_json::to_string(&TwoLoopConfig::paper()).unwrap();
        let error = flat(&format!(r#", "two_loop": {nested}"#))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("`inner_steps` cannot stand beside `two_loop`"),
            "{error}"
        );
        let fusion = r#", "fusion": {"soft": {"temperature": 0.25}}"#;
        let error = flat(fusion).unwrap_err().to_string();
        assert!(
            error.contains("`quantile` cannot stand beside `fusion`"),
            "{error}"
        );
    }
}
