//! From the list of methods: a type that holds the settings of any, and what reads and writes it.

use std::fmt;

use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, VariantAccess, Visitor};
use serde::ser::{Serialize, Serializer};

use super::MethodSpec;

/// Makes the modules of all methods, and the type that holds the settings of one of them.
macro_rules! methods {
    ($($module:ident: $Variant:ident($Config:ident),)*) => {
        $(
            pub mod $module;
            pub use $module::$Config;
        )*

        /// A method with its settings. What it says of itself is in [`MethodSpec`].
        #[derive(Clone, Debug, PartialEq)]
        pub enum MethodConfig {
            $(
                #[doc = concat!("The method in [`", stringify!($module), "`].")]
                $Variant($Config),
            )*
        }

        impl MethodConfig {
            /// Every method under every name that it has, in the order of tables.
            pub fn all() -> Vec<Self> {
                let mut all = Vec::new();
                $(all.extend($Config::presets().into_iter().map(Self::$Variant));)*
                all
            }

            /// The method that is called `name`, by a preset or, for its first preset, by its key.
            pub fn by_name(name: &str) -> Option<Self> {
                let preset = Self::all().into_iter().find(|method| method.name() == name);
                preset.or_else(|| first_preset(name))
            }

            /// Its name in protocols, which is a name for its first preset as well.
            pub fn key(&self) -> &'static str {
                match self {
                    $(Self::$Variant(_) => stringify!($module),)*
                }
            }

            /// The method with a learner of what it trains, in a stream of `n_tasks`. `model` was
            /// loaded with its [`parts`](MethodSpec::parts); `schedule` holds until a task begins.
            pub fn start(
                &self,
                model: Box<dyn LanguageModel>,
                config: LearnerConfig,
                schedule: Schedule,
                n_tasks: usize,
            ) -> Result<(Learner, Box<dyn Method>)> {
                let learner = Learner::new(model, config, schedule);
                let learner = learner.with_slots(self.parts(n_tasks).n_slots)?;
                let method = self.build(learner.layout());
                Ok((learner, method))
            }

            /// The same method where nothing is accumulated: the memory's loss is not divided by a
            /// number of micro-batches.
            pub fn without_accumulation(mut self) -> Self {
                match &mut self {
                    $(Self::$Variant(settings) => settings.without_accumulation(),)*
                }
                self
            }
        }

        impl std::ops::Deref for MethodConfig {
            type Target = dyn MethodSpec;

            fn deref(&self) -> &Self::Target {
                match self {
                    $(Self::$Variant(settings) => settings,)*
                }
            }
        }

        $(
            impl From<$Config> for MethodConfig {
                fn from(settings: $Config) -> Self {
                    Self::$Variant(settings)
                }
            }
        )*

        /// Keys of methods in protocols and records, in the order of the list.
        const KEYS: &[&str] = &[$(stringify!($module)),*];

        fn first_preset(key: &str) -> Option<MethodConfig> {
            match key {
                $(stringify!($module) => $Config::presets().into_iter().next().map(MethodConfig::$Variant),)*
                _ => None,
            }
        }

        impl serde::Serialize for MethodConfig {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match self {
                    $(Self::$Variant(settings) => {
                        config::serialize(settings, stringify!($module), serializer)
                    })*
                }
            }
        }

        impl<'de> serde::Deserialize<'de> for MethodConfig {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct AnyMethod;

                impl<'de> serde::de::Visitor<'de> for AnyMethod {
                    type Value = MethodConfig;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str("a method")
                    }

                    fn visit_enum<A: serde::de::EnumAccess<'de>>(
                        self,
                        data: A,
                    ) -> Result<MethodConfig, A::Error> {
                        let (key, content) = data.variant_seed(config::Key(KEYS))?;
                        match key {
                            $(stringify!($module) => {
                                config::settings(content).map(MethodConfig::$Variant)
                            })*
                            _ => unreachable!("a key that is in the list"),
                        }
                    }
                }

                deserializer.deserialize_enum("MethodConfig", KEYS, AnyMethod)
            }
        }
    };
}
pub(super) use methods;

/// Writes a method's settings under its key; of a method that has none, the key.
pub(super) fn serialize<T: Serialize, S: Serializer>(
    settings: &T,
    key: &'static str,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    // The number of a variant is for formats that we do not write.
    if size_of::<T>() == 0 {
        serializer.serialize_unit_variant("MethodConfig", 0, key)
    } else {
        serializer.serialize_newtype_variant("MethodConfig", 0, key, settings)
    }
}

/// Reads what [`serialize`] wrote after the key.
pub(super) fn settings<'de, T: MethodSpec + Deserialize<'de>, A: VariantAccess<'de>>(
    content: A,
) -> Result<T, A::Error> {
    if size_of::<T>() > 0 {
        return content.newtype_variant();
    }
    content.unit_variant()?;
    let preset = T::presets().into_iter().next();
    Ok(preset.expect("a method without settings has the one preset"))
}

/// One of these keys.
pub(super) struct Key(pub(super) &'static [&'static str]);

impl<'de> DeserializeSeed<'de> for Key {
    type Value = &'static str;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<&'static str, D::Error> {
        from.deserialize_identifier(self)
    }
}

impl Visitor<'_> for Key {
    type Value = &'static str;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a method")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<&'static str, E> {
        let known = self.0.iter().find(|key| **key == name);
        known
            .copied()
            .ok_or_else(|| E::unknown_variant(name, self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{KifConfig, MethodConfig};

    #[test]
    fn names_find_their_methods() {
        for method in MethodConfig::all() {
            assert_eq!(MethodConfig::by_name(method.name()), Some(method.clone()));
            assert_eq!(method.clone().without_accumulation().name(), method.name());
            method.check().unwrap();
        }
        assert_eq!(
            MethodConfig::by_name("kif"),
            Some(KifConfig::paper().into())
        );
        assert_eq!(MethodConfig::by_name("sgd"), None);
    }

    #[test]
    fn configurations_survive_ron_and_json_and_refuse_unknown_fields() {
        for method in MethodConfig::all() {
            let text = ron::to_string(&method).unwrap();
            assert_eq!(
                ron::from_str::<MethodConfig>(&text).unwrap(),
                method,
                "{text}"
            );
            let text = serde_json::to_string(&method).unwrap();
            let read = serde_json::from_str::<MethodConfig>(&text).unwrap();
            assert_eq!(read, method, "{text}");
        }
        for wrong in [
            "seq_lora_matched((inner_steps: 8, outer_step: 4))",
            "sgd",
            "replay(())",
        ] {
            assert!(ron::from_str::<MethodConfig>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_method_without_settings_is_its_name_alone() {
        let replay = MethodConfig::by_name("replay").unwrap();
        assert_eq!(ron::to_string(&replay).unwrap(), "replay");
        assert_eq!(serde_json::to_string(&replay).unwrap(), "\"replay\"");
    }
}
