//! Everything that a run reads before it starts: tasks, tokenizer, base.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, bail};
use kif_data::{
    Encoded, Layout, Limits, MemoryPolicy, Row, Task, class_balanced_subset, draw_memory, labels,
    load_task, memory_rows, reservoir, task_files, validation_split,
};
use kif_eval::{best_rouge_l, exact_match};
use kif_io::failure::{BadInput, OrBadInput};
use kif_protocol::lock::Inventory;
use kif_protocol::{MemorySettings, Protocol, ScoreKind, TemplateSetting};
use kif_report::record::TaskNote;

use crate::codec::Codec;
use crate::embedded;
use crate::evaluate::TestSet;
use crate::hub;

/// Seed of `--limit-train` and `--limit-test`: the same rows in every cell and every run.
const SUBSET_SEED: u64 = 1;

/// Everything that a run reads before it starts.
pub struct Inputs {
    /// Folder or file of the base.
    pub model: PathBuf,
    /// Its tokenizer.
    pub codec: Codec,
    /// Tasks of all orders that the protocol names.
    pub tasks: BTreeMap<String, PreparedTask>,
    /// All orders of the stream.
    orders: Vec<Vec<String>>,
    /// Data files, for the lock.
    pub data_files: Inventory,
    /// Files of the base, for the lock.
    pub model_files: Inventory,
}

/// A task, cut to its limits and encoded.
pub struct PreparedTask {
    /// Training rows, for the draw of the memory.
    train_rows: Vec<Row>,
    /// Training rows.
    pub train: Arc<Vec<Encoded>>,
    /// Test rows.
    pub test: TestSet,
    /// What its score is.
    pub score: ScoreKind,
    /// What is known about it; the memory is the draw's to say.
    note: TaskNote,
}

impl Inputs {
    /// Reads and encodes all tasks that the protocol's orders name; `out` takes the files that the
    /// program brings along.
    pub fn load(protocol: &Protocol, out: &Path) -> Result<Self> {
        let unpacked = out.join("embedded");
        let model = match &protocol.model {
            Some(model) => hub::resolve(model)?,
            None => embedded::unpack_base(&unpacked, protocol.arch.unwrap_or_default())?,
        };
        let (stream, root) = match (protocol.stream(), &protocol.data) {
            (Some(stream), Some(data)) => (stream, data.clone()),
            (Some(_), None) => bail!(BadInput(
                "no folder of task files is given (--data DIR)".into()
            )),
            (None, Some(_)) => bail!(BadInput(
                "the embedded stream brings its own data; leave out --data".into()
            )),
            (None, None) => embedded::unpack_stream(&unpacked)?,
        };
        protocol.check_stream(&stream)?;
        let codec = Codec::of_model(&model, &protocol.template)?;
        let limits = Limits {
            max_input: protocol.limits.max_input,
            max_target: protocol.limits.max_target,
        };
        let mut tasks = BTreeMap::new();
        let mut files = Vec::new();
        for name in protocol.task_names(&stream) {
            let task = PreparedTask::load(protocol, stream.layout, &root, &name, &codec, limits)
                .or_bad_input(|| format!("reading task {name}"))?;
            files.extend(task_files(stream.layout, &root, &name)?);
            tasks.insert(name, task);
        }
        files.sort();
        files.dedup();
        let model_files = kif_model::model_files(&model)
            .or_bad_input(|| format!("reading model {}", model.display()))?;
        let mut model_files: Vec<PathBuf> = model_files
            .into_iter()
            .chain(codec.path().map(Path::to_owned))
            .chain(match &protocol.template {
                TemplateSetting::File(path) => Some(path.clone()),
                TemplateSetting::Plain | TemplateSetting::Alpaca => None,
            })
            .collect();
        model_files.sort();
        model_files.dedup();
        Ok(Self {
            codec,
            tasks,
            orders: stream.orders,
            data_files: Inventory::new(&root, files),
            model_files: Inventory::new(root_of(&model), model_files),
            model,
        })
    }

    /// Task names of an order, counted from 1.
    pub fn order(&self, order: usize) -> &[String] {
        &self.orders[order - 1]
    }

    /// Positions of the rows that each of the first `n_tasks` tasks of an order leaves in the
    /// memory, once so many were learned. `highest` are those with the highest losses, which only a
    /// run knows, of each of them.
    pub fn kept(
        &self,
        protocol: &Protocol,
        (order, seed): (usize, u64),
        n_tasks: usize,
        highest: &[Vec<usize>],
    ) -> Vec<Vec<usize>> {
        let MemorySettings { fraction, policy } = protocol.memory;
        let tasks: Vec<&PreparedTask> = self.order(order).iter().map(|t| self.task(t)).collect();
        match policy {
            MemoryPolicy::ClassBalanced | MemoryPolicy::Random => (tasks[..n_tasks].iter())
                .enumerate()
                .map(|(i, task)| draw_memory(&task.train_rows, fraction, policy, seed, i as u64))
                .collect(),
            MemoryPolicy::Reservoir => {
                let n_rows: Vec<usize> = tasks.iter().map(|task| task.train.len()).collect();
                let capacity = tasks.iter().map(|task| task.budget(protocol)).sum();
                reservoir(&n_rows[..n_tasks], capacity, seed)
            }
            MemoryPolicy::HighestLoss => {
                let of = |i: usize| highest.get(i).cloned().unwrap_or_default();
                (0..n_tasks).map(of).collect()
            }
        }
    }

    /// A task that is known to be there.
    pub fn task(&self, name: &str) -> &PreparedTask {
        &self.tasks[name]
    }
}

impl PreparedTask {
    fn load(
        protocol: &Protocol,
        layout: Layout,
        root: &Path,
        name: &str,
        codec: &Codec,
        limits: Limits,
    ) -> Result<Self> {
        let mut task = load_task(layout, root, name)?;
        let all_labels = labels(&task.train);
        if protocol.evaluation.validation > 0.0 {
            hold_out(&mut task, protocol.evaluation.validation);
        }
        let train_rows = subset(task.train, protocol.limits.train_rows);
        let test_rows = subset(task.test, protocol.limits.test_rows);
        let score = protocol.score_kind(name);
        let n_labels = all_labels.len();
        let train = codec.encode_rows(&train_rows, limits)?;
        let test = TestSet::new(&test_rows, codec, limits, score, Some(all_labels))?;
        let n_cut = |rows: &[Encoded]| rows.iter().filter(|row| row.cut).count();
        let note = TaskNote {
            name: name.to_owned(),
            score,
            train_rows: train.len(),
            test_rows: test.n_rows(),
            memory_rows: 0,
            kept: Vec::new(),
            train_cut: n_cut(&train),
            test_cut: n_cut(&test.encoded),
            n_labels,
            majority: majority(&train_rows, &test, score, codec)?,
        };
        Ok(Self {
            train_rows,
            train: Arc::new(train),
            test,
            score,
            note,
        })
    }

    /// What is known about it, with the positions of the rows that it leaves in the memory.
    pub fn note(&self, kept: Vec<usize>) -> TaskNote {
        TaskNote {
            memory_rows: kept.len(),
            kept,
            ..self.note.clone()
        }
    }

    /// Rows that it adds to the memory.
    pub fn budget(&self, protocol: &Protocol) -> usize {
        memory_rows(self.train.len(), protocol.memory.fraction)
    }
}

/// What the names of a base's files start behind: its folder, or that of its only file.
fn root_of(model: &Path) -> &Path {
    match model.parent() {
        Some(parent) if model.is_file() => parent,
        _ => model,
    }
}

/// Puts validation rows, cut from the training rows, in the place of the test rows. The same rows
/// for every method, order and seed.
fn hold_out(task: &mut Task, fraction: f64) {
    let (train, validation) = validation_split(task.train.len(), fraction, SUBSET_SEED, 0);
    let choose = |indices: &[usize]| indices.iter().map(|&i| task.train[i].clone()).collect();
    (task.train, task.test) = (choose(&train), choose(&validation));
}

fn subset(rows: Vec<Row>, limit: Option<usize>) -> Vec<Row> {
    match limit {
        Some(limit) if limit < rows.len() => class_balanced_subset(&rows, limit, SUBSET_SEED)
            .into_iter()
            .map(|i| rows[i].clone())
            .collect(),
        _ => rows,
    }
}

/// The score of always answering the most frequent first reference of the training rows; the first
/// seen of equals.
fn majority(train: &[Row], test: &TestSet, score: ScoreKind, codec: &Codec) -> Result<f64> {
    let mut counts: Vec<(String, usize)> = Vec::new();
    let mut slots: BTreeMap<String, usize> = BTreeMap::new();
    for row in train {
        let Some(first) = codec.references(row)?.into_iter().next() else {
            continue;
        };
        let slot = *slots.entry(first.clone()).or_insert(counts.len());
        if slot == counts.len() {
            counts.push((first, 0));
        }
        counts[slot].1 += 1;
    }
    let best = counts
        .iter()
        .rev()
        .max_by_key(|(_, n)| n)
        .map_or("", |(answer, _)| answer.as_str());
    let value = |references: &Vec<String>| match score {
        ScoreKind::Exact | ScoreKind::Labels => f64::from(u8::from(exact_match(best, references))),
        ScoreKind::RougeL => best_rouge_l(best, references),
    };
    Ok(test.references.iter().map(value).sum::<f64>() / test.n_rows().max(1) as f64)
}
