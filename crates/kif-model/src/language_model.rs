//! The border: what the rest of the workspace knows about a model.

use std::ops::Range;

use kif_data::Batch;

use crate::ModelError;

/// One trainable matrix or vector in the flat parameter vector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamSpec {
    /// The name that PEFT (adapters) or Hugging Face (bases) gives it.
    pub name: String,
    /// Its shape there, row-major: LoRA A is `[R, in]`, B is `[out, R]`.
    pub shape: Vec<usize>,
    /// Where it lies in the flat vector.
    pub range: Range<usize>,
}

/// Names, shapes and places of all trainable parameters: P values in one flat `&[f32]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParamLayout {
    specs: Vec<ParamSpec>,
}

impl ParamLayout {
    /// Adds a parameter behind the last one and returns its index.
    pub fn push(&mut self, name: String, shape: Vec<usize>) -> usize {
        let start = self.n_params();
        let len = shape.iter().product::<usize>();
        self.specs.push(ParamSpec {
            name,
            shape,
            range: start..start + len,
        });
        self.specs.len() - 1
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

    /// Greedy continuations, at most `max_new_tokens` each; the end token is not part of them.
    fn generate(
        &self,
        prompts: &[&[u32]],
        max_new_tokens: usize,
    ) -> Result<Vec<Vec<u32>>, ModelError>;

    /// Log-likelihood of every label (ids, end token included) for every prompt: `[B][labels]`, in nats.
    fn label_scores(
        &self,
        prompts: &[&[u32]],
        labels: &[Vec<u32>],
    ) -> Result<Vec<Vec<f64>>, ModelError>;

    /// Number of token ids, V.
    fn vocab_size(&self) -> usize;
}
