//! Where importance masks lie: shares of parameters by kind and layer, from the traces of a
//! method's records.

use std::collections::BTreeMap;

use crate::record::{FusionTrace, Record, TaskFusion};

/// Which parameters are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Region {
    /// Important to the new task alone.
    InnerOnly,
    /// Important to the memory alone.
    OuterOnly,
    /// Important to both.
    Both,
    /// Important to neither.
    Neither,
}

impl Region {
    /// All four.
    pub(crate) const ALL: [Self; 4] = [Self::InnerOnly, Self::OuterOnly, Self::Both, Self::Neither];

    /// Its name in the report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::InnerOnly => "new task only",
            Self::OuterOnly => "memory only",
            Self::Both => "both",
            Self::Neither => "neither",
        }
    }
}

/// What a kind of parameter is, such as `encoder self q A`, and the layer that it is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ModelPlace {
    /// Stack, attention, projection, and A or B.
    pub(crate) kind: String,
    /// Number of the block, from 0.
    pub(crate) layer: usize,
}

impl ModelPlace {
    /// Of a tensor's name, such as `encoder.block.0.layer.0.SelfAttention.q.lora_A.weight`. A name
    /// of another form is a kind of its own.
    pub(crate) fn of(tensor: &str) -> Self {
        let parts: Vec<&str> = tensor.split('.').collect();
        let block = parts.iter().position(|part| *part == "block");
        let layer = block.and_then(|at| parts.get(at + 1)?.parse().ok());
        let stack = parts
            .iter()
            .find(|part| ["encoder", "decoder"].contains(part));
        let lora = parts.iter().position(|part| part.starts_with("lora_"));
        let (Some(layer), Some(stack), Some(lora)) = (layer, stack, lora) else {
            let kind = tensor.to_owned();
            return Self { kind, layer: 0 };
        };
        let inside = match parts[lora.saturating_sub(2)] {
            "SelfAttention" => "self",
            "EncDecAttention" => "cross",
            "DenseReluDense" => "feed-forward",
            other => other,
        };
        let (projection, matrix) = (parts[lora - 1], &parts[lora]["lora_".len()..]);
        Self {
            kind: format!("{stack} {inside} {projection} {matrix}"),
            layer,
        }
    }
}

/// Shares of a method's parameters by region, over the tasks of one order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Density {
    /// Order, from 1.
    pub(crate) order: usize,
    /// Kinds in the order of the adapter.
    pub(crate) kinds: Vec<String>,
    /// Layers of the deepest kind.
    pub(crate) n_layers: usize,
    /// The tasks that were fused.
    pub(crate) tasks: Vec<TaskDensity>,
}

/// Shares of one task: means over its rounds and over seeds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TaskDensity {
    /// Its name.
    pub(crate) task: String,
    /// Rounds, a mean over seeds.
    pub(crate) rounds: f64,
    /// Shares of all parameters, in the order of [`Region::ALL`].
    pub(crate) overall: [f64; 4],
    /// `[kinds]`, of all layers together.
    pub(crate) by_kind: Vec<[f64; 4]>,
    /// `[kinds][layers]`; none where a kind has no such layer.
    pub(crate) by_layer: Vec<Vec<Option<[f64; 4]>>>,
}

impl Density {
    /// Of `records`, which have one method and one order, where all have a trace of the same
    /// tensors.
    pub(super) fn of(records: &[&Record]) -> Option<Self> {
        let traces: Option<Vec<&FusionTrace>> = records
            .iter()
            .map(|record| record.fusion.as_ref())
            .collect();
        let (traces, record) = (traces?, records.first()?);
        let first = *traces.first()?;
        let alike = |trace: &&FusionTrace| {
            let tasks =
                |trace: &FusionTrace| trace.tasks.iter().map(|t| t.task).collect::<Vec<_>>();
            trace.tensors == first.tensors && tasks(trace) == tasks(first)
        };
        if !traces.iter().all(alike) || first.tasks.is_empty() {
            return None;
        }
        let places: Vec<ModelPlace> = first
            .tensors
            .iter()
            .map(|name| ModelPlace::of(name))
            .collect();
        let mut kinds: Vec<String> = Vec::new();
        for place in &places {
            if !kinds.contains(&place.kind) {
                kinds.push(place.kind.clone());
            }
        }
        let n_layers = 1 + places.iter().map(|place| place.layer).max()?;
        let tasks = (0..first.tasks.len())
            .map(|i| {
                let same: Vec<_> = traces.iter().map(|trace| &trace.tasks[i]).collect();
                let name = record.tasks.get(first.tasks[i].task);
                let task = name.cloned().unwrap_or_default();
                task_density(task, &same, &first.sizes, &places, (&kinds, n_layers))
            })
            .collect();
        Some(Self {
            order: record.order,
            kinds,
            n_layers,
            tasks,
        })
    }
}

/// Parameters of a group of tensors, and those in three of the regions, summed over rounds.
#[derive(Clone, Copy, Default)]
struct Sum {
    size: f64,
    chosen: [f64; 3],
}

impl Sum {
    fn add(&mut self, task: &TaskFusion, tensor: usize, size: u64) {
        self.size += task.rounds as f64 * size as f64;
        let counts = [&task.inner_only, &task.outer_only, &task.both];
        for (sum, counts) in self.chosen.iter_mut().zip(counts) {
            *sum += counts.get(tensor).copied().unwrap_or_default() as f64;
        }
    }

    fn shares(&self) -> [f64; 4] {
        let [inner, outer, both] = self.chosen.map(|n| n / self.size.max(1.0));
        [inner, outer, both, 1.0 - inner - outer - both]
    }
}

fn task_density(
    task: String,
    same: &[&TaskFusion],
    sizes: &[u64],
    places: &[ModelPlace],
    (kinds, n_layers): (&[String], usize),
) -> TaskDensity {
    let mut overall = Sum::default();
    let mut by_kind: BTreeMap<usize, Sum> = BTreeMap::new();
    let mut by_layer: BTreeMap<(usize, usize), Sum> = BTreeMap::new();
    for fusion in same {
        for (tensor, (place, size)) in places.iter().zip(sizes).enumerate() {
            let kind = kinds
                .iter()
                .position(|kind| *kind == place.kind)
                .unwrap_or_default();
            overall.add(fusion, tensor, *size);
            by_kind.entry(kind).or_default().add(fusion, tensor, *size);
            let cell = by_layer.entry((kind, place.layer)).or_default();
            cell.add(fusion, tensor, *size);
        }
    }
    let rounds: f64 = same.iter().map(|fusion| fusion.rounds as f64).sum();
    TaskDensity {
        task,
        rounds: rounds / same.len() as f64,
        overall: overall.shares(),
        by_kind: by_kind.values().map(Sum::shares).collect(),
        by_layer: (0..kinds.len())
            .map(|kind| {
                let cell = |layer| by_layer.get(&(kind, layer)).map(Sum::shares);
                (0..n_layers).map(cell).collect()
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_kind_and_layer() {
        let place = ModelPlace::of("decoder.block.11.layer.1.EncDecAttention.v.lora_B.weight");
        let kind = "decoder cross v B".to_owned();
        assert_eq!(place, ModelPlace { kind, layer: 11 });
        let place = ModelPlace::of(
            "base_model.model.encoder.block.0.layer.0.SelfAttention.q.lora_A.weight",
        );
        assert_eq!((place.kind.as_str(), place.layer), ("encoder self q A", 0));
        let place = ModelPlace::of("decoder.block.2.layer.2.DenseReluDense.wi_0.lora_A.weight");
        assert_eq!(place.kind, "decoder feed-forward wi_0 A");
        let kind = "toy.lora_A.weight".to_owned();
        assert_eq!(ModelPlace::of(&kind), ModelPlace { kind, layer: 0 });
    }

    #[test]
    fn shares_are_means_over_rounds_and_parameters() {
        let name = |block: usize, matrix: &str| {
            format!("encoder.block.{block}.layer.0.SelfAttention.q.lora_{matrix}.weight")
        };
        let places = [name(0, "A"), name(0, "B"), name(1, "A")].map(|name| ModelPlace::of(&name));
        let kinds = ["encoder self q A", "encoder self q B"].map(str::to_owned);
        let fusion = TaskFusion {
            task: 1,
            rounds: 2,
            inner_only: vec![10, 0, 0],
            outer_only: vec![0, 10, 5],
            both: vec![2, 0, 15],
        };
        let density = task_density(
            "a".to_owned(),
            &[&fusion],
            &[10, 5, 10],
            &places,
            (&kinds, 2),
        );
        assert_eq!(density.overall, [0.2, 0.3, 0.34, 1.0 - 0.2 - 0.3 - 0.34]);
        assert_eq!(density.by_kind[0][..3], [0.25, 0.125, 17.0 / 40.0]);
        assert_eq!(density.by_kind[1], [0.0, 1.0, 0.0, 0.0]);
        assert_eq!(density.by_layer[0][1].unwrap()[2], 0.75);
        assert_eq!(density.by_layer[1][1], None);
    }
}
