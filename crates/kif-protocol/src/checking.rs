//! Whether all values of a protocol are in their ranges and all its names exist.

use std::fmt::Display;

use kif_data::Stream;
use kif_methods::methods::MethodConfig;

use crate::{
    AdapterSettings, EvaluationSettings, LimitSettings, Protocol, ProtocolError, StreamSource,
    TrainingSettings,
};

impl Protocol {
    /// Whether all values are in their ranges and all names exist.
    pub fn check(&self) -> Result<(), ProtocolError> {
        self.problems().into_iter().next().map_or(Ok(()), Err)
    }

    /// Every value outside its range and every name that does not exist.
    pub fn problems(&self) -> Vec<ProtocolError> {
        let mut found = Vec::new();
        self.check_names(&mut found);
        self.check_methods(&mut found);
        self.check_values(&mut found);
        found
    }

    fn check_values(&self, found: &mut Vec<ProtocolError>) {
        self.check_training(found);
        self.check_evaluation(found);
        let mut expect = |holds: bool, field: &str, value: &dyn Display, expected: &str| {
            self.expect(found, holds, field, value, expected);
        };
        let LimitSettings {
            max_input,
            max_target,
            train_rows,
            test_rows,
        } = self.limits;
        expect(max_input >= 1, "limits.max_input", &max_input, COUNT);
        expect(max_target >= 1, "limits.max_target", &max_target, COUNT);
        let some = "at least 1, or None";
        expect(train_rows != Some(0), "limits.train_rows", &0, some);
        expect(test_rows != Some(0), "limits.test_rows", &0, some);
        let minutes = self.save_minutes;
        let expected = "a number above 0";
        expect(minutes > 0.0, "save_minutes", &minutes, expected);
    }

    /// Training, the rates of single methods, adapter and memory.
    fn check_training(&self, found: &mut Vec<ProtocolError>) {
        let mut expect = |holds: bool, field: &str, value: &dyn Display, expected: &str| {
            self.expect(found, holds, field, value, expected);
        };
        let TrainingSettings {
            epochs, batch_size, ..
        } = self.training;
        expect(epochs >= 1, "training.epochs", &epochs, COUNT);
        expect(batch_size >= 1, "training.batch_size", &batch_size, COUNT);
        let rates = self.training.schedule().check();
        if let Err(e) = self.learner_config(0).check().and(rates) {
            let field = format!("training.{}", e.field);
            expect(false, &field, &e.value, e.expected);
        }
        for (method, lr) in &self.lr_of {
            let known = self.method(method).is_some();
            expect(known, "lr_of", method, &known_methods());
            if let Err(e) = self.training_of(method).schedule().check() {
                expect(false, &format!("lr_of.{method}"), lr, e.expected);
            }
        }
        if let Err(e) = self.adapter.validate() {
            let value = adapter_text(&self.adapter);
            expect(false, "adapter", &value, &e.to_string());
        }
        let fraction = self.memory.fraction;
        let share = (0.0..=1.0).contains(&fraction);
        expect(share, "memory.fraction", &fraction, "a number from 0 to 1");
    }

    fn check_evaluation(&self, found: &mut Vec<ProtocolError>) {
        let mut expect = |holds: bool, field: &str, value: &dyn Display, expected: &str| {
            self.expect(found, holds, field, value, expected);
        };
        let EvaluationSettings {
            max_new_tokens,
            batch_tokens,
            validation,
            ..
        } = self.evaluation;
        for (field, count) in [
            ("evaluation.max_new_tokens", max_new_tokens),
            ("evaluation.batch_tokens", batch_tokens),
        ] {
            expect(count >= 1, field, &count, COUNT);
        }
        let part = (0.0..1.0).contains(&validation);
        let expected = "a number from 0 to less than 1";
        expect(part, "evaluation.validation", &validation, expected);
    }

    fn check_names(&self, found: &mut Vec<ProtocolError>) {
        let mut expect = |holds: bool, field: &str, value: &dyn Display, expected: &str| {
            self.expect(found, holds, field, value, expected);
        };
        expect(is_plain(&self.name), "name", &self.name, PLAIN);
        for (field, is_empty) in [
            ("methods", self.methods.is_empty()),
            ("seeds", self.seeds.is_empty()),
            ("orders", self.orders.is_empty()),
        ] {
            expect(!is_empty, field, &"empty", "at least one");
        }
        for seed in repeated(&self.seeds) {
            expect(false, "seeds", seed, "every seed once");
        }
        self.check_sources(found);
    }

    /// Where tasks and base come from.
    fn check_sources(&self, found: &mut Vec<ProtocolError>) {
        let mut expect = |holds: bool, field: &str, value: &dyn Display, expected: &str| {
            self.expect(found, holds, field, value, expected);
        };
        if let StreamSource::Builtin(name) = &self.stream {
            let known = Stream::builtin(name).is_some();
            let expected = "builtin(standard), builtin(long) or builtin(superni)";
            expect(known, "stream", name, expected);
        }
        if let StreamSource::Own { orders, .. } = &self.stream {
            for order in orders {
                let expected = "at least one task";
                expect(
                    !order.is_empty(),
                    "stream.orders",
                    &"an empty order",
                    expected,
                );
                for task in repeated(order) {
                    expect(false, "stream.orders", task, "every task once in an order");
                }
            }
        }
        if let Some(arch) = self.arch {
            let embedded = self.stream == StreamSource::Embedded;
            let expected =
                "none: only the embedded stream comes with bases (--model DIR names one)";
            expect(embedded, "arch", &arch, expected);
            let expected = "none beside a model: --arch and --model both name the base";
            expect(self.model.is_none(), "arch", &arch, expected);
        }
        if self.stream != StreamSource::Embedded {
            let data = "the folder of the task files (--data DIR)";
            expect(self.data.is_some(), "data", &"not given", data);
            let model = "the folder of a base model (--model DIR)";
            expect(self.model.is_some(), "model", &"not given", model);
        }
        if let Some(stream) = self.stream() {
            self.check_tasks(&stream, found);
        }
    }

    fn check_methods(&self, found: &mut Vec<ProtocolError>) {
        let mut expect = |holds: bool, field: &str, value: &dyn Display, expected: &str| {
            self.expect(found, holds, field, value, expected);
        };
        for name in repeated(&self.methods) {
            expect(false, "methods", name, "every method once");
        }
        for name in &self.methods {
            expect(is_plain(name), "methods", name, PLAIN);
            match self.method(name).map(|config| config.check()) {
                Some(Ok(())) => {}
                Some(Err(e)) => {
                    expect(false, &format!("{name}: {}", e.field), &e.value, e.expected)
                }
                None => expect(false, "methods", name, &known_methods()),
            }
        }
    }

    /// Whether all orders, and the tasks that have a score of their own, exist in a stream.
    pub fn check_stream(&self, stream: &Stream) -> Result<(), ProtocolError> {
        let mut found = Vec::new();
        self.check_tasks(stream, &mut found);
        found.into_iter().next().map_or(Ok(()), Err)
    }

    fn check_tasks(&self, stream: &Stream, found: &mut Vec<ProtocolError>) {
        let n_orders = stream.orders.len();
        if n_orders == 0 {
            return self.expect(
                found,
                false,
                "stream.orders",
                &"empty",
                "at least one order",
            );
        }
        let expected = format!("1 to {n_orders}, every order once");
        for order in repeated(&self.orders) {
            self.expect(found, false, "orders", order, &expected);
        }
        for order in &self.orders {
            let exists = (1..=n_orders).contains(order);
            self.expect(found, exists, "orders", order, &expected);
        }
        for task in self.evaluation.score_of.keys() {
            let exists = stream.orders.iter().any(|order| order.contains(task));
            let expected = "the name of a task of the stream";
            self.expect(found, exists, "evaluation.score_of", task, expected);
        }
    }

    fn expect(
        &self,
        found: &mut Vec<ProtocolError>,
        holds: bool,
        field: &str,
        value: &dyn Display,
        expected: &str,
    ) {
        if !holds {
            found.push(ProtocolError::Value {
                protocol: self.name.clone(),
                field: field.to_owned(),
                value: value.to_string(),
                expected: expected.to_owned(),
            });
        }
    }
}

/// What a count is expected to be.
const COUNT: &str = "at least 1";

/// What names of protocols and methods are made of.
const PLAIN: &str = "letters, digits, '.', '_' and '-'";

fn is_plain(name: &str) -> bool {
    let ok = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !name.is_empty() && !name.starts_with('.') && name.chars().all(ok)
}

/// An adapter as messages print it.
fn adapter_text(adapter: &AdapterSettings) -> String {
    let AdapterSettings {
        rank,
        alpha,
        dropout,
        targets,
    } = adapter;
    format!(
        "AdapterSettings {{ rank: {rank}, alpha: {alpha:?}, dropout: {dropout:?}, targets: {targets:?} }}"
    )
}

/// Items that equal an earlier one.
fn repeated<T: PartialEq>(items: &[T]) -> impl Iterator<Item = &T> {
    let again = |(i, item): (usize, &T)| items[..i].contains(item);
    (items.iter().enumerate())
        .filter(move |pair| again(*pair))
        .map(|(_, item)| item)
}

/// The names of all built-in methods, for messages.
pub fn known_methods() -> String {
    let names: Vec<&str> = MethodConfig::all()
        .iter()
        .map(|method| method.name())
        .collect();
    format!("one of {} or a name in own_methods", names.join(", "))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use kif_methods::methods::EwcConfig;
    use kif_methods::methods::ewc::EwcFisher;

    #[test]
    fn values_outside_their_range_are_refused_by_name() {
        let quick = Protocol::load("quick").unwrap();
        let problem = |change: fn(&mut Protocol)| {
            let mut protocol = quick.clone();
            change(&mut protocol);
            protocol.check().unwrap_err().to_string()
        };
        assert!(
            problem(|p| p.training.epochs = 0)
                .contains("training.epochs is 0, expected at least 1")
        );
        assert!(
            problem(|p| p.methods = vec!["sgd".into()]).contains("methods is sgd, expected one of")
        );
        assert!(problem(|p| p.memory.fraction = 1.5).contains("memory.fraction is 1.5"));
        assert!(problem(|p| p.training.lr = f64::NAN).contains("lr is NaN"));
        assert!(problem(|p| p.name = "../x".into()).contains("name is ../x"));
        fn set_rate(protocol: &mut Protocol, name: &str, lr: f64) {
            protocol.lr_of = BTreeMap::from([(name.to_owned(), lr)]);
        }
        assert!(problem(|p| set_rate(p, "sgd", 1e-3)).contains("lr_of is sgd, expected one of"));
        assert!(problem(|p| set_rate(p, "replay", -1.0)).contains("lr_of.replay is -1"));
        let mut several = quick.clone();
        (several.seeds, several.training.epochs) = (vec![1, 2, 1], 0);
        let texts: Vec<String> = several.problems().iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "protocol quick: seeds is 1, expected every seed once",
                "protocol quick: training.epochs is 0, expected at least 1"
            ]
        );
    }

    #[test]
    fn methods_have_their_settings() {
        let protocol = |ewc: &str| {
            let text = format!(
                "(name: \"x\", stream: embedded, methods: [\"mine\", \"apart\"], seeds: [1], own_methods: {{ \"mine\": ewc({ewc}), \"apart\": inc_lora }})"
            );
            Protocol::parse("x.ron", &text)
        };
        let given = protocol("lambda: 5.0, fisher: textbook(rows: 50)").unwrap();
        given.check().unwrap();
        let expected = EwcConfig {
            lambda: 5.0,
            fisher: EwcFisher::Textbook { rows: 50 },
        };
        assert_eq!(given.method("mine"), Some(MethodConfig::Ewc(expected)));
        let problem = protocol("lambda: 5.0, fisher: online(decay: 2.0)").unwrap();
        let problem = problem.check().unwrap_err().to_string();
        assert!(
            problem.contains("mine: fisher.decay is 2, expected a number in [0, 1]"),
            "{problem}"
        );
        assert!(protocol("lamda: 5.0, fisher: online(decay: 1.0)").is_err());
    }
}
