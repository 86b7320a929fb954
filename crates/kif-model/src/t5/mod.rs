//! T5 (v1.0: relu, tied head; v1.1 and Flan: gated gelu, own head), written once over [`Engine`].

mod build;
mod forward;
mod generate;
mod look;
mod position;
mod prompts;
mod recompute;
mod routing;

use std::cell::RefCell;
use std::ops::Range;

use dfdx::prelude::{Backward, Gradients, NoneTape, OwnedTape};
use kif_data::{Batch, Ragged};

use crate::engine::{Engine, device_error};
use crate::files::T5Config;
use crate::{
    BatchLoss, Dropout, LanguageModel, LoraConfig, ModelError, ParamLayout, Routing, Sampling,
};
use forward::Goal;

/// A weight, and where it lies in the flat parameter vector if it is trained.
struct Param<E: Engine> {
    weight: E::Weight,
    /// Index into the layout's specs.
    slot: Option<usize>,
}

/// The trained low-rank part of a linear layer.
struct Adapter<E: Engine> {
    a: Param<E>,
    b: Param<E>,
    /// alpha / R.
    scale: f32,
    /// Number of this layer among those with an adapter: names its dropout stream.
    stream: u64,
    /// G `[n_slots, in]`, where tokens are routed.
    router: Option<Param<E>>,
}

/// A linear layer without bias.
struct Linear<E: Engine> {
    weight: Param<E>,
    adapter: Option<Adapter<E>>,
}

impl<E: Engine> Linear<E> {
    fn params_mut<'a>(&'a mut self, into: &mut Vec<&'a mut Param<E>>) {
        into.push(&mut self.weight);
        if let Some(adapter) = &mut self.adapter {
            into.push(&mut adapter.a);
            into.push(&mut adapter.b);
            into.extend(&mut adapter.router);
        }
    }
}

/// Norm, attention, residual.
struct AttentionLayer<E: Engine> {
    norm: Param<E>,
    q: Linear<E>,
    k: Linear<E>,
    v: Linear<E>,
    o: Linear<E>,
}

/// Norm, feed-forward block, residual.
struct FeedForward<E: Engine> {
    norm: Param<E>,
    /// `wi`, or `wi_0` where the block is gated.
    wi: Linear<E>,
    /// `wi_1`.
    up: Option<Linear<E>>,
    wo: Linear<E>,
}

struct Block<E: Engine> {
    attention: AttentionLayer<E>,
    /// Attention to the encoder's output; decoder only.
    cross: Option<AttentionLayer<E>>,
    feed_forward: FeedForward<E>,
}

/// Encoder or decoder.
struct Stack<E: Engine> {
    /// Its own token embedding, where it is not the shared one.
    embedding: Option<Param<E>>,
    /// Table `[buckets, H]` of the first block, used by all.
    position_bias: Param<E>,
    blocks: Vec<Block<E>>,
    final_norm: Param<E>,
}

/// A T5 on engine `E`.
pub(crate) struct T5<E: Engine> {
    engine: E,
    config: T5Config,
    layout: ParamLayout,
    params: Vec<f32>,
    /// Whether a step computes activations twice instead of keeping them.
    recompute: bool,
    shared: Param<E>,
    /// The output head, where it is not `shared`.
    head: Option<Param<E>>,
    encoder: Stack<E>,
    decoder: Stack<E>,
    /// What chooses between adapters side by side, and the settings of the adapter that they make.
    routing: Option<Routing>,
    lora: Option<LoraConfig>,
    instance_router: Option<routing::InstanceRouter<E>>,
    /// What a pass gathers for those who look inside.
    look: RefCell<Option<look::Look>>,
    prompts: Option<prompts::SoftPrompts<E>>,
}

impl<E: Engine> T5<E> {
    /// All weights, trained ones among them, in the order of the layout.
    fn params_mut(&mut self) -> Vec<&mut Param<E>> {
        let mut all = vec![&mut self.shared];
        for stack in [&mut self.encoder, &mut self.decoder] {
            all.extend(&mut stack.embedding);
            all.push(&mut stack.position_bias);
            for block in &mut stack.blocks {
                for layer in [Some(&mut block.attention), block.cross.as_mut()]
                    .into_iter()
                    .flatten()
                {
                    all.push(&mut layer.norm);
                    for linear in [&mut layer.q, &mut layer.k, &mut layer.v, &mut layer.o] {
                        linear.params_mut(&mut all);
                    }
                }
                let feed_forward = &mut block.feed_forward;
                all.push(&mut feed_forward.norm);
                feed_forward.wi.params_mut(&mut all);
                if let Some(up) = &mut feed_forward.up {
                    up.params_mut(&mut all);
                }
                feed_forward.wo.params_mut(&mut all);
            }
            all.push(&mut stack.final_norm);
        }
        all.extend(&mut self.head);
        all.extend(
            self.instance_router
                .iter_mut()
                .flat_map(|router| router.params_mut()),
        );
        all.extend(self.prompts.as_mut().map(|prompts| &mut prompts.rows));
        all
    }

    /// Where each trained tensor lies in the flat vector, by slot.
    fn ranges(&self) -> Vec<Range<usize>> {
        let specs = self.layout.specs().iter();
        specs.map(|spec| spec.range.clone()).collect()
    }

    /// Adds the gradients of what is trained to `grad`, `[P]`.
    fn add_gradients(
        &mut self,
        gradients: &mut Gradients<f32, E::Device>,
        grad: &mut [f32],
    ) -> Result<(), ModelError> {
        assert_eq!(grad.len(), self.layout.n_params(), "length of the gradient");
        let ranges = self.ranges();
        let engine = self.engine.clone();
        for param in self.params_mut() {
            if let Some(slot) = param.slot {
                let into = &mut grad[ranges[slot].clone()];
                engine.add_gradient(&param.weight, gradients, into)?;
            }
        }
        Ok(())
    }

    fn embedding<'a>(&'a self, stack: &'a Stack<E>) -> &'a Param<E> {
        stack.embedding.as_ref().unwrap_or(&self.shared)
    }

    fn head(&self) -> &E::Weight {
        &self.head.as_ref().unwrap_or(&self.shared).weight
    }

    /// Factor on the decoder's output before the head.
    fn logit_scale(&self) -> f32 {
        if self.config.scales_logits() {
            (self.config.d_model as f32).powf(-0.5)
        } else {
            1.0
        }
    }

    fn check_rows(&self, rows: &Ragged) -> Result<(), ModelError> {
        for (row, ids) in rows.rows().enumerate() {
            if ids.is_empty() {
                return Err(ModelError::EmptyRow { row });
            }
            if let Some(&id) = ids
                .iter()
                .find(|&&id| id as usize >= self.config.vocab_size)
            {
                return Err(ModelError::TokenOutOfVocabulary {
                    id,
                    vocab_size: self.config.vocab_size,
                    row,
                });
            }
        }
        Ok(())
    }

    /// Adds the gradient of `weight * sum(loss)` to `grad` and returns the loss of every target token.
    fn add_gradient(
        &mut self,
        batch: &Batch,
        goal: Goal<'_>,
        weight: f32,
        dropout: Option<Dropout>,
        grad: &mut [f32],
    ) -> Result<Vec<f32>, ModelError> {
        self.check_batch(batch)?;
        let (losses, mut gradients) = if self.recompute {
            self.recomputed_loss(batch, goal, weight, dropout)?
        } else {
            type Tape<E> = OwnedTape<f32, <E as Engine>::Device>;
            let (loss, losses) = self.loss::<Tape<E>>(batch, goal, weight, dropout)?;
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
        self.check_rows(&batch.inputs)?;
        self.check_rows(&batch.targets)
    }
}

/// Sums the values that belong to each row, in f64.
fn sum_rows(values: &[f32], rows: &Ragged) -> Vec<f64> {
    rows.offsets()
        .windows(2)
        .map(|w| values[w[0]..w[1]].iter().map(|&x| f64::from(x)).sum())
        .collect()
}

impl<E: Engine> LanguageModel for T5<E> {
    fn layout(&self) -> &ParamLayout {
        &self.layout
    }

    fn params(&self) -> &[f32] {
        &self.params
    }

    fn set_params(&mut self, params: &[f32]) -> Result<(), ModelError> {
        let expected = self.layout.n_params();
        if params.len() != expected {
            return Err(ModelError::ParamCount {
                got: params.len(),
                expected,
            });
        }
        self.params.copy_from_slice(params);
        let ranges = self.ranges();
        let engine = self.engine.clone();
        for param in self.params_mut() {
            if let Some(slot) = param.slot {
                engine.set_weight(&mut param.weight, &params[ranges[slot].clone()]);
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

    fn target_logits(&self, batch: &Batch) -> Result<Vec<Vec<f32>>, ModelError> {
        self.check_batch(batch)?;
        let hidden = self.hidden::<NoneTape>(batch, None)?.0;
        let logits = self
            .engine
            .logits(hidden, self.head(), self.logit_scale())?;
        let vocab_size = self.config.vocab_size;
        let offsets = batch.targets.offsets();
        Ok(offsets
            .windows(2)
            .map(|w| logits[w[0] * vocab_size..w[1] * vocab_size].to_vec())
            .collect())
    }

    fn output_magnitudes(&self, batch: &Batch) -> Result<Vec<Vec<f32>>, ModelError> {
        self.check_batch(batch)?;
        self.magnitudes(batch)
    }

    fn layer_inputs(&self, batch: &Batch, at_most: usize) -> Result<Vec<Vec<f32>>, ModelError> {
        self.check_batch(batch)?;
        self.inputs(batch, at_most)
    }

    fn routing(&self) -> Option<Routing> {
        self.routing
    }

    fn set_open_slots(&mut self, open_slots: usize) -> Result<(), ModelError> {
        let (Some(routing), Some(lora)) = (self.routing, &self.lora) else {
            return Err(ModelError::Unsupported {
                what: "open slots of a model that does not route".to_owned(),
            });
        };
        let routing = Routing {
            open_slots,
            ..routing
        };
        routing.check(lora)?;
        self.routing = Some(routing);
        Ok(())
    }

    fn routing_weights(&self, batch: &Batch) -> Result<Vec<f32>, ModelError> {
        self.check_rows(&batch.inputs)?;
        self.weights_on_host(batch)
    }

    fn add_routing_gradient(
        &mut self,
        batch: &Batch,
        by_weights: &[f32],
        grad: &mut [f32],
    ) -> Result<(), ModelError> {
        self.check_rows(&batch.inputs)?;
        let mut gradients = self.routing_gradients(batch, by_weights)?;
        self.add_gradients(&mut gradients, grad)
    }

    fn generate(
        &self,
        prompts: &[&[u32]],
        max_new_tokens: usize,
    ) -> Result<Vec<Vec<u32>>, ModelError> {
        let prompts = Ragged::from_rows(prompts);
        self.check_rows(&prompts)?;
        self.greedy(&prompts, max_new_tokens)
    }

    fn sample(
        &self,
        prompts: &[&[u32]],
        keys: &[[u8; 32]],
        sampling: Sampling,
    ) -> Result<Vec<Vec<Vec<u32>>>, ModelError> {
        let prompts = Ragged::from_rows(prompts);
        self.check_rows(&prompts)?;
        assert_eq!(prompts.n_rows(), keys.len(), "a key for every text");
        self.drawn(&prompts, keys, sampling)
    }

    fn divergence_and_grad(
        &mut self,
        batch: &Batch,
        log_probs: &[Vec<f32>],
        weight: f32,
        grad: &mut [f32],
    ) -> Result<f64, ModelError> {
        let log_probs = log_probs.concat();
        let n_values = batch.targets.n_tokens() * self.config.vocab_size;
        assert_eq!(log_probs.len(), n_values, "probabilities of all targets");
        let losses = self.add_gradient(batch, Goal::LogProbs(&log_probs), weight, None, grad)?;
        Ok(losses.iter().map(|&x| f64::from(x)).sum())
    }

    fn activate_prompts(&mut self, prompts: &[usize]) -> Result<(), ModelError> {
        self.activate(prompts)
    }

    fn active_prompts(&self) -> &[usize] {
        self.prompts.as_ref().map_or(&[], |prompts| &prompts.active)
    }

    fn mean_embeddings(&self, texts: &Ragged) -> Result<Vec<f32>, ModelError> {
        self.check_rows(texts)?;
        T5::mean_embeddings(self, texts)
    }

    fn label_scores(
        &self,
        prompts: &[&[u32]],
        labels: &[Vec<u32>],
    ) -> Result<Vec<Vec<f64>>, ModelError> {
        let prompts = Ragged::from_rows(prompts);
        self.check_rows(&prompts)?;
        self.check_rows(&Ragged::from_rows(labels))?;
        self.score_labels(&prompts, labels)
    }

    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }
}
