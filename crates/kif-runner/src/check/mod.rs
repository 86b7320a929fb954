//! Whether a benchmark can be run, and what its numbers would not mean: protocol, task files and
//! limits, without a model.
//!
//! An *error* is what a run would refuse, a file of a published benchmark that is missing or is
//! another one, or a test row that is trained on. A *warning* is what a run puts up with.
//! Everything is looked at whatever was found before.

mod files;
mod repeats;
mod tasks;

use std::collections::BTreeMap;

use anyhow::Result;
use kif_data::Stream;
use kif_protocol::{Protocol, ProtocolError, StreamSource};

use crate::codec::Codec;
use crate::embedded;
use crate::hub;

use tasks::TaskCheck;

/// Something that somebody should know before a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whether it is an error; else a warning.
    pub is_error: bool,
    /// What it is and where.
    pub text: String,
}

/// All that is known about a benchmark before it runs.
pub struct Check {
    /// Tables and notes, to be read first.
    overview: String,
    /// What was found, errors and warnings, in the order of protocol, files, tasks.
    pub findings: Vec<Finding>,
}

/// What was found so far.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn error(&mut self, text: impl ToString) {
        self.push(true, text);
    }

    fn warning(&mut self, text: impl ToString) {
        self.push(false, text);
    }

    /// Notes it once: a name that is no task's is wrong for train and test alike.
    fn push(&mut self, is_error: bool, text: impl ToString) {
        let finding = Finding {
            is_error,
            text: text.to_string(),
        };
        if !self.0.contains(&finding) {
            self.0.push(finding);
        }
    }
}

impl Check {
    /// Looks at everything that a protocol names. Without a model, numbers of tokens stay unknown.
    ///
    /// Fails only where a file that the program brings along cannot be unpacked; what is wrong is
    /// in the findings.
    pub fn new(protocol: &Protocol) -> Result<Self> {
        let mut findings = Findings::default();
        for problem in protocol.problems() {
            // A base is for training; here it is welcome, but not needed.
            if !matches!(&problem, ProtocolError::Value { field, .. } if field == "model") {
                findings.error(problem);
            }
        }
        let unpacked = tempfile::tempdir()?;
        let (stream, root) = match (protocol.stream(), &protocol.data) {
            (Some(stream), Some(data)) => (stream, data.clone()),
            (None, None) if protocol.stream == StreamSource::Embedded => {
                embedded::unpack_stream(unpacked.path())?
            }
            (None, Some(_)) if protocol.stream == StreamSource::Embedded => {
                findings.error("the embedded stream brings its own data; leave out --data");
                embedded::unpack_stream(unpacked.path())?
            }
            // The protocol's problems say what is missing.
            _ => return Ok(Self::of(String::new(), findings)),
        };
        if protocol.stream == StreamSource::Embedded
            && let Err(problem) = protocol.check_stream(&stream)
        {
            findings.error(problem);
        }
        same_tasks(&stream, &mut findings);
        let model = match (&protocol.model, &protocol.stream) {
            (None, StreamSource::Embedded) => {
                let arch = protocol.arch.unwrap_or_default();
                Some(embedded::unpack_base(unpacked.path(), arch)?)
            }
            (model, _) => model.clone(),
        };
        let codec = match model
            .map(|model| Codec::of_model(&hub::resolve(&model)?, &protocol.template))
            .transpose()
        {
            Ok(codec) => codec,
            Err(problem) => {
                findings.error(format!("{problem:#}"));
                None
            }
        };

        let mut overview = format!("{}: {}\n", protocol.name, root.display());
        if codec.is_none() {
            overview.push_str("without a model (--model DIR), numbers of tokens are not known\n");
        }
        if !root.is_dir() {
            findings.error(format!("data {}: there is no such folder", root.display()));
            return Ok(Self::of(overview, findings));
        }
        let names = protocol.task_names(&stream);
        let compared = files::compare(&stream, &root, &names, &mut findings);
        let mut checks = BTreeMap::new();
        for name in names {
            let task = TaskCheck::new(protocol, &stream, &root, &name, codec.as_ref());
            task.find(protocol, &mut findings);
            checks.insert(name, task);
        }
        repeats::find(&checks, &mut findings);
        let tables = [
            compared,
            Some(tasks::halves(&checks)),
            Some(tasks::labels(&checks)),
        ];
        for table in tables
            .iter()
            .flatten()
            .filter(|table| !table.rows.is_empty())
        {
            overview.push('\n');
            overview.push_str(&table.to_text());
        }
        Ok(Self::of(overview, findings))
    }

    fn of(overview: String, findings: Findings) -> Self {
        Self {
            overview,
            findings: findings.0,
        }
    }

    /// How many errors and how many warnings there are.
    pub fn counts(&self) -> (usize, usize) {
        let n_errors = self
            .findings
            .iter()
            .filter(|finding| finding.is_error)
            .count();
        (n_errors, self.findings.len() - n_errors)
    }

    /// Everything, for a reader.
    pub fn to_text(&self) -> String {
        let mut text = self.overview.clone();
        text.push('\n');
        for Finding {
            is_error,
            text: what,
        } in &self.findings
        {
            let kind = if *is_error { "error  " } else { "warning" };
            text.push_str(&format!("{kind}  {what}\n"));
        }
        let (n_errors, n_warnings) = self.counts();
        text.push_str(&format!("{n_errors} errors, {n_warnings} warnings\n"));
        text
    }
}

/// Orders of other tasks have other scores: their mean says little.
fn same_tasks(stream: &Stream, findings: &mut Findings) {
    let sorted = |order: &[String]| {
        let mut names = order.to_vec();
        names.sort();
        names
    };
    let first = stream.orders.first().map(|order| sorted(order));
    for (i, order) in stream.orders.iter().enumerate() {
        if Some(sorted(order)) != first {
            let order = i + 1;
            findings.warning(format!("order {order} does not have the tasks of order 1"));
        }
    }
}
