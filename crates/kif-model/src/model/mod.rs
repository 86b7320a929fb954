//! A language model over an [`Engine`]: what does not depend on the architecture is written here,
//! once.
//!
//! [`Core`] holds what every architecture has: parameters, embedding, head, adapters, routers and
//! soft prompts. A [`Network`] is the rest: its layers, and how they read a prompt and continue it.

mod build;
mod cache;
mod core;
mod distributions;
mod insights;
mod layer;
mod parts;
mod prompts;
mod recompute;
mod routing;
mod write;

use std::borrow::Cow;
use std::ops::Range;

use dfdx::prelude::{Backward, Gradients, NoneTape, OwnedTape, PutTape, SplitTape, Tape};
use kif_data::{Batch, Ragged};

pub(crate) use self::build::{Builder, Sizes};
pub(crate) use self::cache::Cache;
pub(crate) use self::core::{Core, Goal};
pub(crate) use self::layer::{Linear, Param, shared_input};
pub(crate) use self::parts::{AdapterPass, spans};
pub(crate) use self::recompute::Segments;
use crate::engine::{Act, Engine, Loss, device_error};
use crate::{
    BatchLoss, Distributions, Dropout, Insights, LanguageModel, ModelError, ParamLayout, Prompted,
    RowRouted, SlotRouted,
};

/// What a network reads: the prompts, and how rows are routed.
pub(crate) struct Reading<'a, E: Engine, T = NoneTape> {
    /// The prompts behind their soft prompts, whose ids lie behind the vocabulary.
    pub(crate) inputs: Cow<'a, Ragged>,
    /// How much each adapter counts for each row, `[B, n_slots]`, where rows are routed.
    pub(crate) weights: Option<Act<E::Device>>,
    /// The tape of the weights.
    pub(crate) tape: T,
}

/// The tape of a pass that is gone back along.
pub(crate) type Recorded<E> = OwnedTape<f32, <E as Engine>::Device>;

/// The loss of every target token in nats, and the backward pass as far as the network goes.
pub(crate) type Recomputed<E> = (Vec<f32>, Segments<<E as Engine>::Device>);

/// The layers of an architecture.
pub(crate) trait Network<E: Engine>: Sized {
    /// What it keeps of texts that are being written.
    type Written;

    /// Whether prompts that begin alike have that read once, where nothing else tells rows apart.
    const SHARES_BEGINNINGS: bool;

    /// All weights, trained ones among them, without those of the core.
    fn params_mut(&mut self) -> Vec<&mut Param<E>>;

    /// The table that embeds prompts.
    fn text_embedding<'a>(&'a self, core: &'a Core<E>) -> &'a Param<E>;

    /// The last hidden states at every target position under teacher forcing, `[target tokens, D]`,
    /// and the tape of side branches, which has to be merged into the loss.
    fn hidden<T: Tape<f32, E::Device>>(
        &self,
        core: &Core<E>,
        reading: &Reading<'_, E, T>,
        targets: &Ragged,
        dropout: Option<Dropout>,
    ) -> Result<(Act<E::Device, T>, T), ModelError>;

    /// Loss and backward pass of the same, with the activations of one block at a time.
    fn recomputed(
        &self,
        core: &Core<E>,
        reading: &Reading<'_, E>,
        targets: &Ragged,
        dropout: Option<Dropout>,
        compare: impl FnOnce(
            Act<E::Device, Recorded<E>>,
        ) -> Result<Loss<E::Device, Recorded<E>>, ModelError>,
    ) -> Result<Recomputed<E>, ModelError>;

    /// Reads the prompts: a text for each, and the logits of its first token, `[B, V]`.
    fn begin(
        &self,
        core: &Core<E>,
        reading: &Reading<'_, E>,
    ) -> Result<(Self::Written, Vec<f32>), ModelError>;

    /// Text i now goes on from what was text `from[i]`, with the token `ids[i]`: the logits of the
    /// next, `[texts, V]`. `from` ascends by prompt.
    fn append_tokens(
        &self,
        core: &Core<E>,
        written: &mut Self::Written,
        from: &[usize],
        ids: &[u32],
    ) -> Result<Vec<f32>, ModelError>;
}

/// A network with its core.
pub(crate) struct Model<E: Engine, N: Network<E>> {
    core: Core<E>,
    network: N,
}

impl<E: Engine, N: Network<E>> Model<E, N> {
    pub(crate) fn new(core: Core<E>, network: N) -> Self {
        Self { core, network }
    }

    /// All weights, trained ones among them.
    fn params_mut(&mut self) -> Vec<&mut Param<E>> {
        let mut all = self.core.params_mut();
        all.extend(self.network.params_mut());
        all
    }

    /// Where each trained tensor lies in the flat vector, by slot.
    fn ranges(&self) -> Vec<Range<usize>> {
        let specs = self.core.layout.specs().iter();
        specs.map(|spec| spec.range.clone()).collect()
    }

    /// Adds the gradients of what is trained to `grad`, `[P]`.
    fn add_gradients(
        &mut self,
        gradients: &mut Gradients<f32, E::Device>,
        grad: &mut [f32],
    ) -> Result<(), ModelError> {
        let n_params = self.core.layout.n_params();
        assert_eq!(grad.len(), n_params, "length of the gradient");
        let ranges = self.ranges();
        let engine = self.core.engine.clone();
        for param in self.params_mut() {
            if let Some(slot) = param.slot {
                let into = &mut grad[ranges[slot].clone()];
                engine.add_gradient(&param.weight, gradients, into)?;
            }
        }
        Ok(())
    }

    fn table(&self) -> &Param<E> {
        self.network.text_embedding(&self.core)
    }

    /// What the network reads of `texts`.
    fn read<'a, T: Tape<f32, E::Device>>(
        &self,
        texts: &'a Ragged,
    ) -> Result<Reading<'a, E, T>, ModelError> {
        let (weights, tape) = match self.core.row_weights::<T>(self.table(), texts)? {
            None => (None, T::default()),
            Some(weights) => {
                let (weights, tape) = weights.split_tape();
                (Some(weights), tape)
            }
        };
        Ok(Reading {
            inputs: self.core.behind_prompts(self.table(), texts)?,
            weights,
            tape,
        })
    }

    /// The last hidden states at every target position, and the tape of side branches and routing.
    fn hidden<T: Tape<f32, E::Device>>(
        &self,
        batch: &Batch,
        dropout: Option<Dropout>,
    ) -> Result<(Act<E::Device, T>, T), ModelError> {
        let reading = self.read::<T>(&batch.inputs)?;
        let (hidden, tape) = self
            .network
            .hidden(&self.core, &reading, &batch.targets, dropout)?;
        Ok((hidden, tape.merge(reading.tape)))
    }

    /// `weight * sum(loss)` with its tape, and the loss of every target token.
    fn loss<T: Tape<f32, E::Device>>(
        &self,
        batch: &Batch,
        goal: Goal<'_>,
        weight: f32,
        dropout: Option<Dropout>,
    ) -> Result<Loss<E::Device, T>, ModelError> {
        let (hidden, lower_tape) = self.hidden::<T>(batch, dropout)?;
        let (loss, losses) = self.core.compare(hidden, goal, weight)?;
        let (loss, tape) = loss.split_tape();
        Ok((loss.put_tape(tape.merge(lower_tape)), losses))
    }

    /// As [`loss`](Self::loss) and its backward pass, with one block's activations at a time.
    fn recomputed_loss(
        &self,
        batch: &Batch,
        goal: Goal<'_>,
        weight: f32,
        dropout: Option<Dropout>,
    ) -> Result<Recomputed<E>, ModelError> {
        let reading = self.read(&batch.inputs)?;
        let compare = |hidden| self.core.compare(hidden, goal, weight);
        let (losses, mut segments) =
            self.network
                .recomputed(&self.core, &reading, &batch.targets, dropout, compare)?;
        let again = self.core.row_weights(self.table(), &batch.inputs)?;
        if let (Some(first), Some(again)) = (&reading.weights, again) {
            segments = segments.backward(again, first)?;
        }
        Ok((losses, segments))
    }

    /// Adds the gradient of `weight * sum(loss)` to `grad` and returns the loss of every target
    /// token.
    fn add_gradient(
        &mut self,
        batch: &Batch,
        goal: Goal<'_>,
        weight: f32,
        dropout: Option<Dropout>,
        grad: &mut [f32],
    ) -> Result<Vec<f32>, ModelError> {
        self.check_batch(batch)?;
        let (losses, mut gradients) = if self.core.recompute {
            let (losses, segments) = self.recomputed_loss(batch, goal, weight, dropout)?;
            (losses, segments.gradients)
        } else {
            let (loss, losses) = self.loss::<Recorded<E>>(batch, goal, weight, dropout)?;
            (losses, loss.try_backward().map_err(device_error)?)
        };
        self.add_gradients(&mut gradients, grad)?;
        Ok(losses)
    }

    fn check_batch(&self, batch: &Batch) -> Result<(), ModelError> {
        assert_eq!(
            batch.inputs.n_rows(),
            batch.targets.n_rows(),
            "rows of a batch"
        );
        self.core.check_rows(&batch.inputs)?;
        self.core.check_rows(&batch.targets)
    }
}

/// Sums the values that belong to each row, in f64.
fn sum_rows(values: &[f32], rows: &Ragged) -> Vec<f64> {
    rows.offsets()
        .windows(2)
        .map(|w| values[w[0]..w[1]].iter().map(|&x| f64::from(x)).sum())
        .collect()
}

impl<E: Engine, N: Network<E>> LanguageModel for Model<E, N> {
    fn layout(&self) -> &ParamLayout {
        &self.core.layout
    }

    fn params(&self) -> &[f32] {
        &self.core.params
    }

    fn set_params(&mut self, params: &[f32]) -> Result<(), ModelError> {
        let expected = self.core.layout.n_params();
        if params.len() != expected {
            return Err(ModelError::ParamCount {
                got: params.len(),
                expected,
            });
        }
        self.core.params.copy_from_slice(params);
        let ranges = self.ranges();
        let engine = self.core.engine.clone();
        for param in self.params_mut() {
            if let Some(slot) = param.slot {
                param.set(&engine, &params[ranges[slot].clone()])?;
            }
        }
        Ok(())
    }

    fn loss_and_grad(
        &mut self,
        batch: &Batch,
        weight: f32,
        dropout: Option<Dropout>,
        grad: &mut [f32],
    ) -> Result<BatchLoss, ModelError> {
        let goal = Goal::Ids(batch.targets.ids());
        let nll = self.add_gradient(batch, goal, weight, dropout, grad)?;
        Ok(BatchLoss {
            nll: nll.iter().map(|&x| f64::from(x)).sum(),
            n_tokens: nll.len(),
        })
    }

    fn nll_per_row(&self, batch: &Batch) -> Result<Vec<f64>, ModelError> {
        self.check_batch(batch)?;
        let goal = Goal::Ids(batch.targets.ids());
        let (_, nll) = self.loss::<NoneTape>(batch, goal, 1.0, None)?;
        Ok(sum_rows(&nll, &batch.targets))
    }

    fn generate(
        &self,
        prompts: &[&[u32]],
        max_new_tokens: usize,
    ) -> Result<Vec<Vec<u32>>, ModelError> {
        let prompts = Ragged::from_rows(prompts);
        self.core.check_rows(&prompts)?;
        self.greedy(&prompts, max_new_tokens)
    }

    fn label_scores(
        &self,
        prompts: &[&[u32]],
        labels: &[Vec<u32>],
    ) -> Result<Vec<Vec<f64>>, ModelError> {
        let prompts = Ragged::from_rows(prompts);
        self.core.check_rows(&prompts)?;
        self.core.check_rows(&Ragged::from_rows(labels))?;
        self.score_labels(&prompts, labels)
    }

    fn shares_beginnings(&self) -> bool {
        N::SHARES_BEGINNINGS && self.core.instance_router.is_none() && self.core.prompts.is_none()
    }

    fn vocab_size(&self) -> usize {
        self.core.vocab_size
    }

    fn slot_routed(&self) -> Option<&dyn SlotRouted> {
        self.core.side_by_side.as_ref().map(|it| it as _)
    }

    fn slot_routed_mut(&mut self) -> Option<&mut dyn SlotRouted> {
        self.core.side_by_side.as_mut().map(|it| it as _)
    }

    fn row_routed(&self) -> Option<&dyn RowRouted> {
        self.core.instance_router.is_some().then_some(self)
    }

    fn row_routed_mut(&mut self) -> Option<&mut dyn RowRouted> {
        self.core.instance_router.is_some().then_some(self)
    }

    fn prompted(&self) -> Option<&dyn Prompted> {
        self.core.prompts.as_ref().map(|prompts| prompts as _)
    }

    fn prompted_mut(&mut self) -> Option<&mut dyn Prompted> {
        self.core.prompts.as_mut().map(|prompts| prompts as _)
    }

    fn distributions(&self) -> Option<&dyn Distributions> {
        Some(self)
    }

    fn distributions_mut(&mut self) -> Option<&mut dyn Distributions> {
        Some(self)
    }

    fn insights(&self) -> Option<&dyn Insights> {
        Some(self)
    }
}
