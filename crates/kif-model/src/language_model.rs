//! The border: what the rest of the workspace knows about a model.

use std::ops::Range;

use kif_data::{Batch, Ragged};

use crate::files::{LORA_A, LORA_B};
use crate::{ModelError, Routing};

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
    /// What says how much each adapter side by side counts ([`Routing`]), except for keys.
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
/// A LoRA adapter of rank R T can be read as T adapters of rank R side by side, its *slots*: slot t has rows
/// `t R..(t + 1) R` of every A and the same columns of every B, so `B A` is the sum of the slots' products.
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
    /// The same parameters, read as `n_slots` adapters side by side. Fails unless there are only LoRA matrices whose
    /// rank is a multiple of `n_slots`, and what routes between them; 1 fits every layout.
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

    /// Where the matrices of slot `slot` lie in the flat vector, in ascending order; everything if there is one slot.
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

    /// Adds a parameter behind the last one and returns its index. Its name says whether it belongs to an adapter or
    /// to the base.
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

    /// Where the rows of each soft prompt lie in the flat vector; empty for a model without prompts.
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

/// Dropout on the input of every LoRA A, keyed so that any pass can be repeated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Share of inputs set to zero, in `[0, 1)`; the others are divided by `1 - p`.
    pub p: f32,
    /// Key of the pass ([`kif_data::chance::key`]).
    pub key: [u8; 32],
}

/// How texts are drawn from a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampling {
    /// Every token is drawn among so many of the likeliest ones, by their probabilities. At least 1.
    pub top_k: usize,
    /// A text is over behind so many end tokens: it has so many parts. At least 1.
    pub n_parts: usize,
    /// Longest text in tokens, end tokens included.
    pub max_new_tokens: usize,
}

/// What a pass over a batch cost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BatchLoss {
    /// Sum over all target tokens of the negative log-likelihood, in nats.
    pub nll: f64,
    /// Number of target tokens, end tokens included.
    pub n_tokens: usize,
}

/// A language model with P trainable parameters in one flat vector.
///
/// Encoder-decoder models read `batch.inputs` with the encoder and predict `batch.targets`; decoder-only models predict
/// the targets behind the inputs. Either way the loss is taken on target tokens alone. Token ids outside the
/// vocabulary and empty rows are errors.
pub trait LanguageModel {
    /// Names and places of the trainable parameters.
    fn layout(&self) -> &ParamLayout;

    /// The trainable parameters, `[P]`.
    fn params(&self) -> &[f32];

    /// Replaces the trainable parameters by `params`, `[P]`.
    fn set_params(&mut self, params: &[f32]) -> Result<(), ModelError>;

    /// Adds the gradient of `weight * sum(nll)` to `grad` (`[P]`) and returns the unweighted loss.
    fn loss_and_grad(
        &mut self,
        batch: &Batch,
        weight: f32,
        dropout: Option<Dropout>,
        grad: &mut [f32],
    ) -> Result<BatchLoss, ModelError>;

    /// Sum of nats over each row's target tokens, `[B]`, without dropout.
    fn nll_per_row(&self, batch: &Batch) -> Result<Vec<f64>, ModelError>;

    /// Logits at every target position under teacher forcing: per row `[T, V]`, row-major, without dropout.
    fn target_logits(&self, batch: &Batch) -> Result<Vec<Vec<f32>>, ModelError>;

    /// Mean absolute output of every row of every trained LoRA matrix over all tokens of the batch that it reads,
    /// without dropout: per parameter of the layout `[R]` for A (of `A x`) and `[out]` for B (of `B A x`, unscaled);
    /// nothing for other parameters. A model that cannot look inside itself refuses.
    fn output_magnitudes(&self, _batch: &Batch) -> Result<Vec<Vec<f32>>, ModelError> {
        Err(ModelError::Unsupported {
            what: "output magnitudes of this model".to_owned(),
        })
    }

    /// Up to `at_most` of the vectors that every trained LoRA A reads in a pass over `batch`, spread evenly over all tokens,
    /// without dropout: per parameter of the layout `[n, in]` for A, nothing for other parameters. A model that cannot
    /// look inside itself refuses.
    fn layer_inputs(&self, _batch: &Batch, _at_most: usize) -> Result<Vec<Vec<f32>>, ModelError> {
        Err(ModelError::Unsupported {
            what: "inputs of the layers of this model".to_owned(),
        })
    }

    /// What chooses between its adapters side by side; nothing where they add up.
    fn routing(&self) -> Option<Routing> {
        None
    }

    /// From now on the first `open_slots` adapters share the work, at least one and at most all. A model that does not route
    /// refuses.
    fn set_open_slots(&mut self, _open_slots: usize) -> Result<(), ModelError> {
        Err(not_routed("open slots"))
    }

    /// How much every adapter counts for every row of the batch, `[B, n_slots]`, as its inputs say; targets are not read.
    /// A model that does not route whole rows refuses.
    fn routing_weights(&self, _batch: &Batch) -> Result<Vec<f32>, ModelError> {
        Err(not_routed("routing weights"))
    }

    /// Adds to `grad` (`[P]`) the gradient of a function of [`routing_weights`](Self::routing_weights) whose derivatives
    /// with respect to them are `by_weights`, `[B, n_slots]`.
    fn add_routing_gradient(
        &mut self,
        _batch: &Batch,
        _by_weights: &[f32],
        _grad: &mut [f32],
    ) -> Result<(), ModelError> {
        Err(not_routed("a routing gradient"))
    }

    /// Greedy continuations, at most `max_new_tokens` each; the end token is not part of them.
    fn generate(
        &self,
        prompts: &[&[u32]],
        max_new_tokens: usize,
    ) -> Result<Vec<Vec<u32>>, ModelError>;

    /// Continuations that are drawn, not greedy: text i by the key `keys[i]` alone ([`kif_data::chance::key`]),
    /// whatever texts are beside it. The finished parts of each, end tokens included; fewer than asked for where
    /// `max_new_tokens` were not enough. A model that cannot draw refuses.
    fn sample(
        &self,
        _prompts: &[&[u32]],
        _keys: &[[u8; 32]],
        _sampling: Sampling,
    ) -> Result<Vec<Vec<Vec<u32>>>, ModelError> {
        Err(ModelError::Unsupported {
            what: "sampling from this model".to_owned(),
        })
    }

    /// Adds the gradient of `weight * sum(KL(q || p))` to `grad`, `[P]`, and returns the unweighted sum in nats. p is
    /// what the model predicts at every target position, without dropout, and q what `log_probs` says: row by row
    /// `[T, V]`, as made from [`target_logits`](Self::target_logits). A model that cannot be taught so refuses.
    fn divergence_and_grad(
        &mut self,
        _batch: &Batch,
        _log_probs: &[Vec<f32>],
        _weight: f32,
        _grad: &mut [f32],
    ) -> Result<f64, ModelError> {
        Err(ModelError::Unsupported {
            what: "learning from distributions with this model".to_owned(),
        })
    }

    /// The soft prompts that take part from now on, by number and in order
    /// ([`PromptConfig`](crate::PromptConfig)); without any, the model is its base. A model without prompts refuses all
    /// but an empty list.
    fn activate_prompts(&mut self, prompts: &[usize]) -> Result<(), ModelError> {
        no_prompts(prompts)
    }

    /// What was last activated.
    fn active_prompts(&self) -> &[usize] {
        &[]
    }

    /// Mean embedding of every text's tokens, `[B, D]`, without any prompt: what a pool of prompts is asked with.
    fn mean_embeddings(&self, _texts: &Ragged) -> Result<Vec<f32>, ModelError> {
        Err(ModelError::Unsupported {
            what: "mean embeddings of this model".to_owned(),
        })
    }

    /// Log-likelihood of every label (ids, end token included) for every prompt: `[B][labels]`, in nats.
    fn label_scores(
        &self,
        prompts: &[&[u32]],
        labels: &[Vec<u32>],
    ) -> Result<Vec<Vec<f64>>, ModelError>;

    /// Number of token ids, V.
    fn vocab_size(&self) -> usize;
}

fn not_routed(what: &str) -> ModelError {
    ModelError::Unsupported {
        what: format!("{what} of a model that does not route rows between adapters"),
    }
}

/// What a model without soft prompts says when some are activated.
pub(crate) fn no_prompts(prompts: &[usize]) -> Result<(), ModelError> {
    if prompts.is_empty() {
        return Ok(());
    }
    Err(ModelError::Unsupported {
        what: "a soft prompt in a model without them".to_owned(),
    })
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
