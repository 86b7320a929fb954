//! What follows from a protocol: settings of a method, tasks, scores, the run that it grows.

use std::collections::BTreeSet;
use std::path::Path;

use kif_data::Stream;
use kif_methods::methods::MethodConfig;
use kif_methods::{LearnerConfig, OptimizerConfig};
use kif_model::{LoraConfig, ModelConfig, ModelError};

use crate::{Arch, EvaluationSettings, Protocol, ScoreKind, StreamSource, TrainingSettings};

impl Protocol {
    /// The settings of a method by its name here.
    pub fn method(&self, name: &str) -> Option<MethodConfig> {
        self.own_methods
            .get(name)
            .cloned()
            .or_else(|| MethodConfig::by_name(name))
    }

    /// Replaces other names of built-in methods by the ones that records use (`kif` by
    /// `kif-paper`).
    pub fn canonical(mut self) -> Self {
        let canonical = |name: String| match MethodConfig::by_name(&name) {
            Some(config) if !self.own_methods.contains_key(&name) => config.name().to_owned(),
            _ => name,
        };
        self.methods = self.methods.into_iter().map(canonical).collect();
        let lr_of = self.lr_of.into_iter();
        self.lr_of = lr_of.map(|(name, lr)| (canonical(name), lr)).collect();
        self
    }

    /// This protocol with the methods, orders and seeds that `earlier` has beside its own: what a
    /// run holds after it.
    pub fn grown_from(&self, earlier: &Self) -> Self {
        fn join<T: Clone + PartialEq>(earlier: &[T], now: &[T]) -> Vec<T> {
            earlier
                .iter()
                .chain(now.iter().filter(|x| !earlier.contains(x)))
                .cloned()
                .collect()
        }
        let mut grown = self.clone();
        grown.methods = join(&earlier.methods, &self.methods);
        grown.orders = join(&earlier.orders, &self.orders);
        grown.seeds = join(&earlier.seeds, &self.seeds);
        for (name, config) in &earlier.own_methods {
            if !self.methods.contains(name) {
                grown.own_methods.insert(name.clone(), config.clone());
            }
        }
        for (name, &lr) in &earlier.lr_of {
            if !self.methods.contains(name) {
                grown.lr_of.insert(name.clone(), lr);
            }
        }
        grown
    }

    /// All orders of the stream; none for an unknown built-in one. The embedded stream brings its
    /// own.
    pub fn stream(&self) -> Option<Stream> {
        match &self.stream {
            StreamSource::Embedded => None,
            StreamSource::Builtin(name) => Stream::builtin(name),
            StreamSource::Own { layout, orders } => {
                let (name, layout, orders) = (self.name.clone(), *layout, orders.clone());
                Some(Stream {
                    name,
                    layout,
                    published_ids: Vec::new(),
                    orders,
                })
            }
        }
    }

    /// Evaluates by `score` wherever an answer is right or wrong; tasks that are scored by ROUGE-L
    /// keep it.
    pub fn evaluate_by(&mut self, score: ScoreKind) {
        let EvaluationSettings {
            score: general,
            score_of,
            ..
        } = &mut self.evaluation;
        let kinds = std::iter::once(general).chain(score_of.values_mut());
        for kind in kinds.filter(|kind| **kind != ScoreKind::RougeL) {
            *kind = score;
        }
    }

    /// Tasks of all orders that are run and that `stream` has, each once, in the order of their
    /// names.
    pub fn task_names(&self, stream: &Stream) -> Vec<String> {
        let orders = self.orders.iter();
        let tasks = orders.filter_map(|&order| stream.order(order)).flatten();
        tasks
            .cloned()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect()
    }

    /// The score of a task.
    pub fn score_kind(&self, task: &str) -> ScoreKind {
        self.evaluation
            .score_of
            .get(task)
            .copied()
            .unwrap_or(self.evaluation.score)
    }

    /// How a method learns a task: with the rate that `lr_of` has for it, else the one among its
    /// settings, else the run's.
    pub fn training_of(&self, method: &str) -> TrainingSettings {
        let given = self.lr_of.get(method).copied();
        let own = || self.method(method)?.peak_rate();
        TrainingSettings {
            lr: given.or_else(own).unwrap_or(self.training.lr),
            ..self.training.clone()
        }
    }

    /// The learner's part of the settings, for one seed.
    pub fn learner_config(&self, seed: u64) -> LearnerConfig {
        let TrainingSettings {
            accumulate,
            micro_rows,
            micro_tokens,
            clip,
            ..
        } = self.training;
        LearnerConfig {
            optimizer: OptimizerConfig {
                clip,
                ..OptimizerConfig::default()
            },
            accumulate,
            micro_rows,
            micro_tokens,
            dropout: self.adapter.dropout,
            seed,
        }
    }

    /// The adapter's settings as the model wants them.
    pub fn lora_config(&self) -> LoraConfig {
        self.adapter.clone()
    }

    /// The embedded base that it runs on, if it runs on one.
    pub fn embedded_base(&self) -> Option<Arch> {
        let embedded = self.model.is_none() && self.stream == StreamSource::Embedded;
        embedded.then(|| self.arch.unwrap_or_default())
    }

    /// This protocol with the modules of the adapter as the base at `model` calls them.
    pub fn with_own_targets(mut self, model: &Path) -> Result<Self, ModelError> {
        let lora = ModelConfig::read(model)?.own_targets(self.lora_config());
        self.adapter.targets = lora.targets;
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use kif_methods::methods::L2pConfig;

    #[test]
    fn only_answers_that_are_right_or_wrong_are_evaluated_another_way() {
        let mut superni = Protocol::load("superni").unwrap();
        superni.evaluate_by(ScoreKind::Labels);
        assert_eq!(superni.score_kind("task363"), ScoreKind::Labels);
        assert_eq!(superni.score_kind("task002"), ScoreKind::RougeL);
        let mut long = Protocol::load("long").unwrap();
        long.evaluate_by(ScoreKind::Labels);
        assert_eq!(long.score_kind("cb"), ScoreKind::Labels);
    }

    #[test]
    fn a_rate_of_its_own_is_that_of_one_method_alone() {
        let mut protocol = Protocol::load("quick").unwrap();
        protocol.lr_of = BTreeMap::from([("kif".to_owned(), 5e-4)]);
        let protocol = protocol.canonical();
        protocol.check().unwrap();
        assert_eq!(protocol.training_of("kif-paper").lr, 5e-4);
        let others = protocol.training_of("replay_matched").lr;
        assert_eq!(others, protocol.training.lr);
        let (paper, training) = (protocol.training_of("kif-paper"), &protocol.training);
        assert_eq!(paper.epochs, training.epochs);
    }

    #[test]
    fn a_rate_among_a_methods_settings_goes_before_the_runs_and_after_one_for_it_alone() {
        let mut protocol = Protocol::load("quick").unwrap();
        protocol.training.lr = 1e-3;
        let config = L2pConfig {
            lr: 0.7,
            ..L2pConfig::default()
        };
        let own = BTreeMap::from([("l2p-fast".to_owned(), MethodConfig::L2p(config))]);
        protocol.own_methods = own;
        let rate = |protocol: &Protocol, name| protocol.training_of(name).lr;
        assert_eq!(rate(&protocol, "prog_prompt"), 0.3);
        assert_eq!(rate(&protocol, "l2p-fast"), 0.7);
        assert_eq!(rate(&protocol, "seq_lora"), 1e-3);
        protocol.lr_of = BTreeMap::from([("l2p-fast".to_owned(), 0.1)]);
        assert_eq!(rate(&protocol, "l2p-fast"), 0.1);
        assert_eq!(protocol.training_of("l2p-fast").lr, 0.1);
        assert_eq!(rate(&protocol, "l2p"), L2pConfig::default().lr);
    }
}
