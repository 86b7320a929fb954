//! Where the trainable parameters lie in their one flat vector.

use std::ops::Range;

use crate::ModelError;

/// What stands behind the module's name for A, `[R, in]`.
pub const LORA_A: &str = ".lora_A.weight";
/// What stands behind the module's name for B, `[out, R]`.
pub const LORA_B: &str = ".lora_B.weight";

/// What a trainable parameter is a part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamGroup {
    /// The base itself.
    Base,
    /// A LoRA adapter.
    Lora,
    /// Soft prompts, `[n_prompts, length, D]`.
    Prompts,
    /// The keys that a pool of prompts is chosen by, `[n_prompts, D]`.
    PromptKeys,
    /// What says how much each adapter side by side counts ([`Routing`](crate::Routing)), except
    /// for keys.
    Router,
    /// The keys of adapters side by side, `[n_slots, D]`, of a router that has some.
    SlotKeys,
}

/// One trainable matrix or vector in the flat parameter vector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamSpec {
    /// The name that PEFT (adapters) or Hugging Face (bases) gives it.
    pub name: String,
    /// Its shape there, row-major: LoRA A is `[R, in]`, B is `[out, R]`.
    pub shape: Vec<usize>,
    /// Where it lies in the flat vector.
    pub range: Range<usize>,
    /// What it is a part of.
    pub group: ParamGroup,
}

impl ParamSpec {
    /// R of a LoRA A `[R, in]` or B `[out, R]`; nothing else has one.
    pub fn rank(&self) -> Option<usize> {
        match (self.shape.as_slice(), &self.name) {
            (&[rank, _], name) if name.ends_with(LORA_A) => Some(rank),
            (&[_, rank], name) if name.ends_with(LORA_B) => Some(rank),
            _ => None,
        }
    }
}

/// Names, shapes and places of all trainable parameters: P values in one flat `&[f32]`.
///
/// A LoRA adapter of rank R T can be read as T adapters of rank R side by side, its *slots*: slot t
/// has rows `t R..(t + 1) R` of every A and the same columns of every B, so `B A` is the sum of the
/// slots' products.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamLayout {
    specs: Vec<ParamSpec>,
    n_slots: usize,
}

impl Default for ParamLayout {
    fn default() -> Self {
        Self {
            specs: Vec::new(),
            n_slots: 1,
        }
    }
}

impl ParamLayout {
    /// The same parameters, read as `n_slots` adapters side by side. Fails unless there are only
    /// LoRA matrices whose rank is a multiple of `n_slots`, and what routes between them; 1 fits
    /// every layout.
    pub fn with_slots(self, n_slots: usize) -> Result<Self, ModelError> {
        assert!(n_slots > 0, "a layout of no slots was asked for");
        let fits = |spec: &ParamSpec| match spec.group {
            ParamGroup::Lora => spec.rank().is_some_and(|rank| rank.is_multiple_of(n_slots)),
            ParamGroup::Router | ParamGroup::SlotKeys => true,
            ParamGroup::Base | ParamGroup::Prompts | ParamGroup::PromptKeys => false,
        };
        match self.specs.iter().find(|spec| n_slots > 1 && !fits(spec)) {
            None => Ok(Self { n_slots, ..self }),
            Some(ParamSpec { name, shape, .. }) => Err(ModelError::Lora {
                field: "rank",
                problem: format!("{name} {shape:?} is not {n_slots} adapters side by side"),
            }),
        }
    }

    /// Number of adapters side by side; 1 unless [`with_slots`](Self::with_slots) said otherwise.
    pub fn n_slots(&self) -> usize {
        self.n_slots
    }

    /// Where the matrices of slot `slot` lie in the flat vector, in ascending order; everything if
    /// there is one slot.
    pub fn slot(&self, slot: usize) -> Vec<Range<usize>> {
        assert!(
            slot < self.n_slots,
            "slot {slot} of {} was asked for",
            self.n_slots
        );
        let of_spec = |spec: &ParamSpec| {
            // Columns of B come row by row; everything else is one run.
            let by_columns = self.n_slots > 1 && spec.name.ends_with(LORA_B);
            let n_runs = if by_columns { spec.shape[0] } else { 1 };
            let stride = spec.range.len() / n_runs;
            let (len, start) = (stride / self.n_slots, spec.range.start);
            (0..n_runs)
                .map(move |run| start + run * stride + slot * len)
                .map(move |at| at..at + len)
        };
        let of_slot = |spec: &&ParamSpec| self.n_slots == 1 || spec.group == ParamGroup::Lora;
        self.specs
            .iter()
            .filter(of_slot)
            .flat_map(of_spec)
            .collect()
    }

    /// Where the key of slot `slot` lies in the flat vector, if slots have keys.
    pub fn slot_key(&self, slot: usize) -> Option<Range<usize>> {
        let keys = self.group(ParamGroup::SlotKeys).pop()?;
        let width = keys.len() / self.n_slots;
        let start = keys.start + slot * width;
        Some(start..start + width)
    }

    /// Adds a parameter behind the last one and returns its index. Its name says whether it belongs
    /// to an adapter or to the base.
    pub fn push(&mut self, name: String, shape: Vec<usize>) -> usize {
        let is_lora = name.ends_with(LORA_A) || name.ends_with(LORA_B);
        let group = if is_lora {
            ParamGroup::Lora
        } else {
            ParamGroup::Base
        };
        self.push_to(group, name, shape)
    }

    /// Adds a parameter of `group` behind the last one and returns its index.
    pub fn push_to(&mut self, group: ParamGroup, name: String, shape: Vec<usize>) -> usize {
        let start = self.n_params();
        let len = shape.iter().product::<usize>();
        self.specs.push(ParamSpec {
            name,
            shape,
            range: start..start + len,
            group,
        });
        self.specs.len() - 1
    }

    /// Where the parameters of `group` lie in the flat vector, in ascending order.
    pub fn group(&self, group: ParamGroup) -> Vec<Range<usize>> {
        let of_group = self.specs.iter().filter(|spec| spec.group == group);
        of_group.map(|spec| spec.range.clone()).collect()
    }

    /// Where the rows of each soft prompt lie in the flat vector; empty for a model without
    /// prompts.
    pub fn prompts(&self) -> Vec<Range<usize>> {
        let specs = self
            .specs
            .iter()
            .filter(|spec| spec.group == ParamGroup::Prompts);
        let of_spec = |spec: &ParamSpec| {
            let (n_prompts, start) = (spec.shape[0], spec.range.start);
            let len = spec.range.len() / n_prompts;
            (0..n_prompts).map(move |i| start + i * len..start + (i + 1) * len)
        };
        specs.flat_map(of_spec).collect()
    }

    /// All parameters, in the order of the flat vector.
    pub fn specs(&self) -> &[ParamSpec] {
        &self.specs
    }

    /// P, the length of the flat vector.
    pub fn n_params(&self) -> usize {
        self.specs.last().map_or(0, |s| s.range.end)
    }

    /// The parameter that holds flat index `i`.
    pub fn name_at(&self, i: usize) -> Option<&str> {
        let at = self.specs.partition_point(|s| s.range.end <= i);
        self.specs.get(at).map(|s| s.name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(shape_a: [usize; 2], shape_b: [usize; 2]) -> ParamLayout {
        let mut layout = ParamLayout::default();
        layout.push(format!("q{LORA_A}"), shape_a.to_vec());
        layout.push(format!("q{LORA_B}"), shape_b.to_vec());
        layout
    }

    #[test]
    fn slots_are_rows_of_a_and_columns_of_b() {
        let layout = layout([4, 3], [2, 4]).with_slots(2).unwrap();
        assert_eq!(layout.slot(0), [0..6, 12..14, 16..18]);
        assert_eq!(layout.slot(1), [6..12, 14..16, 18..20]);
    }

    #[test]
    fn what_routes_belongs_to_no_slot() {
        let mut layout = layout([4, 3], [2, 4]);
        layout.push_to(ParamGroup::Router, "router.q".into(), vec![2, 3]);
        layout.push_to(ParamGroup::SlotKeys, "slot_keys".into(), vec![2, 5]);
        let layout = layout.with_slots(2).unwrap();
        assert_eq!(layout.slot(1), [6..12, 14..16, 18..20]);
        assert_eq!(layout.group(ParamGroup::Router), vec![20..26; 1]);
        assert_eq!(layout.slot_key(1), Some(31..36));
        assert_eq!(layout.group(ParamGroup::Lora).len(), 2);
    }

    #[test]
    fn one_slot_is_everything_and_ranks_that_cannot_be_shared_are_refused() {
        let whole = layout([4, 3], [2, 4]);
        assert_eq!(whole.slot(0), [0..12, 12..20]);
        assert_eq!(whole.clone().with_slots(1).unwrap(), whole);
        let error = whole.with_slots(3).unwrap_err().to_string();
        assert!(
            error.contains("q.lora_A.weight [4, 3] is not 3 adapters side by side"),
            "{error}"
        );
        let mut base = ParamLayout::default();
        base.push("shared.weight".into(), vec![4, 4]);
        assert!(base.with_slots(2).is_err());
    }
}
